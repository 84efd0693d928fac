package ofctltest

import (
	"time"

	"github.com/stretchr/testify/require"
	"github.com/viasnet/vias/ofctl"
)

// lifetimeCases: time-outs and FlowRemoved. Time-outs are whole seconds and real
// switches take theirs to look.
func lifetimeCases() []conformanceCase {
	return []conformanceCase{
		{"idle time-out", caseIdle},
		{"hard time-out", caseHard},
		{"modify restarts the hard time-out", caseRenew},
		{"flow removed by delete, with counters", caseRemoved},
		{"replaced and silent flows go without a word", caseSilent},
	}
}

func caseIdle(e *env) {
	w := e.watch(e.sw)
	f := ofctl.Flow{Priority: 3, Cookie: 0x1d1e, Match: tcpTo(80), IdleTimeout: 1, SendFlowRemoved: true, Apply: e.to(1)}
	e.add(f, ofctl.Flow{Priority: 2, Match: tcpTo(81), IdleTimeout: 100})
	e.send(0, tcpAB(1, 80, "x"))
	e.want(1, tcpAB(1, 80, "x"))
	e.quiet()
	ev := next[ofctl.FlowRemoved](w)
	require.Equal(e.t, ofctl.RemovedIdle, ev.Reason)
	f.Apply = nil
	require.Equal(e.t, f.String(), ev.Flow.String())
	require.EqualValues(e.t, 1, ev.Packets)
	require.EqualValues(e.t, len(tcpAB(1, 80, "x")), ev.Bytes)
	require.GreaterOrEqual(e.t, ev.DurationSeconds, uint32(1))
	require.EqualValues(e.t, 2, e.one().Priority)
	e.send(0, tcpAB(1, 80, "x"))
}

func caseHard(e *env) {
	w := e.watch(e.sw)
	start := time.Now()
	e.add(ofctl.Flow{Cookie: 0x4a4d, Match: tcpTo(80), HardTimeout: 1, IdleTimeout: 100, SendFlowRemoved: true})
	ev := next[ofctl.FlowRemoved](w)
	require.Equal(e.t, ofctl.RemovedHard, ev.Reason)
	require.EqualValues(e.t, 0x4a4d, ev.Flow.Cookie)
	require.GreaterOrEqual(e.t, time.Since(start), time.Second)
	require.Empty(e.t, e.flows(ofctl.AllFlows))
}

// caseRenew: a lease is renewed by modifying the flow as it is.
func caseRenew(e *env) {
	w := e.watch(e.sw)
	lease := ofctl.Flow{Cookie: 1, Match: tcpTo(80), HardTimeout: 2, SendFlowRemoved: true, Apply: e.to(1)}
	clock := lease
	clock.Cookie, clock.HardTimeout, clock.Match = 2, 1, tcpTo(81)
	start := time.Now()
	e.add(lease, clock)
	require.EqualValues(e.t, 2, next[ofctl.FlowRemoved](w).Flow.Cookie)
	renewed := time.Now()
	e.apply(ofctl.FlowMod{Command: ofctl.ModifyStrict, Flow: lease})
	ev := next[ofctl.FlowRemoved](w)
	require.EqualValues(e.t, 1, ev.Flow.Cookie)
	require.Equal(e.t, ofctl.RemovedHard, ev.Reason)
	require.GreaterOrEqual(e.t, time.Since(renewed), 2*time.Second)
	age := time.Duration(ev.DurationSeconds)*time.Second + time.Duration(ev.DurationNanosecs)
	require.GreaterOrEqual(e.t, age, 3*time.Second-10*time.Millisecond, "the age is since it was added, %v ago", time.Since(start))
}

func caseRemoved(e *env) {
	w := e.watch(e.sw)
	f := ofctl.Flow{Table: 0, Priority: 5, Cookie: 0xdead, Match: tcpTo(80), SendFlowRemoved: true, Apply: e.to(1)}
	e.add(f)
	e.send(0, tcpAB(1, 80, "x"))
	e.want(1, tcpAB(1, 80, "x"))
	e.quiet()
	e.apply(ofctl.FlowMod{Command: ofctl.DeleteStrict, Flow: f})
	ev := next[ofctl.FlowRemoved](w)
	require.Equal(e.t, ofctl.RemovedDelete, ev.Reason)
	require.EqualValues(e.t, 1, ev.Packets)
	f.Apply = nil
	require.Equal(e.t, f.String(), ev.Flow.String())
}

func caseSilent(e *env) {
	w := e.watch(e.sw)
	loud := ofctl.Flow{Priority: 5, Cookie: 1, Match: tcpTo(80), SendFlowRemoved: true}
	silent := ofctl.Flow{Priority: 6, Cookie: 2, Match: tcpTo(80)}
	e.add(loud, silent)
	loud.Cookie = 3
	e.add(loud) // replaces
	e.apply(ofctl.FlowMod{Command: ofctl.Delete, Flow: ofctl.Flow{Cookie: 2}, CookieMask: ^uint64(0)})
	e.apply(ofctl.FlowMod{Command: ofctl.Delete, Flow: ofctl.Flow{Match: tcpTo(80)}})
	require.EqualValues(e.t, 3, next[ofctl.FlowRemoved](w).Flow.Cookie)
}
