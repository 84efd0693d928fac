package bypasstest

import (
	"net/netip"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/tap"
)

// MACs of the suite's little world: two local workloads, two peers behind one next hop.
var (
	workloadMAC = [...]tap.MAC{{2, 0xa, 0, 0, 0, 1}, {2, 0xa, 0, 0, 0, 2}}
	peerMAC     = tap.MAC{2, 0xb, 0, 0, 0, 1}
	uplinkMAC   = tap.MAC{2, 0xc, 0, 0, 0, 1}
	routerMAC   = tap.MAC{2, 0xc, 0, 0, 0, 2}
)

// world is the traffic that a case is about, and the addresses of it.
type world struct {
	proto                               bypass.Proto
	other                               bypass.Proto // the one that it is not
	family                              bypass.Family
	workloadIP                          [2]netip.Addr
	peerIP                              netip.Addr
	underLocal, underRemote, underOther netip.Addr
	any                                 netip.Addr
}

// worlds are all kinds of traffic that can be bypassed.
func worlds() []world {
	var list []world
	for _, addr := range []func(net, host byte) netip.Addr{
		func(net, host byte) netip.Addr { return netip.AddrFrom4([4]byte{10, net, 0, host}) },
		func(net, host byte) netip.Addr { return netip.AddrFrom16([16]byte{0xfd, 1: net, 15: host}) },
	} {
		w := world{
			workloadIP: [2]netip.Addr{addr(7, 1), addr(7, 2)}, peerIP: addr(7, 9),
			underLocal: addr(1, 1), underRemote: addr(1, 2), underOther: addr(1, 3),
		}
		w.family, w.any = bypass.FamilyOf(w.peerIP), anyOf(w.peerIP)
		w.proto, w.other = bypass.TCP, bypass.UDP
		list = append(list, w)
		w.proto, w.other = bypass.UDP, bypass.TCP
		list = append(list, w)
	}
	return list
}

// otherFamily is the same world in the other family.
func (w world) otherFamily() world {
	for _, o := range worlds() {
		if o.proto == w.proto && o.family != w.family {
			return o
		}
	}
	return w
}

func (w world) String() string { return w.proto.String() + " over " + w.family.String() }

// headers is how much of p's frame there must be in an orphan's PacketIn.
func headers(p Packet) int { return len(with(p, func(p *Packet) { p.Payload = nil }).Frame()) }

// flow is a flow of WorkloadA's to the peer's workload.
func (e *env) flow() bypass.Flow {
	return bypass.Flow{
		Proto: e.proto,
		Src:   netip.AddrPortFrom(e.workloadIP[0], 40000), Dst: netip.AddrPortFrom(e.peerIP, 80),
	}
}

// pair is the underlay's view of flow.
func (e *env) pair() (local, remote netip.AddrPort) {
	return netip.AddrPortFrom(e.underLocal, 0xf123), netip.AddrPortFrom(e.underRemote, 0xf456)
}

// out and in are the two rules of flow.
func (e *env) out() bypass.Rule {
	r := e.in()
	r.ID, r.Direction, r.Hop = 1, bypass.Outbound, 1
	return r
}

func (e *env) in() bypass.Rule {
	local, remote := e.pair()
	return bypass.Rule{
		ID: 2, Direction: bypass.Inbound, Flow: e.flow(), Local: local, Remote: remote,
		LocalMAC: workloadMAC[0], RemoteMAC: peerMAC, Ofport: e.b.Ofport(WorkloadA), Peer: peer,
	}
}

// lease is one of both halves for the peer.
func (e *env) lease(out, in time.Duration) bypass.Lease {
	return bypass.Lease{
		Peer: peer, Proto: e.proto, Local: e.underLocal, Remote: e.underRemote, Outbound: out, Inbound: in,
	}
}

// bypassed installs both rules of flow and a lease.
func (e *env) bypassed(l bypass.Lease) {
	e.t.Helper()
	e.apply(bypass.Change{Leases: []bypass.Lease{l}, Add: []bypass.Rule{e.out(), e.in()}})
}

// sent is what WorkloadA sends in flow.
func (e *env) sent() Packet {
	return Packet{
		SrcMAC: workloadMAC[0], DstMAC: peerMAC, Flow: e.flow(), Class: 0xb9, Seq: 0xfffffff0, Ack: 7,
		Flags: FlagPSH | FlagACK, Payload: []byte("an odd payload of some bytes!"),
	}
}

// arriving is what the peer sends in flow, as it stands on the wire.
func (e *env) arriving() Packet {
	local, remote := e.pair()
	return Packet{
		SrcMAC: routerMAC, DstMAC: uplinkMAC, Flow: bypass.Flow{Proto: e.proto, Src: remote, Dst: local},
		TTL: 61, Seq: 12, Ack: 0xfffffff1, Flags: FlagACK, Payload: []byte("an answer"),
	}
}

// rewritten is p with other addresses.
func rewritten(p Packet, src, dst tap.MAC, f bypass.Flow) Packet {
	p.SrcMAC, p.DstMAC, p.Flow = src, dst, f
	return p
}

// onWire is what becomes of sent.
func (e *env) onWire() Packet {
	local, remote := e.pair()
	return rewritten(e.sent(), e.hop.Src, e.hop.Dst, bypass.Flow{Proto: e.proto, Src: local, Dst: remote})
}

// delivered is what becomes of arriving.
func (e *env) delivered() Packet {
	return rewritten(e.arriving(), peerMAC, workloadMAC[0], e.flow().Reverse())
}
