package ofctl_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/ofctl"
)

func manyFlows(n int) []ofctl.Mod {
	mods := make([]ofctl.Mod, n)
	for i := range mods {
		mods[i] = ofctl.FlowMod{Flow: ofctl.Flow{Table: 20, Priority: 100, IdleTimeout: 60,
			Match: ofctl.TCP4(ofctl.InPort(3), ofctl.TCPSrc(uint16(i)), ofctl.TCPDst(80)),
			Apply: []ofctl.Action{ofctl.SetField{Field: ofctl.TCPSrc(61441)}, ofctl.Output{Port: 1}}}}
	}
	return mods
}

// BenchmarkOVSFlowModBarrier is one flow in a real switch, confirmed.
func BenchmarkOVSFlowModBarrier(b *testing.B) {
	_, c := dial(b)
	mods := manyFlows(1)
	var took []time.Duration
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		require.NoError(b, c.Apply(b.Context(), mods))
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// BenchmarkOVSSet50000 reconciles: 50,000 wanted flows with an empty switch, with one
// that has them all, and with one where every tenth is missing.
func BenchmarkOVSSet50000(b *testing.B) {
	_, c := dial(b)
	wanted := ofctl.Wanted{Flows: keptFlows(50_000)}
	set := func(want int) {
		d, err := ofctl.Set(b.Context(), c, keptOwner, wanted)
		require.NoError(b, err)
		require.Equal(b, ofctl.Difference{Added: want}, d)
	}
	remove := func(step int) {
		gone := []ofctl.Message{ofctl.FlowMod{Command: ofctl.Delete, Flow: ofctl.Flow{Table: ofctl.TableAll}}}
		if step > 1 {
			gone = nil
			for i := 0; i < len(wanted.Flows); i += step {
				gone = append(gone, ofctl.FlowMod{Command: ofctl.DeleteStrict, Flow: wanted.Flows[i]})
			}
		}
		require.NoError(b, c.Send(b.Context(), gone...))
	}
	for _, row := range []struct {
		name string
		step int
		want int
	}{{"empty", 1, 50_000}, {"tenth missing", 10, 5_000}, {"complete", 0, 0}} {
		b.Run(row.name, func(b *testing.B) {
			remove(1)
			set(50_000)
			for b.Loop() {
				if row.step > 0 {
					b.StopTimer()
					remove(row.step)
					b.StartTimer()
				}
				set(row.want)
			}
		})
	}
}

// BenchmarkOVSAggregate50000 is a Keeper's Check of a switch with 50,000 flows of the owner's.
func BenchmarkOVSAggregate50000(b *testing.B) {
	_, c := dial(b)
	_, err := ofctl.Set(b.Context(), c, keptOwner, ofctl.Wanted{Flows: keptFlows(50_000)})
	require.NoError(b, err)
	for b.Loop() {
		sum, err := c.Aggregate(b.Context(), ofctl.Owned(keptOwner.Cookie, keptOwner.Mask))
		require.NoError(b, err)
		require.EqualValues(b, 50_000, sum.Flows)
	}
}

// BenchmarkOVSBundle1000 is 1,000 flows in one atomic bundle, confirmed.
func BenchmarkOVSBundle1000(b *testing.B) {
	_, c := dial(b)
	mods := manyFlows(1000)
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, c.Apply(b.Context(), mods))
	}
}

// BenchmarkOVSBundlesInParallel is bundles of two flows from many goroutines.
func BenchmarkOVSBundlesInParallel(b *testing.B) {
	_, c := dial(b)
	mods := manyFlows(2)
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := c.Apply(b.Context(), mods); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkOVSDump1000 reads 1,000 flows back.
func BenchmarkOVSDump1000(b *testing.B) {
	_, c := dial(b)
	require.NoError(b, c.Apply(b.Context(), manyFlows(1000)))
	b.ReportAllocs()
	for b.Loop() {
		flows, err := c.Flows(b.Context(), ofctl.AllFlows)
		require.NoError(b, err)
		require.Len(b, flows, 1000)
	}
}
