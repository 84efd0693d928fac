package bypass

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// higher is a proof of the end with the higher PeerID, just before Ready.
func higher(t *testing.T, now time.Time) *proof {
	trust, n := &Trust{}, uint32(0)
	require.NoError(t, trust.normal())
	p := &proof{cfg: proofConfig{
		self: overlay.PeerID{2}, peer: overlay.PeerID{1}, network: "n", epoch: 1, trust: trust, lease: 30 * time.Second,
		ports: newPorts(DefaultPorts, randomUint64), draw: randomUint64, ruleID: func() uint32 { n++; return n },
	}}
	peer := netip.MustParseAddr("10.0.0.1")
	p.challenged(message{Kind: msgChallenge, ID: 5, Epoch: 9, Nonce: make([]byte, 32), Addr: peer, MTU: 1500},
		Route{Local: netip.MustParseAddr("10.0.0.2"), Src: tap.MAC{2}, Via: peer, NextHop: tap.MAC{2, 7}, OnLink: true, MTU: 1500}, now)
	p.listens(now)
	require.Equal(t, proofListening, p.phase)
	return p
}

// No port is probed at a peer's word that is not set aside for probes.
func TestOnlyReservedPortsAreProbed(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, ports := range [][]uint16{{22, 22}, {65500, 22}, {61440, 65500}, {65500, 65500}} {
		p := higher(t, now)
		for _, a := range p.readied(message{Kind: msgReady, ID: 5, Ports: ports}, now) {
			_, probed := a.(emit)
			require.False(t, probed, "%v", ports)
		}
		require.Equal(t, ReasonPortRange, p.reason)
	}
	p := higher(t, now)
	require.Len(t, p.readied(message{Kind: msgReady, ID: 5, Ports: []uint16{65500, 65501}}, now), 2, "a datagram and a SYN")
}

// Only a reset that answers our own SYN says that a host's stack answers, and only when
// the peer is heard there too is that stack its own.
func TestForeignResets(t *testing.T) {
	now := time.Unix(1000, 0)
	p := higher(t, now)
	p.readied(message{Kind: msgReady, ID: 5, Ports: []uint16{65500, 65501}}, now)
	p.packet(&probe{proto: TCP, src: p.to(), dst: p.from(), rst: true, seq: 1, num: 1}, now)
	p.packet(&probe{proto: TCP, src: p.to(), dst: p.from(), rst: true, ack: true, num: p.half[1].seq + 1}, now)
	require.Equal(t, proofProbing, p.phase)
	p.heard = true
	require.Empty(t, p.judgeReset(now))
	p.heard = false
	p.packet(&probe{proto: TCP, src: p.to(), dst: p.from(), rst: true, ack: true, num: p.half[1].seq}, now)
	require.Equal(t, proofProbing, p.phase)
	p.packet(&probe{proto: TCP, src: p.to(), dst: p.from(), syn: true, ack: true, num: p.half[1].seq,
		seq: p.key.isn(&probe{proto: TCP, src: p.to(), dst: p.from()}, probeReply)}, now)
	require.Equal(t, ReasonHostStack, p.reason)
}

// Peers behind one router share its hop; peers on the link have one each.
func TestHopsAreByNextHop(t *testing.T) {
	l := &loop{box: newMailbox()}
	l.base.init()
	hop := func(via string, last byte) uint32 {
		return l.hopFor(Route{Via: netip.MustParseAddr(via), Src: tap.MAC{2, 1}, NextHop: tap.MAC{2, last}})
	}
	b, c := hop("10.0.0.2", 2), hop("10.0.0.3", 3)
	require.NotEqual(t, b, c)
	require.Equal(t, b, hop("10.0.0.2", 4), "a new MAC is no new hop")
	require.Equal(t, tap.MAC{2, 4}, l.base.hops[netip.MustParseAddr("10.0.0.2")].Dst)
}
