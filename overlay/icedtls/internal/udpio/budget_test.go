package udpio

import (
	"testing"
	"time"
)

// BenchmarkBudget has this package's rows of docs/evaluation/packet-budget.md: a super-frame of 44 segments of
// 1,368 bytes (bulk) and a datagram of 64 (lone).
// Over loopback, where a send has the kernel carry the datagrams to the receiver's queue.
func BenchmarkBudget(b *testing.B) {
	for kind, c := range map[string]struct{ datagrams, bytes int }{"bulk": {44, 1 + 66 + 1368 + 32}, "lone": {1, 1 + 42 + 64 + 32}} {
		b.Run("send/"+kind, func(b *testing.B) { budget(b, c.datagrams, c.bytes, true) })
		b.Run("receive/"+kind, func(b *testing.B) { budget(b, c.datagrams, c.bytes, false) })
	}
}

// budget reports the time of one of the two alone.
func budget(b *testing.B, n, size int, sending bool) {
	x, _ := open(b, "udp4", "127.0.0.1:0")
	y, at := open(b, "udp4", "127.0.0.1:0")
	sent, buf := datagrams(repeat(size, n)...), make([]byte, BufferSize)
	var took [2]time.Duration
	b.ReportAllocs()
	for b.Loop() {
		began := time.Now()
		if err := x.Send(sent, at); err != nil {
			b.Fatal(err)
		}
		gone := time.Now()
		for got := 0; got < n; {
			k, segment, _, err := y.Receive(buf)
			if err != nil {
				b.Fatal(err)
			}
			got += (k + segment - 1) / segment
		}
		took[0] += gone.Sub(began)
		took[1] += time.Since(gone)
	}
	mine := took[1]
	if sending {
		mine = took[0]
	}
	b.ReportMetric(float64(mine.Nanoseconds())/float64(b.N), "ns/op")
}
