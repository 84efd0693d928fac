package ofctl_test

import (
	"testing"

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
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, c.Apply(b.Context(), mods))
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
