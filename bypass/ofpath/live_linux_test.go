package ofpath_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/internal/ovstest"
	"github.com/viasnet/vias/tap"
)

// liveEnd is one of two hosts whose uplinks the test joins.
type liveEnd struct {
	*ovsBench
	mac, uplink tap.MAC
	dp          bypass.Datapath
}

// TestIntegrationLive carries frames from workload to workload over two real switches: what
// arrives is what was sent, byte for byte, whatever stands in front of the transport.
func TestIntegrationLive(t *testing.T) {
	benches := newOVSBenches(t, ovstest.Start(t), 1, 2)
	var ends [2]*liveEnd
	for i, b := range benches {
		b.normal()
		dp, err := b.Open(t.Context())
		require.NoError(t, err)
		defer func() { require.NoError(t, dp.Close()) }()
		waitUp(t, dp)
		ends[i] = &liveEnd{b, tap.MAC{2, 0xa, 5: byte(i)}, tap.MAC{2, 0xc, 5: byte(i)}, dp}
	}
	var flows []bypass.Flow
	for i, pair := range [][2]string{{"192.168.7.1:40000", "192.168.7.2:80"}, {"[fd00:7::1]:40000", "[fd00:7::2]:80"}} {
		for _, proto := range []bypass.Proto{bypass.TCP, bypass.UDP} {
			f := bypass.Flow{Proto: proto, Src: netip.MustParseAddrPort(pair[0]), Dst: netip.MustParseAddrPort(pair[1])}
			flows = append(flows, f)
			under := [2]netip.AddrPort{netip.MustParseAddrPort("10.1.0.1:61731"), netip.MustParseAddrPort("10.1.0.2:62550")}
			if i == 1 {
				under = [2]netip.AddrPort{netip.MustParseAddrPort("[fd00:1::1]:61731"), netip.MustParseAddrPort("[fd00:1::2]:62550")}
			}
			ends[0].bypasses(ends[1], f, under[0], under[1], uint32(len(flows)))
			ends[1].bypasses(ends[0], f.Reverse(), under[1], under[0], uint32(len(flows)))
		}
	}
	for _, f := range flows {
		carries(t, ends[0], ends[1], f)
		carries(t, ends[1], ends[0], f.Reverse())
	}
}

// bypasses installs f, of e's workload to o's, with peer number n.
func (e *liveEnd) bypasses(o *liveEnd, f bypass.Flow, local, remote netip.AddrPort, n uint32) {
	port := e.Ofport(bypasstest.WorkloadA)
	var ips []netip.Addr
	for _, ip := range []string{"192.168.7.1", "192.168.7.2", "fd00:7::1", "fd00:7::2"} {
		ips = append(ips, netip.MustParseAddr(ip)) // both ends', for short
	}
	require.NoError(e.t, e.dp.Set(e.t.Context(), bypass.Base{
		Epoch: 1, Lease: time.Minute, Hops: []bypass.Hop{{ID: 1, Src: e.uplink, Dst: o.uplink}},
		Workloads: []bypass.Workload{{Ofport: port, MAC: e.mac, IPs: ips}},
	}))
	r := bypass.Rule{
		ID: n, Direction: bypass.Outbound, Flow: f, Local: local, Remote: remote,
		LocalMAC: e.mac, RemoteMAC: o.mac, Ofport: port, Hop: 1, Peer: n,
	}
	in := r
	in.Direction, in.Hop = bypass.Inbound, 0
	require.NoError(e.t, e.dp.Apply(e.t.Context(), bypass.Change{
		Leases: []bypass.Lease{{Peer: n, Proto: f.Proto, Local: local.Addr(), Remote: remote.Addr(), Outbound: time.Minute, Inbound: time.Minute}},
		Add:    []bypass.Rule{r, in},
	}))
}

// carries sends frames of f from one workload to the other one. Those of which Open vSwitch
// can be told that they are odd (tags, fragments) stay; those behind IPv6 extension headers,
// of which it cannot, are carried, and arrive as they were sent.
func carries(t *testing.T, from, to *liveEnd, f bypass.Flow) {
	t.Helper()
	plain := bypasstest.Packet{SrcMAC: from.mac, DstMAC: to.mac, Flow: f, Class: 0xb9, TTL: 61, Seq: 9, Flags: bypasstest.FlagACK, Payload: []byte("odd")}
	carried := []bypasstest.Packet{plain}
	if f.Src.Addr().Is6() {
		for _, exts := range [][]uint8{{bypasstest.ExtHopByHop}, {bypasstest.ExtDestination}, {bypasstest.ExtRouting},
			{bypasstest.ExtAuth}, {bypasstest.ExtFragment}, {bypasstest.ExtHopByHop, bypasstest.ExtRouting, bypasstest.ExtDestination}} {
			if exts[0] == bypasstest.ExtFragment && itest.Datapath(t) == itest.System {
				continue // a first fragment to the kernel, none to ovs-vswitchd: docs/datapaths.md
			}
			p := plain
			p.Ext = exts
			carried = append(carried, p)
		}
	}
	for _, p := range carried {
		from.Send(bypasstest.WorkloadA, p.Frame())
		wire := from.Recv(bypasstest.Uplink, 10*time.Second)
		require.NotNil(t, wire, "%v %v has not left", p.Flow, p.Ext)
		require.Equal(t, from.uplink, tap.MAC(wire[6:12]))
		to.Send(bypasstest.Uplink, wire)
		require.Equal(t, p.Frame(), to.Recv(bypasstest.WorkloadA, 10*time.Second), "%v %v", p.Flow, p.Ext)
	}
	for _, odd := range []func(*bypasstest.Packet){
		func(p *bypasstest.Packet) { p.More = true },
		func(p *bypasstest.Packet) { p.More, p.Fragment = true, 2 },
		func(p *bypasstest.Packet) { p.Fragment = 2 },
	} {
		p := plain
		odd(&p)
		from.Send(bypasstest.WorkloadA, p.Frame())
		require.Equal(t, p.Frame(), from.Recv(bypasstest.Plain, 10*time.Second), "%v %v %d", p.Flow, p.More, p.Fragment)
		require.Nil(t, from.Recv(bypasstest.Uplink, 20*time.Millisecond), "it has left by the uplink")
	}
}
