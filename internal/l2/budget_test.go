package l2

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// BenchmarkBudget has this package's rows of docs/evaluation/packet-budget.md: a super-frame of 44 segments of
// 1,368 bytes (bulk) and a datagram of 64 (lone).
// Neither the check nor the look-up cares which: what is longer costs no more.
func BenchmarkBudget(b *testing.B) {
	for _, kind := range []string{"bulk", "lone"} {
		table := New()
		_, err := table.Attach(Endpoint{Name: "one", MAC: mac1, IPs: []netip.Addr{ip1}}, 0)
		require.NoError(b, err)
		f, v := frame(mac1, append(ipv4(ip1), make([]byte, 64)...)...), table.View()
		b.Run("source/"+kind, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, cause := v.CheckSource(f, overlay.PeerID{}); cause != OK {
					b.Fatal(cause)
				}
			}
		})
		b.Run("look-up/"+kind, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if v.MAC(tap.MAC(f[6:12])) == nil {
					b.Fatal("not found")
				}
			}
		})
	}
}
