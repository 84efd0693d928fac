package ofctltest

import (
	"bytes"

	"github.com/stretchr/testify/require"
	"github.com/viasnet/vias/ofctl"
)

// normalCases: the NORMAL action, and the VLANs of ports.
func normalCases() []conformanceCase {
	return []conformanceCase{
		{"NORMAL floods, learns and forwards", caseLearning},
		{"NORMAL keeps access ports of two VLANs apart", caseAccess},
		{"NORMAL tags and untags between trunk and access port", caseTrunk},
		{"NORMAL forwards the rewritten frame", caseNormalRewritten},
	}
}

// frameTo is a small frame of no known protocol.
func frameTo(dst, src [6]byte) []byte { return ethernet(dst, src, 0x88b6, make([]byte, 46)) }

func (e *env) normal() {
	e.t.Helper()
	e.add(ofctl.Flow{Apply: []ofctl.Action{ofctl.Normal()}})
}

func caseLearning(e *env) {
	e.normal()
	e.send(0, frameTo(macB, macA))
	for i := 1; i < 4; i++ {
		e.want(i, frameTo(macB, macA))
	}
	e.quiet()
	e.send(2, frameTo(macA, macB))
	e.want(0, frameTo(macA, macB))
	e.quiet()
	e.h.Settle()
	e.send(0, frameTo(macB, macA))
	e.want(2, frameTo(macB, macA))
	e.quiet()
	// To a station on the same port: nowhere.
	e.send(2, frameTo(macB, macC))
	e.quiet()
	// A station that moves takes its frames with it.
	e.send(3, frameTo(macA, macB))
	e.want(0, frameTo(macA, macB))
	e.quiet()
	e.h.Settle()
	e.send(0, frameTo(macB, macA))
	e.want(3, frameTo(macB, macA))
}

func caseAccess(e *env) {
	e.normal()
	e.h.SetTag(e.p[0], 7)
	e.h.SetTag(e.p[1], 7)
	e.h.SetTag(e.p[2], 8)
	e.h.SetTag(e.p[3], 9)
	e.h.Settle()
	e.send(0, frameTo(macB, macA))
	e.want(1, frameTo(macB, macA))
	e.quiet()
	e.send(2, frameTo(macA, macB)) // macA is learnt, in another VLAN
	e.quiet()
	e.send(0, withTag(frameTo(macB, macA), 8)) // an access port admits no tags
}

func caseTrunk(e *env) {
	e.normal()
	e.h.SetTag(e.p[0], 7)
	e.h.SetTag(e.p[1], 8)
	e.h.Settle()
	e.send(0, frameTo(macB, macA))
	e.want(2, withTag(frameTo(macB, macA), 7))
	e.want(3, withTag(frameTo(macB, macA), 7))
	e.quiet()
	e.send(2, withTag(frameTo(macA, macB), 7))
	e.want(0, frameTo(macA, macB))
	e.quiet()
	e.send(2, frameTo(macA, macC)) // untagged is VLAN 0: only trunks carry it
	e.want(3, frameTo(macA, macC))
}

func caseNormalRewritten(e *env) {
	e.add(
		ofctl.Flow{Priority: 1, Apply: []ofctl.Action{ofctl.Normal()}},
		ofctl.Flow{
			Priority: 2, Match: ofctl.TCP4(),
			Apply: append(sets(ofctl.EthDst(macC)), ofctl.Normal()),
		},
	)
	e.send(3, frameTo(macB, macC)) // macC is behind port 3
	for i := range 3 {
		e.want(i, frameTo(macB, macC))
	}
	e.quiet()
	e.h.Settle()
	in := tcpAB(1, 2, "x")
	e.send(0, in)
	e.want(3, append(ethernet(macC, macA, etherIPv4, nil), in[14:]...))
}

// controllerCases: packet-in, packet-out, ports.
func controllerCases() []conformanceCase {
	return []conformanceCase{
		{"packet-in has max_len bytes at least", casePacketIn},
		{"packet-in of the table-miss flow", casePacketInMiss},
		{"packet-out to a port", casePacketOutPort},
		{"packet-out through the tables has its in_port", casePacketOutTable},
		{"packet-out rewrites", casePacketOutRewrites},
		{"packet-out that is refused", casePacketOutRefused},
		{"features", caseFeatures},
		{"port description and port status", casePorts},
	}
}

func casePacketIn(e *env) {
	w := e.watch(e.sw)
	e.add(
		ofctl.Flow{Match: tcpTo(80), Goto: 7},
		ofctl.Flow{Table: 7, Priority: 9, Cookie: 0xc0, Match: tcpTo(80), Apply: append([]ofctl.Action{ofctl.ToController(64)}, e.to(1)...)},
	)
	frame := tcpAB(1, 80, string(bytes.Repeat([]byte("data"), 50)))
	e.send(2, frame)
	e.want(1, frame)
	ev := next[ofctl.PacketIn](w)
	// max_len is what comes at least: a switch without buffers, as Open vSwitch is
	// one, sends the whole frame.
	require.GreaterOrEqual(e.t, len(ev.Frame), 64)
	require.Equal(e.t, ofctl.PacketIn{
		Table: 7, Cookie: 0xc0, InPort: e.p[2], Reason: reasonAction, TotalLen: len(frame), Frame: frame[:len(ev.Frame)],
	}, ev)
	e.add(ofctl.Flow{Table: 7, Priority: 10, Match: tcpTo(80), Apply: []ofctl.Action{ofctl.ToController(0xffff)}})
	e.send(2, frame)
	ev = next[ofctl.PacketIn](w)
	require.Equal(e.t, frame, ev.Frame)
}

func casePacketInMiss(e *env) {
	w := e.watch(e.sw)
	e.add(ofctl.Flow{Cookie: 5, Apply: []ofctl.Action{ofctl.ToController(0xffff)}})
	e.send(1, tcpAB(1, 80, "x"))
	require.Equal(e.t, ofctl.PacketIn{
		Cookie: 5, InPort: e.p[1], Reason: reasonNoMatch, TotalLen: len(tcpAB(1, 80, "x")), Frame: tcpAB(1, 80, "x"),
	}, next[ofctl.PacketIn](w))
}

func (e *env) packetOut(in uint32, frame []byte, as ...ofctl.Action) {
	e.t.Helper()
	require.NoError(e.t, e.sw.PacketOut(e.ctx, ofctl.PacketOut{InPort: in, Actions: as, Frame: frame}))
}

func casePacketOutPort(e *env) {
	frame := tcpAB(1, 80, "x")
	e.packetOut(0, frame, ofctl.Output{Port: e.p[1]}, ofctl.Output{Port: e.p[2]})
	e.want(1, frame)
	e.want(2, frame)
	e.packetOut(e.p[0], frame, ofctl.Output{Port: ofctl.PortAll})
	for i := 1; i < 4; i++ {
		e.want(i, frame)
	}
	e.packetOut(0, frame, ofctl.Normal())
	for i := range 4 {
		e.want(i, frame)
	}
}

func casePacketOutTable(e *env) {
	e.add(
		ofctl.Flow{Match: ofctl.Match{ofctl.InPort(e.p[0])}, Apply: e.to(1)},
		ofctl.Flow{Match: ofctl.Match{ofctl.InPort(ofctl.PortController)}, Apply: e.to(2)},
	)
	frame := tcpAB(1, 80, "x")
	e.packetOut(e.p[0], frame, ofctl.Output{Port: ofctl.PortTable})
	e.want(1, frame)
	e.packetOut(0, frame, ofctl.Output{Port: ofctl.PortTable})
	e.want(2, frame)
	e.packetOut(e.p[3], frame, ofctl.Output{Port: ofctl.PortTable})
}

func casePacketOutRewrites(e *env) {
	e.packetOut(0, tcpAB(1, 80, "x"), append(sets(ofctl.TCPDst(81), ofctl.EthDst(macC)), e.to(1)...)...)
	out := tcpAB(1, 81, "x")
	e.want(1, append(ethernet(macC, macA, etherIPv4, nil), out[14:]...))
	e.apply(ofctl.GroupMod{Group: indirect(1, e.to(2)...)})
	e.packetOut(0, tcpAB(1, 80, "x"), ofctl.ToGroup{ID: 1})
	e.want(2, tcpAB(1, 80, "x"))
}

func casePacketOutRefused(e *env) {
	w := e.watch(e.sw)
	e.packetOut(0, tcpAB(1, 80, "x"), ofctl.ToGroup{ID: 99})
	ev := next[ofctl.Refused](w)
	require.Equal(e.t, [2]uint16{2, 9}, [2]uint16{ev.Err.Type, ev.Err.Code}, "%v", ev.Err)
	require.NoError(e.t, e.sw.Apply(e.ctx, nil), "the connection is none the worse")
}

func caseFeatures(e *env) {
	f := e.sw.Features()
	require.NotZero(e.t, f.DatapathID)
	require.GreaterOrEqual(e.t, f.Tables, uint8(250))
	want := ofctl.CapBundle | ofctl.CapFragMatch | ofctl.CapPortMask | ofctl.CapTTLMatch | ofctl.CapTether
	require.True(e.t, f.Capabilities.Has(want), "%b", f.Capabilities)
}

func casePorts(e *env) {
	w := e.watch(e.sw)
	ports := func() map[uint32]ofctl.Port {
		ps, err := e.sw.Ports(e.ctx)
		require.NoError(e.t, err)
		m := make(map[uint32]ofctl.Port)
		for _, p := range ps {
			m[p.No] = p
		}
		return m
	}
	before := ports()
	require.Len(e.t, before, 5)
	require.Contains(e.t, before, ofctl.PortLocal)
	for _, no := range e.p {
		require.NotEmpty(e.t, before[no].Name)
		require.NotZero(e.t, before[no].MAC)
	}
	e.h.AddPort("extra")
	var added ofctl.PortStatus
	for added.Port.Name != "extra" || added.Reason != ofctl.PortAdded {
		added = next[ofctl.PortStatus](w)
	}
	require.NotContains(e.t, before, added.Port.No)
	require.Contains(e.t, ports(), added.Port.No)
	e.h.DeletePort("extra")
	gone := added
	for gone.Reason != ofctl.PortDeleted {
		gone = next[ofctl.PortStatus](w)
	}
	require.Equal(e.t, added.Port.No, gone.Port.No)
	require.Len(e.t, ports(), 5)
}
