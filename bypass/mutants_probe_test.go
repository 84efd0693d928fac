package bypass

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestRetries: each failed round waits twice as long, up to a bound.
func TestRetries(t *testing.T) {
	p, now := &proof{}, time.Unix(1000, 0)
	for tries, want := range []time.Duration{1, 2, 4, 8, 15, 15, 15, 15, 15, 15, 15, 15, 15} {
		p.failQuietly(ReasonTimeout, now)
		require.Equal(t, now.Add(want*time.Second), p.deadline, "%d", tries)
		require.Zero(t, p.due())
	}
	p.tries = 63
	p.failQuietly(ReasonNone, now)
	require.Equal(t, now.Add(proofRetryMax), p.deadline)
	require.Equal(t, ReasonPeerFailed, p.reason)
	p.failQuietly(ReasonProving, now)
	require.Equal(t, now.Add(time.Second), p.deadline, "flows of an old address are leaving: nothing is wrong with the path")
	p.failQuietly(ReasonTimeout, now)
	require.Equal(t, now.Add(proofRetryMax), p.deadline, "but it does not make up for what was")
	p.again(now)
	require.Equal(t, now, p.deadline)
	p.failQuietly(ReasonTimeout, now)
	require.Equal(t, now.Add(time.Second), p.deadline)
	p = &proof{phase: proofFresh, tries: 3}
	p.again(now)
	require.Zero(t, p.deadline, "nothing has failed")
}

// TestRoundTimesOut: a round ends when its time is over, whatever it waits for.
func TestRoundTimesOut(t *testing.T) {
	for _, phase := range []proofPhase{proofAsked, proofListening, proofProbing} {
		x := newProofs(t)
		p := x.ends[0]
		p.ask(proofAddr(0), 1500, x.now)
		p.phase = phase
		end := x.now.Add(proofRound)
		p.half[0].ok, p.half[1].next = true, end.Add(1)
		require.Equal(t, end, p.due(), "%v", phase)
		require.Empty(t, p.tick(end.Add(-1), true))
		require.Len(t, p.tick(end, true), 1)
		require.Equal(t, ReasonTimeout, p.reason, "%v", phase)
	}
}

// TestVerdicts: why our own probes got nowhere.
func TestVerdicts(t *testing.T) {
	const slow = DefaultMaxRTT + 1
	for _, c := range []struct {
		seen     Reason
		reset    bool
		udp, tcp half
		want     Reason
	}{
		{ReasonProofNAT, true, half{}, half{}, ReasonProofNAT},
		{ReasonNone, true, half{rtt: slow}, half{}, ReasonProofStranger},
		{ReasonNone, false, half{rtt: slow}, half{}, ReasonProofRTT},
		{ReasonNone, false, half{rtt: DefaultMaxRTT}, half{}, ReasonProofTimeout},
		{ReasonNone, false, half{ok: true}, half{rtt: slow}, ReasonProofRTT},
		{ReasonNone, false, half{}, half{rtt: slow}, ReasonProofTimeout},
		{ReasonNone, false, half{ok: true}, half{rtt: DefaultMaxRTT}, ReasonProofTCP},
		{ReasonNone, false, half{}, half{ok: true}, ReasonProofTimeout},
		{ReasonNone, false, half{ok: true}, half{ok: true}, ReasonProofTimeout},
	} {
		p := newProofs(t).ends[0]
		p.seen, p.reset, p.half = c.seen, c.reset, [2]half{c.udp, c.tcp}
		require.Equal(t, c.want.String(), p.verdict().String(), "%+v", c)
	}
}

// TestOldAnswers: a ping's time is that of its own request, or, of one too long ago to
// be remembered, that of the oldest that is.
func TestOldAnswers(t *testing.T) {
	var h half
	t0 := time.Unix(1000, 0)
	for n := range uint32(20) {
		h.n = n + 1
		h.sentAt[h.n%8] = t0.Add(time.Duration(h.n) * time.Second)
	}
	now := t0.Add(21 * time.Second)
	for n, want := range map[uint32]time.Duration{20: 1, 14: 7, 13: 8, 12: 8, 1: 8} {
		require.Equal(t, want*time.Second, h.since(n, now), "%d", n)
	}
}

// TestProbesAreOneConnection: over TCP, both ends' segments are what two real stacks
// would send, for whatever on the path keeps track of connections.
func TestProbesAreOneConnection(t *testing.T) {
	x := newProofs(t)
	p := x.fresh()
	x.lost = func(*probe) bool { return x.now.Equal(time.Unix(1001, 0)) } // some are lost
	for range 12 {
		x.after(proofPing, true)
	}
	require.Equal(t, proofFresh, p.phase)
	from, to := p.from(), p.to()
	all := map[string]probe{}
	var next, theirs uint32 // sequence numbers of our next segment, and of the peer's
	segments := 0
	for _, pr := range x.sent[0] {
		switch {
		case pr.proto != TCP || pr.src != from:
			continue
		case pr.syn:
			require.False(t, pr.ack)
			next = pr.seq + 1
			continue
		}
		require.True(t, pr.ack)
		require.Equal(t, next, pr.seq)
		next += uint32(len(pr.text))
		segments++
		all[string(pr.text)] = pr
	}
	require.Equal(t, 13, segments)
	for _, pr := range x.sent[1] {
		if pr.proto != TCP || pr.src != to {
			continue
		}
		require.True(t, pr.ack)
		if pr.syn {
			require.Len(t, pr.text, 0)
			theirs = pr.seq + 1
			continue
		}
		_, _, n, ok := p.key.open(&pr, to, from)
		require.True(t, ok)
		for _, asked := range all {
			if _, _, m, _ := p.key.open(&asked, from, to); m == n {
				require.Equal(t, asked.num, pr.seq)
				require.Equal(t, theirs, pr.seq)
				require.Equal(t, asked.seq+uint32(len(asked.text)), pr.num)
				require.Equal(t, asked.size, pr.size)
				theirs += uint32(len(pr.text))
			}
		}
	}
	require.Equal(t, theirs, p.half[1].num)
	require.Equal(t, next, p.half[1].seq)
}

// TestRequestsAreCounted: an answer tells which request it answers.
func TestRequestsAreCounted(t *testing.T) {
	x := newProofs(t)
	p := x.fresh()
	first := [2]uint32{p.half[0].n + 1, p.half[1].n + 1}
	for range 3 {
		x.after(proofPing, true)
	}
	for i := range p.half {
		require.Equal(t, first[i]+2, p.half[i].n)
		require.Equal(t, 2*proofPing, p.half[i].since(first[i], x.now))
	}
}

// TestNarrowPath: a path that takes just what guests need is wide enough.
func TestNarrowPath(t *testing.T) {
	for mtu, ok := range map[int]bool{1500: true, 1501: false} {
		x := newProofs(t)
		x.ends[0].cfg.mtu, x.ends[1].cfg.mtu = mtu, mtu
		x.ask()
		require.Equal(t, ok, x.ends[0].fresh())
		if !ok {
			require.Equal(t, ReasonMTU, x.ends[0].reason)
		}
	}
}

// TestProofTimes: a path that breaks is given up before a guest's third retransmission,
// and a round's probes fit into the round.
func TestProofTimes(t *testing.T) {
	require.Less(t, proofStale+proofPing, 1400*time.Millisecond)
	require.Equal(t, 250*time.Millisecond, proofPing)
	require.Equal(t, 900*time.Millisecond, proofProbes*proofResend)
	require.Equal(t, 3*time.Second, proofRound)
	require.Equal(t, 5*time.Second, proofIdlePing)
	require.Equal(t, 15*time.Second, proofRetryMax)
	require.Equal(t, 2500*time.Millisecond, proofSlow)
}
