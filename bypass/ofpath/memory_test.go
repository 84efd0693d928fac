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
// (see bypass.TestMemory).
func TestMemory(t *testing.T) {
	const flows = 100_000
	d := newDatapath(Config{}.withDefaults())
	defer d.cancel()
	d.layout.uplink = 1
	before := inUse()
	for i := range uint32(flows) {
		guest := [2]netip.Addr{netip.AddrFrom4([4]byte{192, 168, byte(i >> 16), 1}), netip.AddrFrom4([4]byte{192, 168, 9, 2})}
		host := [2]netip.Addr{netip.AddrFrom4([4]byte{10, 1, 0, 1}), netip.AddrFrom4([4]byte{10, 1, 0, 2})}
		out := bypass.Rule{
			ID: i + 1, Direction: bypass.Outbound, Ofport: 3, Hop: 1, Peer: 1,
			Flow:  bypass.Flow{Proto: bypass.TCP, Src: netip.AddrPortFrom(guest[0], uint16(i)), Dst: netip.AddrPortFrom(guest[1], 80)},
			Local: netip.AddrPortFrom(host[0], uint16(i)), Remote: netip.AddrPortFrom(host[1], uint16(i>>16)),
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
	require.Less(t, size, 210.)
}
