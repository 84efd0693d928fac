package bypasstest_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/tap"
)

// flow6 is flowAB over IPv6.
var flow6 = bypass.Flow{
	Proto: bypass.TCP,
	Src:   netip.MustParseAddrPort("[fd00:7::1]:40000"), Dst: netip.MustParseAddrPort("[fd00:7::2]:80"),
}

// TestFrames: what is written is read, of both families and protocols, with all that a
// frame may have around it.
func TestFrames(t *testing.T) {
	for _, flow := range []bypass.Flow{flowAB, flow6} {
		for _, proto := range []bypass.Proto{bypass.TCP, bypass.UDP} {
			flow.Proto = proto
			plain := bypasstest.Packet{SrcMAC: macA, DstMAC: macB, Flow: flow, TTL: 9, Class: 0xb9, Payload: []byte("odd")}
			ports := plain
			ports.Flow.Src = netip.AddrPortFrom(flow.Src.Addr(), 0)
			tagged, first, exts := plain, plain, plain
			tagged.VLAN, first.More = 5, true
			list := []bypasstest.Packet{plain, tagged, first}
			if !flow.Src.Addr().Is4() {
				exts.Ext = []uint8{
					bypasstest.ExtHopByHop, bypasstest.ExtDestination, bypasstest.ExtRouting, bypasstest.ExtFragment, bypasstest.ExtAuth,
				}
				list = append(list, exts)
			}
			for _, p := range list {
				got, ok := bypasstest.Parse(p.Frame())
				require.True(t, ok)
				require.Equal(t, p, got)
				require.NoError(t, bypasstest.CheckSums(p.Frame()))
				for n := range p.Frame() {
					_, ok := bypasstest.Parse(p.Frame()[:n])
					require.False(t, ok, "cut to %d bytes", n)
				}
			}
			later := plain
			later.Fragment = 7
			got, ok := bypasstest.Parse(later.Frame())
			require.True(t, ok)
			require.EqualValues(t, 7, got.Fragment)
			require.Equal(t, flow.Src.Addr(), got.Flow.Src.Addr())
			require.Zero(t, got.Flow.Src.Port())
			broken := plain.Frame()
			broken[len(broken)-1] ^= 1
			require.Error(t, bypasstest.CheckSums(broken))
		}
	}
}

func TestICMP(t *testing.T) {
	for _, flow := range []bypass.Flow{flowAB, flow6} {
		quote := bypasstest.Packet{Flow: flow}.Frame()[14:]
		m := bypasstest.ICMP{
			SrcMAC: tap.MAC{2, 9}, DstMAC: upA, Src: flow.Dst.Addr(), Dst: flow.Src.Addr(), TTL: 60,
			Type: bypasstest.ErrorTypes(bypass.FamilyOf(flow.Src.Addr()))[0], Code: 4, Rest: 1400, Body: quote,
		}
		got, ok := bypasstest.ParseICMP(m.Frame())
		require.True(t, ok)
		require.Equal(t, m, got)
		require.True(t, m.IsError())
		require.NoError(t, bypasstest.CheckSums(m.Frame()))
		_, ok = bypasstest.Parse(m.Frame())
		require.False(t, ok)
		m.Type = 128
		require.False(t, m.IsError())
		_, ok = bypasstest.ParseICMP(bypasstest.Packet{Flow: flow}.Frame())
		require.False(t, ok)
	}
}
