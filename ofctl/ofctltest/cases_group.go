package ofctltest

import (
	"net/netip"

	"github.com/stretchr/testify/require"
	"github.com/viasnet/vias/ofctl"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// indirect is an indirect group.
func indirect(id uint32, as ...ofctl.Action) ofctl.Group {
	return ofctl.Group{ID: id, Type: ofctl.GroupIndirect, Buckets: []ofctl.Bucket{{Actions: as}}}
}

func setEth(src, dst [6]byte) []ofctl.Action {
	return []ofctl.Action{ofctl.SetField{Field: ofctl.EthSrc(src)}, ofctl.SetField{Field: ofctl.EthDst(dst)}}
}

func groupCases() []conformanceCase {
	return []conformanceCase{
		{"indirect group rewrites and switches over", caseIndirect},
		{"group all sends a copy to each bucket", caseGroupAll},
		{"group select keeps a flow on one bucket", caseGroupSelect},
		{"group delete removes its flows", caseGroupDelete},
		{"refusals of groups", caseRefusedGroups},
		{"group dump returns what was written", caseGroupDump},
	}
}

// caseIndirect: a next hop that changes costs one group-mod, and keeps counters.
func caseIndirect(e *env) {
	e.apply(
		ofctl.GroupMod{Group: indirect(1, append(setEth(macB, macC), e.to(1)...)...)},
		ofctl.FlowMod{Flow: ofctl.Flow{Match: ofctl.TCP4(), Apply: []ofctl.Action{ofctl.ToGroup{ID: 1}}}},
	)
	in := tcpAB(1, 80, "x")
	e.send(0, in)
	e.want(1, append(ethernet(macC, macB, etherIPv4, nil), in[14:]...))
	e.apply(ofctl.GroupMod{Command: ofctl.Modify, Group: indirect(1, append(setEth(macC, macA), e.to(2)...)...)})
	e.send(0, in)
	e.want(2, append(ethernet(macA, macC, etherIPv4, nil), in[14:]...))
	e.quiet()
	require.EqualValues(e.t, 2, e.one().Packets)
}

func caseGroupAll(e *env) {
	g := ofctl.Group{ID: 3, Type: ofctl.GroupAll, Buckets: []ofctl.Bucket{
		{Actions: append(setEth(macC, macB), e.to(1)...)},
		{Actions: e.to(2)},
	}}
	// What a bucket does to the frame is not seen by the next one, nor behind it.
	e.apply(ofctl.GroupMod{Group: g}, ofctl.FlowMod{Flow: ofctl.Flow{
		Match: ofctl.TCP4(),
		Apply: append(append(sets(ofctl.TCPDst(81)), ofctl.ToGroup{ID: 3}), e.to(3)...),
	}})
	out := tcpAB(1, 81, "x")
	e.send(0, tcpAB(1, 80, "x"))
	e.want(1, append(ethernet(macB, macC, etherIPv4, nil), out[14:]...))
	e.want(2, out)
	e.want(3, out)
}

func caseGroupSelect(e *env) {
	g := ofctl.Group{ID: 3, Type: ofctl.GroupSelect, Buckets: []ofctl.Bucket{
		{Weight: 1, Actions: e.to(1)}, {Weight: 1, Actions: e.to(1)},
	}}
	e.apply(ofctl.GroupMod{Group: g}, ofctl.FlowMod{Flow: ofctl.Flow{
		Match: ofctl.TCP4(), Apply: []ofctl.Action{ofctl.ToGroup{ID: 3}},
	}})
	in := tcpAB(1, 80, "x")
	for range 3 {
		e.send(0, in)
		e.want(1, in) // once
	}
}

func caseGroupDelete(e *env) {
	w := e.watch(e.sw)
	e.apply(
		ofctl.GroupMod{Group: indirect(1, e.to(1)...)},
		ofctl.FlowMod{Flow: ofctl.Flow{
			Cookie: 0x66, Match: ofctl.TCP4(), SendFlowRemoved: true, Apply: []ofctl.Action{ofctl.ToGroup{ID: 1}},
		}},
		ofctl.FlowMod{Flow: ofctl.Flow{Table: 1, Match: ofctl.TCP4(), Write: []ofctl.Action{ofctl.ToGroup{ID: 1}}}},
		ofctl.FlowMod{Flow: ofctl.Flow{Match: ofctl.UDP4(), Apply: e.to(2)}},
	)
	require.Len(e.t, e.flows(ofctl.AllFlows), 3)
	e.apply(ofctl.GroupMod{Command: ofctl.Delete, Group: ofctl.Group{ID: 1}})
	ev := next[ofctl.FlowRemoved](w)
	require.EqualValues(e.t, 0x66, ev.Flow.Cookie)
	require.Equal(e.t, ofctl.RemovedGroup, ev.Reason)
	require.Equal(e.t, ofctl.UDP4().String(), e.one().Match.String())
	require.Empty(e.t, e.groups())
	// A group that is not there can be deleted.
	e.apply(ofctl.GroupMod{Command: ofctl.Delete, Group: ofctl.Group{ID: 1}})
}

func caseRefusedGroups(e *env) {
	e.apply(ofctl.GroupMod{Group: indirect(1, e.to(1)...)})
	two := indirect(2, e.to(1)...)
	two.Buckets = append(two.Buckets, two.Buckets[0])
	for _, c := range []struct {
		name string
		code uint16
		mod  ofctl.GroupMod
	}{
		{"exists", 0, ofctl.GroupMod{Group: indirect(1, e.to(2)...)}},
		{"unknown", 8, ofctl.GroupMod{Command: ofctl.Modify, Group: indirect(9, e.to(2)...)}},
		{"indirect with two buckets", 1, ofctl.GroupMod{Group: two}},
		{"indirect with no bucket", 1, ofctl.GroupMod{Group: ofctl.Group{ID: 3, Type: ofctl.GroupIndirect}}},
	} {
		e.t.Log(c.name)
		e.refused(6, c.code, c.mod)
	}
}

func caseGroupDump(e *env) {
	want := []ofctl.Group{
		indirect(1, append(setEth(macA, macB), e.to(1)...)...),
		{ID: 2, Type: ofctl.GroupAll, Buckets: []ofctl.Bucket{{Actions: e.to(1)}, {Actions: e.to(2)}}},
		{ID: 0xfffffeff, Type: ofctl.GroupSelect, Buckets: []ofctl.Bucket{{Weight: 10, Actions: e.to(1)}, {Weight: 20, Actions: e.to(2)}}},
		{ID: 4, Type: ofctl.GroupFastFailover, Buckets: []ofctl.Bucket{{WatchPort: e.p[0], Actions: e.to(1)}}},
	}
	for _, g := range want {
		e.apply(ofctl.GroupMod{Group: g})
	}
	got := make(map[uint32]string)
	for _, g := range e.groups() {
		got[g.ID] = g.String()
	}
	require.Len(e.t, got, len(want))
	for _, g := range want {
		require.Equal(e.t, g.String(), got[g.ID])
	}
}
