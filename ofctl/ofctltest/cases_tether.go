package ofctltest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/ofctl"
)

// tetherCases: flows that go with another one.
func tetherCases() []conformanceCase {
	return []conformanceCase{
		{"a tether's hard time-out takes its flows along", caseTetherExpires},
		{"a renewed tether keeps its flows", caseTetherRenewed},
		{"a deleted tether takes its flows along", caseTetherDeleted},
		{"the last of several tethers counts", caseTetherLast},
		{"a tether that is modified away or replaced is gone", caseTetherModified},
		{"a tether's flows may be tethers", caseTetherChain},
		{"a tether that is cut in a bundle takes what the bundle adds", caseTetherBundle},
		{"a bundle that fails cuts no tether", caseTetherRollback},
		{"a tether that a frame comes upon installs a flow that drops", caseTetherHit},
	}
}

// Cookies of what is tethered and of what is not.
const (
	tied  = 0x7661_004d_0000_0005
	loose = 0x7661_004d_0000_0006
)

// tether is a flow with a tether to the tied flows of tables 3 and 5.
func tether(id uint64, hard uint16) ofctl.Flow {
	return ofctl.Flow{
		Table: 9, Cookie: tied, HardTimeout: hard, Match: ofctl.Match{ofctl.Metadata(id, 0)},
		Apply: []ofctl.Action{ofctl.Tether{Table: 3, Cookie: tied}, ofctl.Tether{Table: 5, Cookie: tied}},
	}
}

// flock is tied flows in both tables, one in a table that no tether names, and
// flows with another cookie.
func flock() []ofctl.Flow {
	return []ofctl.Flow{
		{Table: 3, Priority: 1, Cookie: tied, Match: tcpTo(80), SendFlowRemoved: true},
		{Table: 3, Priority: 2, Cookie: tied, Match: tcpTo(81), SendFlowRemoved: true},
		{Table: 5, Priority: 3, Cookie: tied, Match: tcpTo(80), SendFlowRemoved: true},
		{Table: 4, Priority: 4, Cookie: tied, Match: tcpTo(80), SendFlowRemoved: true},
		{Table: 3, Priority: 5, Cookie: loose, Match: tcpTo(80), SendFlowRemoved: true},
		{Table: 5, Priority: 6, Cookie: loose, Match: tcpTo(81), SendFlowRemoved: true},
	}
}

// cut asserts that the three tied flows are reported as deleted, and that the others
// of the flock are left, with more flows.
func (e *env) cut(w *events, more int) {
	e.t.Helper()
	gone := map[uint16]bool{}
	for range 3 {
		ev := next[ofctl.FlowRemoved](w)
		require.Equal(e.t, ofctl.RemovedDelete, ev.Reason)
		require.EqualValues(e.t, tied, ev.Flow.Cookie)
		gone[ev.Flow.Priority] = true
	}
	require.Equal(e.t, map[uint16]bool{1: true, 2: true, 3: true}, gone)
	left := e.flows(ofctl.AllFlows)
	require.Len(e.t, left, 3+more)
	for _, f := range left {
		require.True(e.t, f.Table == 4 || f.Table == 9 || f.Cookie == loose, "%s", f.Flow)
	}
}

func caseTetherExpires(e *env) {
	w := e.watch(e.sw)
	e.add(append(flock(), tether(1, 1))...)
	require.Len(e.t, e.flows(ofctl.AllFlows), 7)
	start := time.Now()
	e.cut(w, 0)
	require.GreaterOrEqual(e.t, time.Since(start), 500*time.Millisecond, "it went before its time")
}

func caseTetherRenewed(e *env) {
	w := e.watch(e.sw)
	clock := ofctl.Flow{Table: 200, Match: tcpTo(1), Cookie: 1, HardTimeout: 1, SendFlowRemoved: true}
	e.add(append(flock(), tether(1, 2))...)
	start := time.Now()
	for time.Since(start) < 3*time.Second {
		e.add(clock)
		require.EqualValues(e.t, 1, next[ofctl.FlowRemoved](w).Flow.Cookie, "the clock is all that goes")
		e.add(tether(1, 2))
	}
	require.Len(e.t, e.flows(ofctl.AllFlows), 7)
	e.cut(w, 0)
}

func caseTetherDeleted(e *env) {
	w := e.watch(e.sw)
	e.add(append(flock(), tether(1, 0))...)
	e.apply(ofctl.FlowMod{Command: ofctl.DeleteStrict, Flow: tether(1, 0)})
	e.cut(w, 0)
}

func caseTetherLast(e *env) {
	w := e.watch(e.sw)
	e.add(append(flock(), tether(1, 0), tether(2, 0))...)
	e.apply(ofctl.FlowMod{Command: ofctl.DeleteStrict, Flow: tether(1, 0)})
	require.Len(e.t, e.flows(ofctl.AllFlows), 7)
	// The second comes again while a third goes: one is always there.
	e.add(tether(3, 0))
	e.apply(ofctl.FlowMod{Flow: tether(2, 0)}, ofctl.FlowMod{Command: ofctl.DeleteStrict, Flow: tether(3, 0)})
	require.Len(e.t, e.flows(ofctl.AllFlows), 7)
	e.apply(ofctl.FlowMod{Command: ofctl.Delete, Flow: ofctl.Flow{Table: 9, Cookie: tied}, CookieMask: ^uint64(0)})
	e.cut(w, 0)
}

func caseTetherModified(e *env) {
	w := e.watch(e.sw)
	for _, command := range []ofctl.Command{ofctl.ModifyStrict, ofctl.Add} {
		e.add(append(flock(), tether(1, 0))...)
		e.apply(ofctl.FlowMod{Command: command, Flow: tether(1, 0)})
		require.Len(e.t, e.flows(ofctl.AllFlows), 7)
		without := tether(1, 0)
		without.Apply = nil
		e.apply(ofctl.FlowMod{Command: command, Flow: without})
		e.cut(w, 1)
	}
}

func caseTetherChain(e *env) {
	w := e.watch(e.sw)
	first := ofctl.Flow{Table: 8, Apply: []ofctl.Action{ofctl.Tether{Table: 9, Cookie: tied}}}
	e.add(append(flock(), tether(1, 0), first)...)
	e.apply(ofctl.FlowMod{Command: ofctl.DeleteStrict, Flow: first})
	e.cut(w, 0)
}

func caseTetherBundle(e *env) {
	w := e.watch(e.sw)
	e.add(tether(1, 0))
	mods := []ofctl.Mod{ofctl.FlowMod{Command: ofctl.DeleteStrict, Flow: tether(1, 0)}}
	for _, f := range flock() {
		mods = append(mods, ofctl.FlowMod{Flow: f})
	}
	e.apply(append(mods, ofctl.FlowMod{Flow: tether(1, 0)})...)
	e.cut(w, 1)
}

func caseTetherRollback(e *env) {
	e.add(append(flock(), tether(1, 0))...)
	before := texts(e.flows(ofctl.AllFlows))
	bad := ofctl.FlowMod{Flow: ofctl.Flow{Apply: []ofctl.Action{ofctl.ToGroup{ID: 4711}}}}
	without := tether(1, 0)
	without.Apply = nil
	for _, f := range []ofctl.FlowMod{
		{Command: ofctl.DeleteStrict, Flow: without}, {Flow: without}, {Command: ofctl.Modify, Flow: without}, {Flow: tether(2, 0)},
	} {
		require.Error(e.t, e.sw.Apply(e.ctx, []ofctl.Mod{f, bad}))
		require.Equal(e.t, before, texts(e.flows(ofctl.AllFlows)))
	}
	w := e.watch(e.sw)
	e.apply(ofctl.FlowMod{Command: ofctl.DeleteStrict, Flow: without})
	e.cut(w, 0)
}

func caseTetherHit(e *env) {
	e.add(ofctl.Flow{Match: tcpTo(80), Apply: []ofctl.Action{ofctl.Tether{Table: 3, Cookie: tied}, ofctl.Output{Port: e.p[1]}}})
	e.send(0, tcpAB(1, 80, "x"))
	e.want(1, tcpAB(1, 80, "x"))
	e.quiet()
	got := e.flows(ofctl.FlowFilter{Table: 3})
	require.Len(e.t, got, 1)
	require.Equal(e.t, ofctl.Flow{Table: 3, Priority: learnPriority, Cookie: tied}.String(), got[0].Flow.String())
}
