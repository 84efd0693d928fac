package ofctltest

import (
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/ofctl"
)

// flagCases: flags and filters of flow-mods.
func flagCases() []conformanceCase {
	return []conformanceCase{
		{"out_port and out_group select what sends there", caseOutFilters},
		{"delete with out_port leaves the others", caseDeleteByOutput},
		{"check_overlap refuses what is ambiguous", caseCheckOverlap},
		{"reset_counts counts anew", caseResetCounts},
		{"flags that a switch keeps", caseKeptFlags},
		{"an aggregate is the sum", caseAggregate},
	}
}

// outputs are three flows: to port 1, to group 7, and to port 1 in the action set.
func (e *env) outputs() {
	e.t.Helper()
	e.apply(ofctl.GroupMod{Group: ofctl.Group{ID: 7, Type: ofctl.GroupIndirect, Buckets: []ofctl.Bucket{{Actions: e.to(1)}}}})
	e.add(ofctl.Flow{Priority: 1, Match: ofctl.TCP4(), Apply: e.to(1)},
		ofctl.Flow{Priority: 1, Match: ofctl.UDP4(), Apply: []ofctl.Action{ofctl.ToGroup{ID: 7}}},
		ofctl.Flow{Priority: 1, Match: ofctl.ARP(), Write: e.to(1)},
		ofctl.Flow{Priority: 1, Match: ofctl.ICMP4(), Apply: e.to(2)})
}

func caseOutFilters(e *env) {
	e.outputs()
	require.Len(e.t, e.flows(ofctl.FlowFilter{Table: ofctl.TableAll, OutPort: e.p[1]}), 2)
	byGroup := e.flows(ofctl.FlowFilter{Table: ofctl.TableAll, OutGroup: 7})
	require.Len(e.t, byGroup, 1)
	require.True(e.t, byGroup[0].Match.Equal(ofctl.UDP4()))
	require.Empty(e.t, e.flows(ofctl.FlowFilter{Table: ofctl.TableAll, OutPort: e.p[3]}))
}

func caseDeleteByOutput(e *env) {
	e.outputs()
	all := ofctl.Flow{Table: ofctl.TableAll}
	e.apply(ofctl.FlowMod{Command: ofctl.Delete, Flow: all, OutGroup: 7})
	require.Len(e.t, e.flows(ofctl.AllFlows), 3)
	e.apply(ofctl.FlowMod{Command: ofctl.DeleteStrict, Flow: ofctl.Flow{Priority: 1, Match: ofctl.ICMP4()}, OutPort: e.p[1]})
	require.Len(e.t, e.flows(ofctl.AllFlows), 3, "it sends elsewhere")
	e.apply(ofctl.FlowMod{Command: ofctl.Delete, Flow: all, OutPort: e.p[1]})
	require.True(e.t, e.one().Match.Equal(ofctl.ICMP4()))
}

func caseCheckOverlap(e *env) {
	e.add(ofctl.Flow{Priority: 5, Match: ofctl.TCP4(ofctl.TCPDst(80))})
	check := func(f ofctl.Flow) ofctl.FlowMod { return ofctl.FlowMod{Flow: f, CheckOverlap: true} }
	e.refused(ofctl.ErrTypeFlowModFailed, flowModOverlap, check(ofctl.Flow{Priority: 5, Match: ofctl.TCP4(ofctl.TCPSrc(9))}))
	e.refused(ofctl.ErrTypeFlowModFailed, flowModOverlap, check(ofctl.Flow{Priority: 5}))
	e.apply(check(ofctl.Flow{Priority: 6}), check(ofctl.Flow{Priority: 5, Match: ofctl.UDP4()}),
		check(ofctl.Flow{Priority: 5, Match: ofctl.TCP4(ofctl.TCPDst(81))}))
	require.Len(e.t, e.flows(ofctl.AllFlows), 4)
}

func caseResetCounts(e *env) {
	f := ofctl.Flow{Priority: 1, Match: ofctl.TCP4(), Apply: e.to(1)}
	count := func(want uint64) {
		e.t.Helper()
		e.send(0, tcpAB(1, 2, "x"))
		e.want(1, tcpAB(1, 2, "x"))
		require.Equal(e.t, want, e.one().Packets)
	}
	e.add(f)
	count(1)
	e.apply(ofctl.FlowMod{Command: ofctl.Modify, Flow: f})
	count(2)
	e.apply(ofctl.FlowMod{Command: ofctl.Modify, Flow: f, ResetCounts: true})
	count(1)
	e.apply(ofctl.FlowMod{Flow: f, ResetCounts: true})
	count(1)
}

func caseKeptFlags(e *env) {
	f := ofctl.Flow{Priority: 1, Match: ofctl.TCP4(), SendFlowRemoved: true, NoPacketCounts: true, NoByteCounts: true}
	e.apply(ofctl.FlowMod{Flow: f, CheckOverlap: true, ResetCounts: true})
	require.Equal(e.t, f.String(), e.one().Flow.String())
}

func caseAggregate(e *env) {
	e.outputs()
	e.send(0, tcpAB(1, 2, "x"))
	e.want(1, tcpAB(1, 2, "x"))
	e.h.Settle()
	sum, err := e.sw.Aggregate(e.ctx, ofctl.FlowFilter{Match: ofctl.IP4()})
	require.NoError(e.t, err)
	require.Equal(e.t, ofctl.Aggregate{Packets: 1, Bytes: uint64(len(tcpAB(1, 2, "x"))), Flows: 3}, sum)
	sum, err = e.sw.Aggregate(e.ctx, ofctl.FlowFilter{Table: 9})
	require.NoError(e.t, err)
	require.Zero(e.t, sum)
}
