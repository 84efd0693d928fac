package bypass

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
)

// TestWhyChanges: flows that wait for a proof learn that it fails for another reason now.
func TestWhyChanges(t *testing.T) {
	l, m, p := bareLoop(t)
	now := time.Now()
	p.proof.phase, p.proof.reason, p.proof.deadline = proofFailed, ReasonProofTimeout, now.Add(time.Hour)
	l.request(m, manyFlow(0), Verdict{Bypass: true}, now)
	l.settle()
	reason := func() Reason { s, _ := m.Status(manyFlow(0)); return s.Reason }
	require.Equal(t, ReasonProofTimeout, reason())
	l.onProofMessage(p, message{Kind: msgRefuse, ID: 77, Reason: ReasonDomain}, now)
	require.Equal(t, p.proof.reason, reason())
	require.NotEqual(t, ReasonProofTimeout, reason())
	e := m.find(manyFlow(0))
	e.t.reason = ReasonQueued
	l.onProofMessage(p, message{Kind: msgRefuse, ID: 77, Reason: ReasonDomain}, now)
	require.Equal(t, ReasonQueued, e.t.reason, "nothing new")
}

// TestAbandonedFlows leave nothing behind but a tuple that rests.
func TestAbandonedFlows(t *testing.T) {
	l, m, p := bareLoop(t)
	now := time.Now()
	l.request(m, manyFlow(0), Verdict{Bypass: true}, now)
	l.settle()
	e := m.find(manyFlow(0))
	tu := e.t.tuple.tuple()
	require.Equal(t, phaseOffered, e.t.phase)
	require.Equal(t, 1, p.live[TCP])
	require.Equal(t, 1, p.queue.moving)
	l.abandon(e, now)
	require.Equal(t, phaseOverlay, e.t.phase)
	require.Zero(t, p.live[TCP])
	require.Zero(t, p.queue.moving)
	require.Empty(t, p.txns)
	require.Empty(t, l.byRule)
	rests := now.Add(max(l.cfg.Quarantine, l.longestLease(p)))
	require.False(t, l.ports.take(tu, rests.Add(-time.Millisecond)))
	require.True(t, l.ports.take(tu, rests))
	l.abandon(e, now)
	require.Zero(t, p.live[TCP], "it has ended already")
}

// TestGuardFollowsTheProof: what the proof changes of the slow half is told to the
// switch, and nothing is when it changes nothing.
func TestGuardFollowsTheProof(t *testing.T) {
	l, _, p := bareLoop(t)
	told := func(f func()) bool {
		before := l.base.version
		l.prove(p, func() []proofAction { f(); return nil })
		return l.base.version != before
	}
	p.proof.phase, p.proof.deadline = proofListening, time.Now().Add(time.Hour)
	require.False(t, told(func() {}))
	require.True(t, told(func() { p.proof.remote = netip.MustParseAddr("10.0.0.77") }), "the peer has another address")
	require.True(t, told(func() { p.proof.phase = proofProbing }))
}

// TestListenRulesGoAfterADrain: unless another round has begun meanwhile, which has put
// its own in their place.
func TestListenRulesGoAfterADrain(t *testing.T) {
	for phase := proofNone; phase <= proofFailed; phase++ {
		l, _, p := bareLoop(t)
		now := time.Now()
		p.proof.phase, p.proof.installed = proofFailed, []Rule{{ID: 1, Direction: Listen}}
		l.disproven(p, now)
		p.proof.phase = phase
		for _, timer := range l.timers.due(now.Add(l.cfg.Drain)) {
			timer.f()
		}
		removed := 0
		for _, c := range l.change.take() {
			removed += len(c.change.Remove)
		}
		listens := phase == proofListening || phase == proofProbing || phase == proofFresh
		require.Equal(t, listens, removed == 0, "%v", phase)
		if removed > 0 {
			l.unlisten(p)
			require.Empty(t, l.change.take(), "nothing is left")
		}
	}
}

// TestNewLink: it is a reason to look again at a path that failed.
func TestNewLink(t *testing.T) {
	for _, phase := range []proofPhase{proofFailed, proofProbing} {
		l, m, p := bareLoop(t)
		later := time.Now().Add(time.Hour)
		p.proof.phase, p.proof.deadline = phase, later
		l.linkUp(m, p.id)
		require.Equal(t, phase == proofFailed, p.proof.deadline.Before(later))
	}
}

// TestRestartedPeer: what was proven with its earlier run is proven no more.
func TestRestartedPeer(t *testing.T) {
	for phase, failed := range map[proofPhase]bool{proofNone: false, proofFresh: true, proofListening: true} {
		l, _, p := bareLoop(t)
		now := time.Now()
		p.proof.phase = phase
		l.reset(p, 8, now)
		require.EqualValues(t, 8, p.epoch)
		if !failed {
			require.Equal(t, phase, p.proof.phase)
			continue
		}
		require.Equal(t, proofFailed, p.proof.phase)
		require.Equal(t, ReasonPeerRestarted, p.proof.reason)
		require.Equal(t, now, p.proof.deadline, "again, at once")
	}
	l, _, p := bareLoop(t)
	p.epoch = 0
	l.reset(p, 8, time.Now())
	require.Equal(t, proofFresh, p.proof.phase, "it is the first that we hear of it")
}

// TestDroppedPeer: it is told when a proof ends with that, and only then.
func TestDroppedPeer(t *testing.T) {
	for phase := proofNone; phase <= proofFailed; phase++ {
		l, m, p := bareLoop(t)
		told := 0
		m.cfg.Send = func(overlay.PeerID, []byte) bool { told++; return true }
		p.proof.phase = phase
		l.drop(p)
		require.False(t, l.known(p))
		require.Equal(t, phase != proofNone && phase != proofFailed, told == 1, "%v", phase)
	}
}
