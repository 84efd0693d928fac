package ofctltest

import (
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/ofctl"
)

func meterCases() []conformanceCase {
	return []conformanceCase{
		{"meter dump returns what was written", caseMeterDump},
		{"meter drops what is over its rate", caseMeterRate},
		{"meter in a later table spares what is done before", caseMeterLater},
		{"meter delete removes its flows", caseMeterDelete},
		{"refusals of meters", caseRefusedMeters},
	}
}

func (e *env) meters() []ofctl.Meter {
	e.t.Helper()
	ms, err := e.sw.Meters(e.ctx)
	require.NoError(e.t, err)
	slices.SortFunc(ms, func(a, b ofctl.Meter) int { return int(int64(a.ID) - int64(b.ID)) })
	return ms
}

func caseMeterDump(e *env) {
	require.True(e.t, e.sw.Features().Capabilities.Has(ofctl.CapMeter))
	require.Empty(e.t, e.meters())
	want := []ofctl.Meter{{ID: 1, Rate: 10, Burst: 20}, {ID: 0x7661, Rate: 1000, Burst: 1}}
	for _, m := range want {
		e.apply(ofctl.MeterMod{Meter: m})
	}
	require.Equal(e.t, want, e.meters())
	want[1].Rate = 7
	e.apply(ofctl.MeterMod{Command: ofctl.Modify, Meter: want[1]})
	require.Equal(e.t, want, e.meters())
	f := ofctl.Flow{Match: ofctl.TCP4(), Meter: 1, Apply: e.to(1)}
	e.add(f)
	require.Equal(e.t, f.String(), e.one().Flow.String())
	f.Meter = 0x7661
	e.apply(ofctl.FlowMod{Command: ofctl.Modify, Flow: f})
	require.Equal(e.t, f.String(), e.one().Flow.String())
	for _, m := range want {
		e.apply(ofctl.MeterMod{Command: ofctl.Delete, Meter: ofctl.Meter{ID: m.ID}})
	}
	require.Empty(e.t, e.meters())
}

// caseMeterRate: flows share a meter, each frame counts once, and what the flow would
// have done, action set included, is not done to those that are dropped.
func caseMeterRate(e *env) {
	e.apply(ofctl.MeterMod{Meter: ofctl.Meter{ID: 3, Rate: 10, Burst: 40}})
	e.add(
		ofctl.Flow{Match: ofctl.TCP4(), Meter: 3, Write: e.to(1), Goto: 1},
		ofctl.Flow{Match: ofctl.UDP4(), Meter: 3, Apply: e.to(2)},
		ofctl.Flow{Table: 1, Apply: e.to(3)},
	)
	start := time.Now()
	for range 200 {
		e.send(0, tcpAB(1, 80, "x"))
	}
	// A frame of no metered flow comes behind them.
	passed := 0
	for e.h.Expect(e.p[3], 500*time.Millisecond) != nil {
		passed++
		require.NotNil(e.t, e.h.Expect(e.p[1], patience), "the action set is executed")
	}
	most := 2 * (40 + int(10*time.Since(start).Seconds()) + 1) // a switch may count a second's rate more
	require.Positive(e.t, passed)
	require.LessOrEqual(e.t, passed, most)
	require.EqualValues(e.t, 200, e.flows(ofctl.FlowFilter{Match: ofctl.TCP4()})[0].Packets, "a flow counts what its meter drops")
}

// caseMeterLater: all frames are forwarded, and some come up besides.
func caseMeterLater(e *env) {
	w := e.watch(e.sw)
	e.apply(ofctl.MeterMod{Meter: ofctl.Meter{ID: 3, Rate: 10, Burst: 40}})
	e.add(
		ofctl.Flow{Match: ofctl.TCP4(), Apply: []ofctl.Action{ofctl.Normal()}, Goto: 1},
		ofctl.Flow{Table: 1, Cookie: 0x77, Meter: 3, Apply: []ofctl.Action{ofctl.ToController(0xffff)}},
	)
	e.h.SetTag(e.p[2], 9)
	e.h.SetTag(e.p[3], 9)
	start := time.Now()
	for range 200 {
		e.send(0, tcpAB(1, 80, "x"))
	}
	for range 200 {
		e.want(1, tcpAB(1, 80, "x"))
	}
	came := 0
	for w.sees(tcpAB(1, 80, "x"), 500*time.Millisecond) {
		came++
	}
	require.Positive(e.t, came)
	require.LessOrEqual(e.t, came, 2*(40+int(10*time.Since(start).Seconds())+1))
}

func caseMeterDelete(e *env) {
	w := e.watch(e.sw)
	e.apply(ofctl.MeterMod{Meter: ofctl.Meter{ID: 3, Rate: 10}})
	e.add(ofctl.Flow{Cookie: 0x66, Match: ofctl.TCP4(), SendFlowRemoved: true, Meter: 3, Apply: e.to(1)},
		ofctl.Flow{Match: ofctl.UDP4(), Apply: e.to(1)})
	e.apply(ofctl.MeterMod{Command: ofctl.Delete, Meter: ofctl.Meter{ID: 3}})
	require.EqualValues(e.t, 0x66, next[ofctl.FlowRemoved](w).Flow.Cookie)
	require.Equal(e.t, ofctl.UDP4().String(), e.one().Match.String())
	// A meter that is not there can be deleted.
	e.apply(ofctl.MeterMod{Command: ofctl.Delete, Meter: ofctl.Meter{ID: 3}})
}

func caseRefusedMeters(e *env) {
	e.apply(ofctl.MeterMod{Meter: ofctl.Meter{ID: 3, Rate: 10}})
	for _, c := range []struct {
		code uint16
		mod  ofctl.Mod
	}{
		{meterModExists, ofctl.MeterMod{Meter: ofctl.Meter{ID: 3, Rate: 10}}},
		{meterModUnknown, ofctl.MeterMod{Command: ofctl.Modify, Meter: ofctl.Meter{ID: 4, Rate: 10}}},
		{meterModInvalid, ofctl.FlowMod{Flow: ofctl.Flow{Match: ofctl.TCP4(), Meter: 4, Apply: e.to(1)}}},
	} {
		e.t.Log(c.mod)
		e.refused(ofctl.ErrTypeMeterModFailed, c.code, c.mod)
	}
	require.Error(e.t, e.sw.Apply(e.ctx, []ofctl.Mod{ofctl.MeterMod{Meter: ofctl.Meter{ID: 5, Rate: 1}}, ofctl.FlowMod{}}), "not alone")
	require.Len(e.t, e.meters(), 1)
}
