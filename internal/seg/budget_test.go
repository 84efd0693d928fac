package seg

import (
	"math/rand/v2"
	"testing"

	"github.com/viasnet/vias/tap"
)

// BenchmarkBudget has this package's rows of docs/evaluation/packet-budget.md: a super-frame of 44 segments of
// 1,368 bytes (bulk) and a datagram of 64 (lone).
// As overlay frames go: checksums that the guest left to its card are left out. Joined is what was cut; a datagram is joined
// with nothing.
func BenchmarkBudget(b *testing.B) {
	super, o := spec{protocol: ProtocolTCP, tcpOptions: 12, flags: 0x10}.super(text(rand.New(rand.NewPCG(5, 6)), 44*1368), 1368)
	lone := spec{protocol: ProtocolUDP}.build(make([]byte, 64))
	partial := tap.Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 6}
	for kind, c := range map[string]struct {
		frame   []byte
		offload tap.Offload
		parts   int
	}{"bulk": {super, o, 44}, "lone": {lone, partial, 1}} {
		parts := tap.NewBatch(64, 64*1600)
		b.Run("cut/"+kind, func(b *testing.B) { budgetCut(b, parts, c.frame, c.offload, c.parts) })
		if parts.Len() > 0 { // else -bench left that out
			b.Run("join/"+kind, func(b *testing.B) { budgetJoin(b, parts) })
		}
	}
}

func budgetCut(b *testing.B, dst *tap.Batch, frame []byte, o tap.Offload, parts int) {
	cutter := Cutter{Partial: true}
	b.ReportAllocs()
	for b.Loop() {
		dst.Reset()
		if cutter.Reset(frame, o, 1500) != nil || !cutter.Next(dst) || dst.Len() != parts {
			b.Fatalf("%d frames of %d", dst.Len(), parts)
		}
	}
}

func budgetJoin(b *testing.B, parts *tap.Batch) {
	j, out := Joiner{UDP: true}, tap.NewBatch(16, 1<<17)
	b.ReportAllocs()
	for b.Loop() {
		out.Reset()
		for i := range parts.Len() {
			j.Add(out, parts.Frame(i), true)
		}
		if j.Flush(out); out.Len() != 1 {
			b.Fatalf("%d frames", out.Len())
		}
	}
}
