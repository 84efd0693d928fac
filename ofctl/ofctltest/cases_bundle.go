package ofctltest

import (
	"github.com/stretchr/testify/require"
	"github.com/viasnet/vias/ofctl"
)

// bundleCases: Apply is all or nothing, and Set on top of it.
func bundleCases() []conformanceCase {
	return []conformanceCase{
		{"empty bundle", func(e *env) { e.apply() }},
		{"bundle runs in order", caseBundleOrder},
		{"bundle with a bad modification leaves nothing", caseBundleAtomic},
		{"bundle that fails late restores what it deleted", caseBundleRestores},
		{"confirmed means in the tables", caseBarrier},
		{"set is idempotent and touches its own only", caseSet},
		{"two connections", caseTwoConnections},
		{"close leaves the flows", caseClose},
	}
}

func caseBundleOrder(e *env) {
	f := ofctl.Flow{Priority: 1, Match: tcpTo(80), Apply: e.to(1)}
	g := ofctl.Flow{Priority: 2, Match: tcpTo(80), Apply: []ofctl.Action{ofctl.ToGroup{ID: 5}}}
	changed := f
	changed.Apply = e.to(3)
	e.apply(
		ofctl.FlowMod{Flow: f},
		ofctl.GroupMod{Group: indirect(5, e.to(2)...)},
		ofctl.FlowMod{Flow: g},
		ofctl.FlowMod{Command: ofctl.ModifyStrict, Flow: changed},
		ofctl.FlowMod{Command: ofctl.DeleteStrict, Flow: g},
	)
	require.Equal(e.t, changed.String(), e.one().Flow.String())
	require.Len(e.t, e.groups(), 1)
	e.send(0, tcpAB(1, 80, "x"))
	e.want(3, tcpAB(1, 80, "x"))
}

func caseBundleAtomic(e *env) {
	good := func(p uint16) ofctl.Mod {
		return ofctl.FlowMod{Flow: ofctl.Flow{Priority: p, Match: tcpTo(80), Apply: e.to(1)}}
	}
	bad := map[string]struct {
		mod       ofctl.Mod
		typ, code uint16
	}{
		"found when it is executed": {ofctl.FlowMod{Flow: ofctl.Flow{
			Apply: []ofctl.Action{ofctl.ToGroup{ID: 99}},
		}}, 2, 9},
		"found when it is read":   {ofctl.FlowMod{Flow: ofctl.Flow{Table: 4, Goto: 3}}, 3, 2},
		"a group that is unknown": {ofctl.GroupMod{Command: ofctl.Modify, Group: indirect(9, e.to(1)...)}, 6, 8},
	}
	for name, b := range bad {
		e.t.Log(name)
		e.refused(b.typ, b.code, good(1), ofctl.GroupMod{Group: indirect(1, e.to(1)...)}, b.mod, good(2))
	}
	e.send(0, tcpAB(1, 80, "dropped"))
	e.quiet()
	e.apply(good(1)) // the connection is none the worse
	e.send(0, tcpAB(1, 80, "x"))
	e.want(1, tcpAB(1, 80, "x"))
}

func caseBundleRestores(e *env) {
	w := e.watch(e.sw)
	f := ofctl.Flow{Priority: 1, Cookie: 1, Match: tcpTo(80), SendFlowRemoved: true, Apply: e.to(1)}
	e.add(f)
	e.apply(ofctl.GroupMod{Group: indirect(1, e.to(2)...)})
	replaced, modified := f, f
	replaced.Cookie = 2
	modified.Apply = e.to(3)
	e.refused(6, 0,
		ofctl.FlowMod{Command: ofctl.ModifyStrict, Flow: modified},
		ofctl.FlowMod{Flow: replaced},
		ofctl.FlowMod{Command: ofctl.Delete, Flow: ofctl.Flow{Match: tcpTo(80)}},
		ofctl.GroupMod{Command: ofctl.Modify, Group: indirect(1, e.to(3)...)},
		ofctl.GroupMod{Group: indirect(1, e.to(3)...)}, // exists
	)
	e.send(0, tcpAB(1, 80, "x"))
	e.want(1, tcpAB(1, 80, "x"))
	e.quiet()
	e.apply(ofctl.FlowMod{Command: ofctl.DeleteStrict, Flow: f})
	require.EqualValues(e.t, 1, next[ofctl.FlowRemoved](w).Flow.Cookie, "the only one that was removed")
}

// caseBarrier: each dump sees the modification before it, without waiting.
func caseBarrier(e *env) {
	for i := range 20 {
		f := ofctl.Flow{Priority: uint16(i), Match: tcpTo(80), Apply: e.to(1)}
		require.NoError(e.t, e.sw.Apply(e.ctx, []ofctl.Mod{ofctl.FlowMod{Flow: f}}))
		got, err := e.sw.Flows(e.ctx, ofctl.FlowFilter{Match: tcpTo(80)})
		require.NoError(e.t, err)
		require.Len(e.t, got, 1)
		del := ofctl.FlowMod{Command: ofctl.DeleteStrict, Flow: f}
		require.NoError(e.t, e.sw.Apply(e.ctx, []ofctl.Mod{del}))
	}
}

func caseSet(e *env) {
	owner := ofctl.Owner{Cookie: 0xaa00, Mask: 0xff00}
	foreign := ofctl.Flow{Priority: 50, Cookie: 0xbb00, Match: ofctl.UDP4(), Apply: e.to(3)}
	e.add(foreign, ofctl.Flow{Priority: 1, Cookie: 0xaa99, Match: tcpTo(99)})
	e.apply(ofctl.GroupMod{Group: indirect(500, e.to(3)...)})
	want := ofctl.Wanted{
		Flows: []ofctl.Flow{
			{Priority: 2, Cookie: 0xaa01, Match: tcpTo(80), Apply: []ofctl.Action{ofctl.ToGroup{ID: 7}}},
			{Table: 4, Priority: 2, Cookie: 0xaa02, Match: tcpTo(81), HardTimeout: 300},
		},
		Groups: []ofctl.Group{indirect(7, e.to(1)...)}, GroupIDs: [2]uint32{1, 99},
	}
	set := func(d ofctl.Difference) {
		e.t.Helper()
		got, err := ofctl.Set(e.ctx, e.sw, owner, want)
		require.NoError(e.t, err)
		require.Equal(e.t, d, got)
		e.h.Settle()
	}
	set(ofctl.Difference{Added: 2, Deleted: 1, GroupsAdded: 1})
	set(ofctl.Difference{})
	e.send(0, tcpAB(1, 80, "x"))
	e.want(1, tcpAB(1, 80, "x"))
	want.Groups[0] = indirect(7, e.to(2)...)
	set(ofctl.Difference{GroupsModified: 1})
	set(ofctl.Difference{})
	e.send(0, tcpAB(1, 80, "x"))
	e.want(2, tcpAB(1, 80, "x"))
	want.Flows, want.Groups = nil, nil
	set(ofctl.Difference{Deleted: 2, GroupsDeleted: 1})
	require.Equal(e.t, foreign.String(), e.one().Flow.String())
	require.Len(e.t, e.groups(), 1)
}

func caseTwoConnections(e *env) {
	second := e.h.Connect()
	w1, w2 := e.watch(e.sw), e.watch(second)
	f := ofctl.Flow{Priority: 5, Cookie: 4, Match: tcpTo(80), SendFlowRemoved: true, Apply: e.to(1)}
	e.add(f)
	got, err := second.Flows(e.ctx, ofctl.Owned(4, ^uint64(0)))
	require.NoError(e.t, err)
	require.Len(e.t, got, 1)
	require.NoError(e.t, second.Apply(e.ctx, []ofctl.Mod{ofctl.FlowMod{Command: ofctl.DeleteStrict, Flow: f}}))
	require.EqualValues(e.t, 4, next[ofctl.FlowRemoved](w1).Flow.Cookie)
	require.EqualValues(e.t, 4, next[ofctl.FlowRemoved](w2).Flow.Cookie)
}

func caseClose(e *env) {
	second := e.h.Connect()
	w := e.watch(second)
	f := ofctl.Flow{Priority: 5, Match: tcpTo(80), Apply: e.to(1)}
	require.NoError(e.t, second.Apply(e.ctx, []ofctl.Mod{ofctl.FlowMod{Flow: f}}))
	require.NoError(e.t, second.Close())
	require.ErrorIs(e.t, <-w.end, ofctl.ErrClosed)
	require.ErrorIs(e.t, second.Apply(e.ctx, []ofctl.Mod{ofctl.FlowMod{Flow: f}}), ofctl.ErrClosed)
	_, err := second.Flows(e.ctx, ofctl.AllFlows)
	require.ErrorIs(e.t, err, ofctl.ErrClosed)
	require.Equal(e.t, f.String(), e.one().Flow.String())
}
