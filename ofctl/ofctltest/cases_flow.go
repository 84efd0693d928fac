package ofctltest

import (
	"errors"
	"fmt"

	"github.com/stretchr/testify/require"
	"github.com/viasnet/vias/ofctl"
)

// to sends out of port number i of the four.
func (e *env) to(i int) []ofctl.Action { return []ofctl.Action{ofctl.Output{Port: e.p[i]}} }

// tcpTo matches TCP to a port.
func tcpTo(port uint16) ofctl.Match { return ofctl.TCP4(ofctl.TCPDst(port)) }

// flowCases: what the commands of flow-mods do.
func flowCases() []conformanceCase {
	return []conformanceCase{
		{"miss drops", func(e *env) { e.send(0, tcpAB(1, 2, "x")) }},
		{"add forwards and counts", caseAddForwards},
		{"highest priority wins", casePriority},
		{"add replaces all but the counters", caseAddReplaces},
		{"modify changes instructions only", caseModify},
		{"modify never adds", caseModifyNone},
		{"modify strict wants match and priority", caseModifyStrict},
		{"delete takes what is more specific", caseDelete},
		{"delete strict wants match and priority", caseDeleteStrict},
		{"delete in all tables", caseDeleteAll},
		{"cookie mask limits modify and delete", caseCookieMask},
		{"dump filters by table, cookie and match", caseDumpFilters},
		{"dump returns every field as it was written", caseRoundTrip},
		{"dump of 2000 flows", caseBigDump},
		{"refusals of flows", caseRefusedFlows},
	}
}

func caseAddForwards(e *env) {
	e.add(ofctl.Flow{Priority: 7, Cookie: 0x77, Match: tcpTo(80), Apply: e.to(1)})
	frame := tcpAB(1000, 80, "hello")
	for range 3 {
		e.send(0, frame)
		e.want(1, frame)
	}
	e.send(0, tcpAB(1000, 81, "other"))
	e.quiet()
	f := e.one()
	require.Equal(e.t, [2]uint64{3, 3 * uint64(len(frame))}, [2]uint64{f.Packets, f.Bytes})
}

func casePriority(e *env) {
	e.add(
		ofctl.Flow{Priority: 10, Apply: e.to(1)},
		ofctl.Flow{Priority: 30, Match: tcpTo(80), Apply: e.to(3)},
		ofctl.Flow{Priority: 20, Match: ofctl.TCP4(), Apply: e.to(2)},
	)
	for i, frame := range [][]byte{udpAB(1, 80, "u"), tcpAB(1, 81, "t"), tcpAB(1, 80, "p")} {
		e.send(0, frame)
		e.want(i+1, frame)
	}
	// Without instructions a flow drops, whatever is below it.
	e.add(ofctl.Flow{Priority: 40, Match: tcpTo(80)})
	e.send(0, tcpAB(1, 80, "dropped"))
}

func caseAddReplaces(e *env) {
	f := ofctl.Flow{Priority: 7, Cookie: 1, Match: tcpTo(80), Apply: e.to(1)}
	e.add(f)
	frame := tcpAB(1, 80, "x")
	e.send(0, frame)
	e.want(1, frame)
	require.EqualValues(e.t, 1, e.one().Packets)
	f.Cookie, f.Apply, f.IdleTimeout = 2, e.to(2), 100
	e.add(f)
	got := e.one()
	require.Equal(e.t, f.String(), got.Flow.String())
	// OpenFlow 1.3.5, section 6.4: OFPFF_RESET_COUNTS is not sent.
	require.Equal(e.t, [2]uint64{1, uint64(len(frame))}, [2]uint64{got.Packets, got.Bytes})
	e.send(0, frame)
	e.want(2, frame)
}

func caseModify(e *env) {
	f := ofctl.Flow{
		Priority: 7, Cookie: 1, Match: tcpTo(80), Apply: e.to(1),
		IdleTimeout: 100, HardTimeout: 200, SendFlowRemoved: true,
	}
	other := ofctl.Flow{Priority: 9, Match: ofctl.UDP4(), Apply: e.to(3)}
	e.add(f, other)
	frame := tcpAB(1, 80, "x")
	e.send(0, frame)
	e.want(1, frame)
	e.apply(ofctl.FlowMod{Command: ofctl.Modify, Flow: ofctl.Flow{
		Priority: 99, Cookie: 2, Match: ofctl.TCP4(), Apply: e.to(2), IdleTimeout: 5, HardTimeout: 6,
	}})
	e.send(0, frame)
	e.want(2, frame)
	f.Apply = e.to(2)
	got := e.flows(ofctl.FlowFilter{Match: ofctl.TCP4()})
	require.Len(e.t, got, 1)
	require.Equal(e.t, f.String(), got[0].Flow.String(), "all but the instructions stays")
	require.EqualValues(e.t, 2, got[0].Packets, "counters stay")
	require.Len(e.t, e.flows(ofctl.AllFlows), 2)
}

func caseModifyNone(e *env) {
	e.apply(
		ofctl.FlowMod{Command: ofctl.Modify, Flow: ofctl.Flow{Match: tcpTo(80), Apply: e.to(1)}},
		ofctl.FlowMod{Command: ofctl.ModifyStrict, Flow: ofctl.Flow{Match: tcpTo(80), Apply: e.to(1)}},
	)
	require.Empty(e.t, e.flows(ofctl.AllFlows))
}

func caseModifyStrict(e *env) {
	e.add(
		ofctl.Flow{Priority: 1, Match: ofctl.TCP4(), Apply: e.to(1)},
		ofctl.Flow{Priority: 2, Match: ofctl.TCP4(), Apply: e.to(1)},
		ofctl.Flow{Priority: 3, Match: tcpTo(80), Apply: e.to(1)},
	)
	e.apply(ofctl.FlowMod{Command: ofctl.ModifyStrict, Flow: ofctl.Flow{
		Priority: 2, Match: ofctl.TCP4(), Apply: e.to(2),
	}})
	e.send(0, tcpAB(1, 80, "p3"))
	e.want(1, tcpAB(1, 80, "p3"))
	e.send(0, tcpAB(1, 81, "p2"))
	e.want(2, tcpAB(1, 81, "p2"))
}

func caseDelete(e *env) {
	e.add(
		ofctl.Flow{Priority: 1, Match: ofctl.UDP4(), Apply: e.to(1)},
		ofctl.Flow{Priority: 2, Match: tcpTo(80), Apply: e.to(1)},
		ofctl.Flow{Priority: 3, Match: ofctl.TCP4(ofctl.TCPDst(80), ofctl.InPort(e.p[0])), Apply: e.to(1)},
		ofctl.Flow{Priority: 4, Match: ofctl.TCP4(), Apply: e.to(2)},
	)
	e.send(0, tcpAB(1, 80, "x"))
	e.want(2, tcpAB(1, 80, "x"))
	e.apply(ofctl.FlowMod{Command: ofctl.Delete, Flow: ofctl.Flow{Priority: 77, Match: tcpTo(80)}})
	require.Len(e.t, e.flows(ofctl.AllFlows), 2)
	e.apply(ofctl.FlowMod{Command: ofctl.Delete, Flow: ofctl.Flow{Match: ofctl.TCP4()}})
	require.Equal(e.t, ofctl.UDP4().String(), e.one().Match.String())
	e.send(0, tcpAB(1, 80, "x"))
}

func caseDeleteStrict(e *env) {
	e.add(
		ofctl.Flow{Priority: 1, Match: ofctl.TCP4(), Apply: e.to(1)},
		ofctl.Flow{Priority: 2, Match: ofctl.TCP4(), Apply: e.to(2)},
		ofctl.Flow{Priority: 2, Match: tcpTo(80), Apply: e.to(3)},
	)
	e.apply(
		ofctl.FlowMod{Command: ofctl.DeleteStrict, Flow: ofctl.Flow{Priority: 2, Match: ofctl.TCP4()}},
		ofctl.FlowMod{Command: ofctl.DeleteStrict, Flow: ofctl.Flow{Priority: 5, Match: ofctl.TCP4()}},
	)
	require.Len(e.t, e.flows(ofctl.AllFlows), 2)
	e.send(0, tcpAB(1, 81, "x"))
	e.want(1, tcpAB(1, 81, "x"))
}

func caseDeleteAll(e *env) {
	for table := range uint8(5) {
		e.add(ofctl.Flow{Table: table * 50, Cookie: 5, Match: tcpTo(80), Apply: e.to(1)})
	}
	require.Len(e.t, e.flows(ofctl.AllFlows), 5)
	e.apply(ofctl.FlowMod{Command: ofctl.Delete, Flow: ofctl.Flow{Table: 50}})
	require.Len(e.t, e.flows(ofctl.AllFlows), 4)
	e.apply(ofctl.FlowMod{Command: ofctl.Delete, Flow: ofctl.Flow{Table: ofctl.TableAll, Cookie: 5}, CookieMask: 0xff})
	require.Empty(e.t, e.flows(ofctl.AllFlows))
}

func caseCookieMask(e *env) {
	for i := range uint64(4) {
		e.add(ofctl.Flow{Priority: uint16(i), Cookie: 0xab00 + i, Match: tcpTo(80), Apply: e.to(1)})
	}
	del := ofctl.FlowMod{Command: ofctl.Delete, Flow: ofctl.Flow{Cookie: 0xab02}, CookieMask: ^uint64(0)}
	e.apply(del)
	require.Len(e.t, e.flows(ofctl.AllFlows), 3)
	e.apply(ofctl.FlowMod{
		Command: ofctl.Modify, Flow: ofctl.Flow{Cookie: 0x1, Apply: e.to(2)}, CookieMask: 0x1,
	})
	for _, f := range e.flows(ofctl.AllFlows) {
		want := e.to(1)
		if f.Cookie&1 == 1 {
			want = e.to(2)
		}
		require.Equal(e.t, want, f.Apply)
	}
	// The cookie limits strict commands too.
	strict := ofctl.FlowMod{
		Command: ofctl.DeleteStrict, CookieMask: 0xff,
		Flow: ofctl.Flow{Priority: 1, Cookie: 0x99, Match: tcpTo(80)},
	}
	e.apply(strict)
	require.Len(e.t, e.flows(ofctl.AllFlows), 3)
	strict.Flow.Cookie = 0x01
	e.apply(strict)
	require.Len(e.t, e.flows(ofctl.AllFlows), 2)
}

func caseDumpFilters(e *env) {
	e.add(
		ofctl.Flow{Table: 0, Cookie: 0x10, Match: tcpTo(80), Apply: e.to(1)},
		ofctl.Flow{Table: 1, Cookie: 0x11, Match: tcpTo(81), Apply: e.to(1)},
		ofctl.Flow{Table: 1, Cookie: 0x21, Match: ofctl.UDP4(), Apply: e.to(1)},
	)
	for _, c := range []struct {
		name   string
		filter ofctl.FlowFilter
		want   int
	}{
		{"all", ofctl.AllFlows, 3},
		{"the zero filter is table 0", ofctl.FlowFilter{}, 1},
		{"table 1", ofctl.FlowFilter{Table: 1}, 2},
		{"no such table", ofctl.FlowFilter{Table: 9}, 0},
		{"cookie", ofctl.Owned(0x10, 0xf0), 2},
		{"whole cookie", ofctl.Owned(0x21, ^uint64(0)), 1},
		{"match", ofctl.FlowFilter{Table: ofctl.TableAll, Match: ofctl.TCP4()}, 2},
		{"match and cookie", ofctl.FlowFilter{Table: ofctl.TableAll, Match: ofctl.TCP4(), Cookie: 1, CookieMask: 1}, 1},
	} {
		require.Len(e.t, e.flows(c.filter), c.want, c.name)
	}
}

func caseRoundTrip(e *env) {
	want := ofctl.Flow{
		Table: 3, Priority: 0xfffe, Cookie: 0x0123456789abcdef, IdleTimeout: 11, HardTimeout: 12,
		SendFlowRemoved: true,
		Match: ofctl.TCP4(ofctl.InPort(e.p[0]), ofctl.Untagged(), ofctl.EthSrc(macA), ofctl.NotFragment(),
			ofctl.Metadata(0x100, 0xf00), ofctl.IPv4Dst(prefix("10.1.0.0/16")), ofctl.IPDSCP(9),
			ofctl.PortRange(ofctl.TCPDst(0xf000), 0xf000), ofctl.TCPSrc(4)),
		Apply: []ofctl.Action{
			ofctl.SetField{Field: ofctl.IPv4Dst(prefix("10.9.9.9/32"))}, ofctl.DecTTL{},
			ofctl.ToController(77), ofctl.Output{Port: ofctl.PortInPort}, ofctl.Normal(),
		},
		Clear: true, Write: e.to(2), Metadata: ofctl.MetadataWrite{Value: 5, Mask: 0xff}, Goto: 200,
	}
	e.add(want)
	require.Equal(e.t, want.String(), e.one().Flow.String())
}

func caseBigDump(e *env) {
	flows := make([]ofctl.Flow, 2000)
	for i := range flows {
		flows[i] = ofctl.Flow{Priority: 9, Cookie: uint64(i), Match: tcpTo(uint16(i)), Apply: e.to(1)}
	}
	e.add(flows...)
	got := e.flows(ofctl.AllFlows)
	require.Len(e.t, got, len(flows))
	seen := make(map[uint64]bool)
	for _, f := range got {
		seen[f.Cookie] = true
	}
	require.Len(e.t, seen, len(flows))
}

// caseRefusedFlows: the client may refuse some of these itself.
func caseRefusedFlows(e *env) {
	flow := func(m ofctl.Match, as ...ofctl.Action) ofctl.Flow { return ofctl.Flow{Match: m, Apply: as} }
	src := prefix("10.0.0.1/32")
	for _, c := range []struct {
		name      string
		typ, code uint16
		flow      ofctl.Flow
	}{
		{"unknown group", 2, 9, flow(nil, ofctl.ToGroup{ID: 99})},
		{"output to no port", 2, 4, flow(nil, ofctl.Output{Port: ofctl.PortAny})},
		{"output beyond 16 bits", 2, 4, flow(nil, ofctl.Output{Port: 0x12345})},
		{"set_field without prerequisite", 2, 10, flow(nil, ofctl.SetField{Field: ofctl.IPv4Src(src)})},
		{"set_field vlan without a tag", 2, 10, flow(nil, ofctl.SetField{Field: ofctl.VLAN(5)})},
		{"pop of no tag", 2, 10, flow(nil, ofctl.PopVLAN{})},
		{"dec_ttl without IP", 2, 10, flow(nil, ofctl.DecTTL{})},
		{"masked set_field", 2, 13, flow(ofctl.IP4(), ofctl.SetField{Field: ofctl.IPv4Src(prefix("10.0.0.0/8"))})},
		{"set_field of eth_type", 2, 15, flow(nil, ofctl.SetField{Field: ofctl.EthType(1)})},
		{"tether to all tables", 2, 5, flow(nil, ofctl.Tether{Table: ofctl.TableAll})},
		{"tether in an action set", 2, 0, ofctl.Flow{Write: []ofctl.Action{ofctl.Tether{Table: 1}}}},
		{"goto backwards", 3, 2, ofctl.Flow{Table: 5, Goto: 4}},
		{"goto itself", 3, 2, ofctl.Flow{Table: 5, Goto: 5}},
		{"no such table", 5, 2, ofctl.Flow{Table: 255}},
		{"tcp_dst without tcp", 4, 9, flow(ofctl.IP4(ofctl.TCPDst(80)))},
		{"tcp_dst of udp", 4, 9, flow(ofctl.UDP4(ofctl.TCPDst(80)))},
		{"nw_src of arp", 4, 9, flow(ofctl.ARP(ofctl.IPv4Src(src)))},
		{"field twice", 4, 10, flow(ofctl.TCP4(ofctl.IPProto(6)))},
	} {
		e.t.Log(c.name)
		e.refused(c.typ, c.code, ofctl.FlowMod{Flow: c.flow})
	}
	// The connection has outlived them all.
	var se *ofctl.SwitchError
	err := e.sw.Apply(e.ctx, []ofctl.Mod{ofctl.FlowMod{Flow: flow(nil, ofctl.ToGroup{ID: 98})}})
	require.True(e.t, errors.As(err, &se), fmt.Sprint(err))
}
