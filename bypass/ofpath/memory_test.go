package ofpath

import (
	"net/netip"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/tap"
)

// inUse is how much memory is in use.
func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestMemory: what is kept of a bypassed flow's two rules, beside what bypass.Host keeps
// (see bypass.TestMemory), with two addresses on each side and both families. Addresses are
// kept once for all flows between them.
func TestMemory(t *testing.T) {
	const flows = 100_000
	var guest, host [2][2]netip.Addr // by family
	for i := range byte(2) {
		guest[0][i], host[0][i] = netip.AddrFrom4([4]byte{192, 168, 9, i}), netip.AddrFrom4([4]byte{10, 1, 0, i})
		guest[1][i], host[1][i] = netip.AddrFrom16([16]byte{0xfd, 7, 15: i}), netip.AddrFrom16([16]byte{0xfd, 1, 15: i})
	}
	d := newDatapath(Config{}.withDefaults())
	defer d.cancel()
	d.layout.uplink = 1
	before := inUse()
	for i := range uint32(flows) {
		guest, host, port := guest[i%2], host[i%2], uint16(i/2)
		out := bypass.Rule{
			ID: i + 1, Direction: bypass.Outbound, Ofport: 3, Hop: 1, Peer: 1,
			Flow:  bypass.Flow{Proto: bypass.TCP, Src: netip.AddrPortFrom(guest[0], port), Dst: netip.AddrPortFrom(guest[1], 80)},
			Local: netip.AddrPortFrom(host[0], port), Remote: netip.AddrPortFrom(host[1], 0xf000),
			LocalMAC: tap.MAC{2, 1}, RemoteMAC: tap.MAC{2, 2},
		}
		in := out
		in.Direction, in.Hop = bypass.Inbound, 0
		_, _ = d.prepare(d.layout, bypass.Change{Add: []bypass.Rule{out, in}})
	}
	size := float64(inUse()-before) / flows
	t.Logf("%.0f bytes a flow", size)
	require.Len(t, d.installed.rules, 2*flows)
	require.Len(t, d.installed.byMatch, 2*flows)
	require.Less(t, size, 175.)
}
