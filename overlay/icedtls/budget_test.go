//go:build !race

// Under the race detector a sync.Pool forgets some of what it is given.

package icedtls

import (
	"testing"

	"github.com/viasnet/vias/internal/seg"
	"github.com/viasnet/vias/tap"
)

// BenchmarkBudget has this package's rows of docs/evaluation/packet-budget.md: a super-frame of 44 segments of
// 1,368 bytes (bulk) and a datagram of 64 (lone).
// That is everything but the devices, from a batch of one to a batch of the other, over loopback.
func BenchmarkBudget(b *testing.B) {
	super, o := frame4(seg.ProtocolTCP, 44*1368)
	o.GSO, o.SegmentSize, o.HeaderLen = tap.GSOTCP4, 1368, 54
	lone, partial := frame4(seg.ProtocolUDP, 64)
	for kind, c := range map[string]struct {
		frame   []byte
		offload tap.Offload
	}{"bulk": {super, o}, "lone": {lone, partial}} {
		b.Run("whole/"+kind, func(b *testing.B) {
			p := newWholePath(b, tap.Caps{Offload: true, Join: true, USO: true, JoinUDP: true})
			in := tap.NewBatch(1, 1<<17)
			in.Append(c.frame, c.offload)
			b.ReportAllocs()
			for b.Loop() {
				p.pass(in, len(c.frame))
			}
		})
	}
}
