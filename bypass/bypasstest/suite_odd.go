package bypasstest

import (
	"net/netip"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
)

// caseExtensions: a switch may look through IPv6 extension headers and have no way to be
// told not to, as Open vSwitch. So a frame of the flow that has some either stays what and
// where it is, or is rewritten like any other; and what was rewritten is rewritten back.
func caseExtensions(e *env) {
	e.set(e.guarded())
	e.bypassed(e.lease(long, long))
	for _, exts := range [][]uint8{
		{ExtHopByHop}, {ExtDestination}, {ExtRouting}, {ExtAuth}, {ExtFragment}, {ExtHopByHop, ExtDestination, ExtRouting},
	} {
		e.t.Log(exts)
		behind := func(p Packet) Packet { return with(p, func(p *Packet) { p.Ext = exts }) }
		e.eitherWay(exts, WorkloadA, behind(e.sent()), Plain, Uplink, behind(e.onWire()))
		e.eitherWay(exts, Uplink, behind(e.arriving()), Stack, WorkloadA, behind(e.delivered()))
	}
	e.noEvent()
}

// eitherWay asserts that p, from an end, leaves unchanged at one end, or as rewritten at
// another one.
func (e *env) eitherWay(exts []uint8, from End, p Packet, unchanged, changed End, rewritten Packet) {
	e.t.Helper()
	e.b.Send(from, p.Frame())
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if got := e.b.Recv(unchanged, e.quiet/10); got != nil {
			require.Equal(e.t, p.Frame(), got)
			return
		}
		got := e.b.Recv(changed, e.quiet/10)
		if got == nil {
			continue
		}
		want := rewritten.Frame()
		if exts[0] == ExtFragment { // Open vSwitch leaves its checksum behind, until it is rewritten back
			sum := len(want) - len(p.Payload) - 2
			if e.proto == bypass.TCP {
				sum -= 2
			}
			copy(got[sum:sum+2], want[sum:])
		}
		require.Equal(e.t, want, got)
		return
	}
	require.FailNow(e.t, "nothing arrived")
}

// errorType is that of the error which says that a packet is too big.
func (e *env) errorType() uint8 {
	if e.family == bypass.IPv4 {
		return 3
	}
	return 2
}

func echoType(f bypass.Family) uint8 {
	if f == bypass.IPv4 {
		return 8
	}
	return 128
}

// icmpError is a router's, about what we sent in the flow.
func (e *env) icmpError(typ uint8) ICMP {
	return ICMP{
		SrcMAC: routerMAC, DstMAC: uplinkMAC, Src: e.underOther, Dst: e.underLocal, TTL: 60,
		Type: typ, Rest: 1400, Body: e.onWire().Frame()[ethLen:],
	}
}

func errorCases() []datapathCase {
	return []datapathCase{
		{"an ICMP error comes to the host, and up", caseError},
		{"other ICMP comes to the host only", caseNoError},
		{"ICMP errors that come up are bounded, those to the host are not", caseErrorFlood},
	}
}

func caseError(e *env) {
	e.set(e.guarded())
	e.bypassed(e.lease(long, long))
	for _, typ := range ErrorTypes(e.family) {
		for _, code := range []uint8{0, 1, 4, 13} {
			m := e.icmpError(typ)
			m.Code = code
			e.b.Send(Uplink, m.Frame())
			require.Equal(e.t, m.Frame(), e.b.Recv(Stack, patience))
			require.Equal(e.t, bypass.PacketIn{Kind: bypass.PacketError, Frame: m.Frame()}, e.event())
		}
	}
	// As much of the quote as there may be, or hardly any.
	for _, n := range []int{8, 28, 1400} {
		m := e.icmpError(e.errorType())
		m.Body = make([]byte, n)
		e.b.Send(Uplink, m.Frame())
		require.Equal(e.t, m.Frame(), e.b.Recv(Stack, patience))
		require.Equal(e.t, bypass.PacketIn{Kind: bypass.PacketError, Frame: m.Frame()}, e.event())
	}
	e.none(WorkloadA, "it has reached a workload")
	e.none(Plain, "it has left on the overlay's side")
}

func caseNoError(e *env) {
	e.bypassed(e.lease(long, long))
	to := func(m ICMP, change func(*ICMP)) ICMP { change(&m); return m }
	m := e.icmpError(e.errorType())
	e.b.Send(Uplink, m.Frame())
	require.NotNil(e.t, e.b.Recv(Stack, patience), "nothing is guarded")
	e.noEvent()
	e.set(e.guarded())
	for _, m := range []ICMP{
		to(m, func(m *ICMP) { m.Type = echoType(e.family) }),
		to(m, func(m *ICMP) { m.Dst = e.underOther }),
	} {
		e.b.Send(Uplink, m.Frame())
		require.Equal(e.t, m.Frame(), e.b.Recv(Stack, patience))
	}
	// One from a workload, to whomever, is its own.
	m.SrcMAC, m.DstMAC = workloadMAC[0], peerMAC
	e.b.Send(WorkloadA, m.Frame())
	require.Equal(e.t, m.Frame(), e.b.Recv(Plain, patience))
	e.noEvent()
}

func caseErrorFlood(e *env) {
	e.set(e.guarded())
	const flood, lot = 1000, 25
	start := time.Now()
	for range flood / lot {
		for range lot {
			e.b.Send(Uplink, e.icmpError(e.errorType()).Frame())
		}
		for range lot {
			require.NotNil(e.t, e.b.Recv(Stack, patience), "the host has lost one")
		}
	}
	most := 2 * (ErrorRate + int(ErrorRate*time.Since(start).Seconds()) + 1) // a switch may count a second's rate more
	e.pass(e.quiet)
	came := len(e.events)
	require.Positive(e.t, came)
	require.LessOrEqual(e.t, came, most)
	e.pass(2 * time.Second)
	for len(e.events) > 0 {
		<-e.events
	}
	e.b.Send(Uplink, e.icmpError(e.errorType()).Frame())
	require.NotNil(e.t, e.b.Recv(Stack, patience))
	require.IsType(e.t, bypass.PacketIn{}, e.event(), "they come up again")
}

// caseMixed: addresses of two families in one rule, lease or guard.
func caseMixed(e *env) {
	o := e.otherFamily()
	port := func(a netip.AddrPort, ip netip.Addr) netip.AddrPort { return netip.AddrPortFrom(ip, a.Port()) }
	mapped := netip.AddrFrom16(e.underRemote.As16()) // IPv4 in IPv6 is neither
	var rules []bypass.Rule
	for _, r := range []bypass.Rule{e.out(), e.in()} {
		for _, change := range []func(*bypass.Rule){
			func(r *bypass.Rule) { r.Flow.Src = port(r.Flow.Src, o.workloadIP[0]) },
			func(r *bypass.Rule) { r.Flow.Dst = port(r.Flow.Dst, o.peerIP) },
			func(r *bypass.Rule) { r.Local = port(r.Local, o.underLocal) },
			func(r *bypass.Rule) { r.Remote = port(r.Remote, mapped) },
			func(r *bypass.Rule) {
				r.Local, r.Remote = port(r.Local, o.underLocal), port(r.Remote, o.underRemote)
			},
			func(r *bypass.Rule) {
				r.Direction, r.Hard, r.Remote = bypass.Listen, time.Second, netip.AddrPortFrom(o.any, 0)
			},
		} {
			bad := r
			change(&bad)
			rules = append(rules, bad)
		}
	}
	for _, bad := range rules {
		err := e.dp.Apply(e.t.Context(), bypass.Change{Add: []bypass.Rule{bad}})
		require.ErrorContains(e.t, err, "family", "%+v", bad)
	}
	l := e.lease(long, long)
	l.Remote = o.underRemote
	require.ErrorContains(e.t, e.dp.Apply(e.t.Context(), bypass.Change{Leases: []bypass.Lease{l}}), "family")
	b := e.base()
	b.Guard = []bypass.AddrPair{{Local: e.underLocal, Remote: o.underRemote}}
	require.ErrorContains(e.t, e.dp.Set(e.t.Context(), b), "family")
	require.Empty(e.t, e.rules())
}
