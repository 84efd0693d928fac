package bypass

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/tap"
)

func hopRoute(local, via string) Route {
	return Route{Local: netip.MustParseAddr(local), Via: netip.MustParseAddr(via),
		Src: tap.MAC{2, 0x99, 0, 0, 0, 1}, NextHop: tap.MAC{2, 0x99, 0, 0, 0, 2}}
}

// The bytes are those of Linux asking the same, but for the padding.
func TestSolicit(t *testing.T) {
	bridge := tap.MAC{2, 0x99, 0, 0, 0, 0xb}
	for name, c := range map[string]struct {
		route    Route
		anywhere bool
		want     string
	}{
		"ARP, anywhere": {hopRoute("10.1.0.1", "10.1.0.254"), true, "ffffffffffff 029900000001 0806" +
			"0001 0800 06 04 0001 029900000001 0a010001 000000000000 0a0100fe 000000000000000000000000000000000000"},
		"ARP, there": {hopRoute("10.1.0.1", "10.1.0.254"), false, "029900000002 029900000001 0806" +
			"0001 0800 06 04 0001 029900000001 0a010001 000000000000 0a0100fe 000000000000000000000000000000000000"},
		"ND, anywhere": {hopRoute("fd00::1", "fe80::1:2345"), true, "3333ff012345 029900000001 86dd" +
			"60000000 0020 3a ff fd000000000000000000000000000001 ff0200000000000000000001ff012345" +
			"87 00 SUM 00000000 fe800000000000000000000000012345 0101 029900000001"},
		"ND, there": {hopRoute("fd00::1", "fe80::1:2345"), false, "029900000002 029900000001 86dd" +
			"60000000 0020 3a ff fd000000000000000000000000000001 fe800000000000000000000000012345" +
			"87 00 SUM 00000000 fe800000000000000000000000012345 0101 029900000001"},
	} {
		frame := c.route.Solicit(c.anywhere)
		pkt := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
		require.Nil(t, pkt.ErrorLayer(), name)
		if nd, ok := pkt.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); ok {
			got := nd.Checksum
			require.NoError(t, nd.SetNetworkLayerForChecksum(pkt.NetworkLayer()))
			b := gopacket.NewSerializeBuffer()
			require.NoError(t, gopacket.SerializeLayers(b, gopacket.SerializeOptions{ComputeChecksums: true}, nd, gopacket.Payload(nd.Payload)))
			require.Equal(t, nd.Checksum, got, name)
			frame[56], frame[57] = 0, 0
		}
		require.Equal(t, strings.NewReplacer(" ", "", "SUM", "0000").Replace(c.want), hex.EncodeToString(frame), name)

		c.route.HostMAC = bridge
		frame = c.route.Solicit(c.anywhere)
		require.Equal(t, bridge, tap.MAC(frame[6:12]), "%s: the host's stack is elsewhere", name)
	}
	require.Nil(t, hopRoute("10.1.0.1", "fe80::1").Solicit(true), "an IPv4 route by an IPv6 router")
}

// frames is what a loop without workers would have sent.
func (l *loop) frames() int { return len(l.inject.take()) }

// Any number of peers behind a hop cost one question at a time; flows, one a few seconds.
func TestHopIsAskedOnce(t *testing.T) {
	l, now := &loop{inject: newWorker()}, time.Now()
	peers := make([]*peer, 100)
	for i := range peers {
		peers[i] = &peer{live: map[Proto]int{}}
		peers[i].proof.phase, peers[i].proof.route = proofFresh, hopRoute("10.1.0.1", "10.1.0.254")
	}
	ask := func(after time.Duration) int {
		now = now.Add(after)
		for _, p := range peers {
			l.askHop(p, now)
		}
		return l.frames()
	}
	require.Zero(t, ask(0), "no flow, and no ping unanswered")
	peers[0].live[TCP] = 1
	require.Equal(t, 1, ask(0), "a flow")
	require.Zero(t, ask(hopConfirm-1))
	require.Equal(t, 1, ask(1))
	for _, p := range peers {
		p.proof.half[0].waiting = now
	}
	require.Zero(t, ask(0), "the ping went out just now")
	require.Equal(t, 1, ask(proofPing), "unanswered")
	require.Zero(t, ask(hopAsk-1))
	require.Equal(t, 1, ask(1))
	peers[7].proof.route.Via = netip.MustParseAddr("10.1.0.253")
	require.Equal(t, 1, ask(0), "another hop")
	for _, p := range peers {
		p.proof.phase = proofFailed
	}
	require.Equal(t, 2, ask(time.Hour), "the path of both hops has just failed")
	for _, p := range peers {
		p.proof.begin(1, now)
	}
	require.Zero(t, ask(time.Hour), "no path")
	peers[1].proof.phase, peers[1].proof.half[1].sent = proofProbing, hopDoubt-1
	peers[1].proof.route = hopRoute("10.1.0.1", "10.1.0.254")
	require.Zero(t, ask(0), "a round that begins")
	peers[1].proof.half[1].sent++
	require.Equal(t, 1, ask(0), "a round in trouble")
}
