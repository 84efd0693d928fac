package ofpath_test

import (
	"slices"
	"testing"
	"time"

	"github.com/viasnet/vias/bypass"
)

// BenchmarkSetUpOVS sets bypasses up end to end over two real switches, many at once:
// from the Request to the Done, which says that both switches have confirmed.
func BenchmarkSetUpOVS(b *testing.B) {
	x, y := newHosts(b, 30*time.Second)
	under := make(chan struct{}, 4096) // so many are under way
	x.tell(func(s bypass.Status) {
		if s.State == bypass.Bypassed {
			<-under
		}
	})
	b.ReportAllocs()
	n := 0
	start, late := time.Now(), time.After(time.Minute)
	for b.Loop() {
		select {
		case under <- struct{}{}:
		case <-late:
			b.FailNow()
		}
		x.member.Request(x.flow(n), bypass.Verdict{Bypass: true, Idle: time.Hour})
		n++
	}
	x.await(bypass.Bypassed, n, 20*time.Second)
	took := time.Since(start)
	y.await(bypass.Bypassed, n, 20*time.Second)
	b.ReportMetric(float64(n)/took.Seconds(), "bypasses/s")
}

// BenchmarkSetUpLatencyOVS sets bypasses up one after the other.
func BenchmarkSetUpLatencyOVS(b *testing.B) {
	x, _ := newHosts(b, 30*time.Second)
	done := make(chan bypass.State, 16)
	x.tell(func(s bypass.Status) {
		if s.State == bypass.Bypassed || s.State == bypass.OnOverlay {
			select {
			case done <- s.State:
			default:
			}
		}
	})
	var took []time.Duration
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		x.member.Request(x.flow(len(took)), bypass.Verdict{Bypass: true, Idle: time.Hour})
		if s := <-done; s != bypass.Bypassed {
			b.Fatal(s)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	at := func(q float64) float64 { return took[int(q*float64(len(took)-1))].Seconds() * 1000 }
	b.ReportMetric(at(0.5), "p50-ms")
	b.ReportMetric(at(0.99), "p99-ms")
}
