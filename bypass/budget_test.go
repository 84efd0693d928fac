package bypass

import "testing"

// BenchmarkBudget has this package's rows of docs/evaluation/packet-budget.md: a super-frame of 44 segments of
// 1,368 bytes (bulk) and a datagram of 64 (lone).
// Only the headers are read.
func BenchmarkBudget(b *testing.B) {
	for kind, name := range map[string]string{"bulk": "tcp4", "lone": "udp4"} {
		b.Run("classify/"+kind, func(b *testing.B) {
			c, f := NewClassifier(), eachKind(b)[name]
			var p Packet
			b.ReportAllocs()
			for b.Loop() {
				if c.Classify(f, &p); p.Reason != ReasonNone {
					b.Fatal(p.Reason)
				}
			}
		})
	}
}
