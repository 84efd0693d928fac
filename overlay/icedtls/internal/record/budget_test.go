package record

import "testing"

// BenchmarkBudget has this package's rows of docs/evaluation/packet-budget.md: a super-frame of 44 segments of
// 1,368 bytes (bulk) and a datagram of 64 (lone).
func BenchmarkBudget(b *testing.B) {
	for kind, c := range map[string]struct{ records, bytes int }{"bulk": {44, 1 + 66 + 1368}, "lone": {1, 1 + 42 + 64}} {
		b.Run("seal/"+kind, func(b *testing.B) {
			s, _ := pair(b, 0)
			mem := make([]byte, c.records*(HeaderLen+c.bytes+TagLen))
			b.ReportAllocs()
			for b.Loop() {
				s.next.Store(1)
				for i := range c.records {
					m := mem[i*(HeaderLen+c.bytes+TagLen):]
					if _, err := s.Seal(m[:HeaderLen+c.bytes+TagLen], HeaderLen, c.bytes); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
		b.Run("open/"+kind, func(b *testing.B) {
			s, o := pair(b, 0)
			var list [][]byte
			for range c.records {
				list = append(list, seal(b, s, make([]byte, c.bytes)))
			}
			dst := make([]byte, 0, c.bytes)
			b.ReportAllocs()
			for b.Loop() {
				o.window = window{}
				for _, r := range list {
					if _, err := o.Open(dst, r); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
