package ofctltest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/ofctl"
)

// benchSwitch has exact flows behind a gate, as vias programs them.
func benchSwitch(tb testing.TB, flows int) *Switch {
	sw := New(Config{})
	tb.Cleanup(func() { require.NoError(tb, sw.Close()) })
	for range 2 {
		_, err := sw.AddPort(Port{Output: func([]byte) {}})
		require.NoError(tb, err)
	}
	mods := []ofctl.Mod{
		ofctl.FlowMod{Flow: ofctl.Flow{Priority: 300, Match: ofctl.TCP4(ofctl.NotFragment(), ofctl.InPort(1)), Goto: 20}},
		ofctl.FlowMod{Flow: ofctl.Flow{Table: 20, Apply: []ofctl.Action{ofctl.Normal()}}},
	}
	for i := range flows {
		mods = append(mods, ofctl.FlowMod{Flow: ofctl.Flow{
			Table: 20, Priority: 100, Cookie: uint64(i),
			Match: ofctl.TCP4(ofctl.InPort(1), ofctl.IPv4Src(prefix("10.0.0.1/32")), ofctl.IPv4Dst(prefix("10.0.0.2/32")),
				ofctl.TCPSrc(uint16(i)), ofctl.TCPDst(80)),
			Apply: append(sets(ofctl.IPv4Src(prefix("172.16.0.1/32")), ofctl.TCPSrc(61000)), ofctl.Output{Port: 2}),
		}})
	}
	require.NoError(tb, sw.Apply(tb.Context(), mods))
	return sw
}

func BenchmarkInput10kFlows(b *testing.B) {
	sw := benchSwitch(b, 10_000)
	frame := tcpAB(777, 80, string(make([]byte, 1000)))
	b.ReportAllocs()
	b.SetBytes(int64(len(frame)))
	for b.Loop() {
		sw.Input(1, frame)
	}
}

func BenchmarkApplyFlow(b *testing.B) {
	sw := benchSwitch(b, 10_000)
	mod := []ofctl.Mod{ofctl.FlowMod{Flow: ofctl.Flow{
		Table: 20, Priority: 100, Match: ofctl.TCP4(ofctl.InPort(1), ofctl.TCPSrc(5)), HardTimeout: 30,
	}}}
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, sw.Apply(b.Context(), mod))
	}
}
