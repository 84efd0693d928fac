package bypass

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// TestPace: no more than a window's worth of flows is under way; the others wait in
// the order in which they were asked for, and say so.
func TestPace(t *testing.T) {
	l, m, p := bareLoop(t)
	var offered []uint64
	m.cfg.Send = func(_ overlay.PeerID, b []byte) bool {
		msg, err := l.codec.decode(b)
		require.NoError(t, err)
		if msg.Kind == msgOffer {
			offered = append(offered, msg.ID)
		}
		return true
	}
	const flows = 3 * maxMoving
	now := time.Now()
	for range 2 { // asking again changes nothing
		for i := range flows {
			l.request(m, manyFlow(i), Verdict{Bypass: true}, now)
		}
	}
	l.settle()
	require.Len(t, offered, maxMoving)
	require.Equal(t, maxMoving, p.queue.moving)
	s, _ := m.Status(manyFlow(maxMoving))
	require.Equal(t, OnOverlay, s.State)
	require.Equal(t, ReasonQueued, s.Reason)

	for n := range flows { // each that is through lets one follow, however it ended
		id := offered[n]
		require.Equal(t, manyFlow(n), p.txns[id].flow(), "out of order")
		if n%2 == 0 {
			l.onFlowMessage(p, message{Kind: msgReject, ID: id, Reason: ReasonPolicy}, now)
		} else {
			tu := p.txns[id].t.tuple.tuple()
			l.onFlowMessage(p, message{Kind: msgAccept, ID: id, Local: tu.remote, Remote: tu.local}, now)
			l.settle()
			l.onFlowMessage(p, message{Kind: msgDone, ID: id}, now)
		}
		l.settle()
		require.Len(t, offered, min(flows, maxMoving+n+1))
		require.LessOrEqual(t, p.queue.moving, maxMoving)
	}
	require.Zero(t, p.queue.moving)
	require.Empty(t, p.queue.waiting)
}

// TestPaceEnds: what waits for its turn does not outlive its reason to, and does not
// wait for ever when all that is under way comes to nothing.
func TestPaceEnds(t *testing.T) {
	l, m, p := bareLoop(t)
	now := time.Now()
	for i := range 2 * maxMoving {
		l.request(m, manyFlow(i), Verdict{Bypass: true}, now)
	}
	p.proof.phase, p.proof.reason = proofFailed, ReasonProofTimeout
	l.disproven(p, now)
	l.settle()
	require.Zero(t, p.queue.moving)
	require.Empty(t, p.queue.waiting)
	s, _ := m.Status(manyFlow(2*maxMoving - 1))
	require.Equal(t, ReasonProofTimeout, s.Reason)
	p.proof.phase = proofFresh
	l.proven(p, now)
	require.Equal(t, maxMoving, p.queue.moving, "they are wanted still")
}

// TestBatch: changes go together unless they touch the same thing; gates that close
// go alone, so that nothing holds them up.
func TestBatch(t *testing.T) {
	rule := func(id uint32, port uint16) Rule {
		local, remote := peerAddrs(1)
		return Rule{ID: id, Direction: Inbound, Flow: manyFlow(int(id)), Local: netip.AddrPortFrom(local, port), Remote: netip.AddrPortFrom(remote, port)}
	}
	add := func(id uint32, port uint16) Change { return Change{Add: []Rule{rule(id, port)}} }
	gates := Change{Leases: []Lease{{Peer: 1, Proto: TCP}}}
	for _, c := range []struct {
		first, second Change
		joins         bool
	}{
		{add(1, 1), add(2, 2), true},
		{add(1, 1), add(1, 2), false},
		{add(1, 1), add(2, 1), false},
		{add(1, 1), Change{Remove: []Rule{rule(1, 1)}}, false},
		{add(1, 1), Change{Remove: []Rule{rule(2, 2)}}, true},
		{add(1, 1), gates, false},
		{gates, add(1, 1), false},
		{Change{Leases: gates.Leases, Add: []Rule{rule(1, 1)}}, add(2, 2), true},
		{Change{Leases: gates.Leases, Add: []Rule{rule(1, 1)}}, Change{Leases: gates.Leases, Add: []Rule{rule(2, 2)}}, false},
	} {
		b := newBatch()
		require.True(t, b.join(c.first))
		require.Equal(t, c.joins, b.join(c.second), "%v then %v", c.first, c.second)
	}
	b, n := newBatch(), uint32(0)
	for b.join(add(n, uint16(n))) {
		n++
	}
	require.EqualValues(t, maxBatch, n)
}

// TestShareOfAPeer: a peer that has its share of all flows gets no more, whoever begins
// them; those of another one begin.
func TestShareOfAPeer(t *testing.T) {
	l, m, p := bareLoop(t)
	for range maxPeerFlows {
		p.flows[&entry{}] = struct{}{}
	}
	now := time.Now()
	l.request(m, manyFlow(0), Verdict{Bypass: true}, now)
	require.Nil(t, m.find(manyFlow(0)))
	offer := message{SrcMAC: tap.MAC{2, 2}, DstMAC: tap.MAC{2, 1}, Proof: 9,
		Local: netip.AddrPortFrom(p.pair.Remote, 61500), Remote: netip.AddrPortFrom(p.pair.Local, 61501)}
	_, r := l.consider(p, manyFlow(1), offer, now)
	require.Equal(t, ReasonPorts, r)
	l.request(m, manyFlow(ofPeer), Verdict{Bypass: true}, now)
	require.Equal(t, phaseOffered, m.find(manyFlow(ofPeer)).t.phase, "another peer's")
	for e := range p.flows {
		delete(p.flows, e)
		break
	}
	_, r = l.consider(p, manyFlow(1), offer, now)
	require.Equal(t, ReasonNone, r)
}

// TestOffersCross: of two offers that cross, that of the lower PeerID goes on, and the
// other end gives its own up at once.
func TestOffersCross(t *testing.T) {
	for _, lower := range []bool{true, false} {
		l, m, p := bareLoop(t)
		now := time.Now()
		l.request(m, manyFlow(0), Verdict{Bypass: true}, now)
		require.Equal(t, phaseOffered, m.find(manyFlow(0)).t.phase)
		if !lower {
			m.cfg.Self = overlay.PeerID{9}
		}
		_, r := l.consider(p, manyFlow(0), message{SrcMAC: tap.MAC{2, 2}, DstMAC: tap.MAC{2, 1}, Proof: 9,
			Local: netip.AddrPortFrom(p.pair.Remote, 61500), Remote: netip.AddrPortFrom(p.pair.Local, 61501)}, now)
		phases := map[bool]phase{true: phaseOffered, false: phaseOverlay}
		reasons := map[bool]Reason{true: ReasonGlare, false: ReasonNone}
		require.Equal(t, phases[lower], m.find(manyFlow(0)).t.phase)
		require.Equal(t, reasons[lower], r)
	}
}
