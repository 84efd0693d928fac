package flowtable

import (
	"testing"
	"time"
)

// BenchmarkBudget has this package's rows of docs/evaluation/packet-budget.md: a super-frame of 44 segments of
// 1,368 bytes (bulk) and a datagram of 64 (lone).
// One of 10,000 flows is found and counted.
func BenchmarkBudget(b *testing.B) {
	for _, kind := range []string{"bulk", "lone"} {
		b.Run("count/"+kind, func(b *testing.B) {
			table, now := New(0), time.Unix(1000, 0)
			for i := range 10000 {
				table.Track(flow(i), now)
			}
			f := flow(77)
			b.ReportAllocs()
			for b.Loop() {
				e, _ := table.Track(f, now)
				e.Seen(now)
				e.Out.Add(1400)
			}
		})
	}
}
