package ofpath

import (
	"math"
	"net/netip"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/ofctl"
)

// headersOnly is how much of an orphan's or a guarded frame goes to the controller:
// enough for a VLAN tag, IPv6 and TCP. whole is for probes, and for ICMP errors, which
// quote what they are about.
const (
	headersOnly = 96
	whole       = 0xffff
)

// layout turns what a Datapath is told into flows. It depends on nothing but its
// fields.
type layout struct {
	cfg     Config
	epoch   uint16
	ports   bypass.PortRange
	uplink  uint32
	patch   uint32 // on an external bridge, where the workloads are; else 0
	metered bool   // the switch has meters
}

// cookie is tag(16) | epoch(16) | whose(32): of a rule, gate or tether the peer's
// number, of a workload's flow its ofport, of a listen rule listening, of what sends ICMP
// errors up erring, of others 0.
// What kind of flow it is, its table and priority say.
func (l layout) cookie(whose uint32) uint64 { return l.cfg.cookie(l.epoch, whose) }

func (c Config) cookie(epoch uint16, whose uint32) uint64 {
	return uint64(c.CookieTag)<<48 | uint64(epoch)<<32 | uint64(whose)
}

// Neither is a peer's number or an ofport.
const (
	listening = 1 << 31
	erring    = listening | 1
)

func cookieEpoch(c uint64) uint16 { return uint16(c >> 32) }
func cookieWhose(c uint64) uint32 { return uint32(c) }

// owner is the part of a cookie that all our flows share, whatever their epoch.
func (c Config) owner() ofctl.Owner {
	return ofctl.Owner{Cookie: uint64(c.CookieTag) << 48, Mask: 0xffff << 48}
}

// metadata ties an outbound rule to its gate. The epoch is part of it: a peer's
// number means nothing to the rules of another run, and must not revive them.
func (l layout) metadata(peer uint32) uint64 { return uint64(l.epoch)<<24 | uint64(peer) }

// outer tells whether this is the external bridge of two.
func (l layout) outer() bool { return l.cfg.patch != "" }

func (c Config) gateTable() uint8   { return c.OutboundTable + 1 }
func (c Config) tetherTable() uint8 { return c.OutboundTable + 2 }
func (c Config) restTable() uint8   { return c.OutboundTable + 3 }

// rest hands a frame that is not bypassed to what the bridge does with others. Table 0 is looked
// up by the port "TABLE", which Open vSwitch allows in flows: as if the frame had just come.
func (l layout) rest() []ofctl.Action {
	if l.cfg.Mark == 0 {
		return []ofctl.Action{ofctl.Normal()}
	}
	return []ofctl.Action{ofctl.SetField{Field: ofctl.Metadata(l.cfg.Mark, 0)}, ofctl.Output{Port: ofctl.PortTable}}
}

// restOfCopy is rest, after which the frame is as it was: a group works on a copy.
func (l layout) restOfCopy() []ofctl.Action {
	if l.cfg.Mark == 0 {
		return l.rest()
	}
	return []ofctl.Action{ofctl.ToGroup{ID: l.cfg.GroupBase}}
}

// groups are those of hops, and the one of restOfCopy.
func (l layout) groups(hops []bypass.Hop) []ofctl.Group {
	var list []ofctl.Group
	if l.cfg.Mark != 0 && l.cfg.External == nil {
		list = append(list, ofctl.Group{ID: l.cfg.GroupBase, Type: ofctl.GroupIndirect, Buckets: []ofctl.Bucket{{Actions: l.rest()}}})
	}
	if l.outer() {
		return list // frames come with their MACs
	}
	for _, h := range hops {
		list = append(list, l.hop(h))
	}
	return list
}

// unmarked adds to m that the frame was not handed back by rest.
func (l layout) unmarked(m ofctl.Match) ofctl.Match {
	if l.cfg.Mark == 0 {
		return m
	}
	return append(m, ofctl.Metadata(0, l.cfg.Mark))
}

// ports names the port fields of one protocol.
type portFields struct{ src, dst func(uint16) ofctl.Field }

func fieldsOf(p bypass.Proto) portFields {
	if p == bypass.UDP {
		return portFields{ofctl.UDPSrc, ofctl.UDPDst}
	}
	return portFields{ofctl.TCPSrc, ofctl.TCPDst}
}

// traffic is what gates and tethers are for.
type traffic struct {
	proto  bypass.Proto
	family bypass.Family
}

// trafficOf is what flows of p between addresses of a's family are.
func trafficOf(p bypass.Proto, a netip.Addr) traffic { return traffic{p, bypass.FamilyOf(a)} }

// match is a match on t and fs.
func (t traffic) match(fs ...ofctl.Field) ofctl.Match {
	switch {
	case t.family == bypass.IPv4 && t.proto == bypass.UDP:
		return ofctl.UDP4(fs...)
	case t.family == bypass.IPv4:
		return ofctl.TCP4(fs...)
	case t.proto == bypass.UDP:
		return ofctl.UDP6(fs...)
	}
	return ofctl.TCP6(fs...)
}

func src(a netip.Addr) ofctl.Field {
	if a.Is4() {
		return ofctl.IPv4Src(ofctl.Host(a))
	}
	return ofctl.IPv6Src(ofctl.Host(a))
}

func dst(a netip.Addr) ofctl.Field {
	if a.Is4() {
		return ofctl.IPv4Dst(ofctl.Host(a))
	}
	return ofctl.IPv6Dst(ofctl.Host(a))
}

// seconds is d in whole seconds, as a time-out has it.
func seconds(d time.Duration) uint16 {
	return uint16(min(d/time.Second, math.MaxUint16))
}

func set(fs ...ofctl.Field) []ofctl.Action {
	as := make([]ofctl.Action, 0, len(fs)+1)
	for _, f := range fs {
		as = append(as, ofctl.SetField{Field: f})
	}
	return as
}

// rule is the flow of r.
func (l layout) rule(r bypass.Rule) ofctl.Flow {
	switch r.Direction {
	case bypass.Outbound:
		return l.outbound(r)
	case bypass.Inbound:
		return l.inbound(r)
	}
	return l.listen(r)
}

// outbound only writes the rewriting into the action set: whether it happens, the
// gate in the next table decides.
func (l layout) outbound(r bypass.Rule) ofctl.Flow {
	f := fieldsOf(r.Flow.Proto)
	return ofctl.Flow{
		Table: l.cfg.OutboundTable, Priority: exact, Cookie: l.cookie(r.Peer),
		IdleTimeout: seconds(r.Idle), SendFlowRemoved: true,
		Match: l.matchOf(&r),
		Write: append(set(src(r.Local.Addr()), dst(r.Remote.Addr()),
			f.src(r.Local.Port()), f.dst(r.Remote.Port())),
			ofctl.ToGroup{ID: l.cfg.GroupBase + r.Hop}),
		Metadata: ofctl.MetadataWrite{Value: l.metadata(r.Peer), Mask: math.MaxUint64},
		Goto:     l.cfg.gateTable(),
	}
}

func (l layout) inbound(r bypass.Rule) ofctl.Flow {
	f := fieldsOf(r.Flow.Proto)
	return ofctl.Flow{
		Table: l.cfg.InboundTable, Priority: exact, Cookie: l.cookie(r.Peer), SendFlowRemoved: true,
		Match: l.matchOf(&r),
		Apply: append(set(ofctl.EthSrc(r.RemoteMAC), ofctl.EthDst(r.LocalMAC),
			src(r.Flow.Dst.Addr()), dst(r.Flow.Src.Addr()),
			f.src(r.Flow.Dst.Port()), f.dst(r.Flow.Src.Port())),
			ofctl.Output{Port: r.Ofport}),
	}
}

func (l layout) listen(r bypass.Rule) ofctl.Flow {
	return ofctl.Flow{
		Table: tableClassify, Priority: l.cfg.Priority + listenAbove, Cookie: l.cookie(listening),
		HardTimeout: seconds(r.Hard), SendFlowRemoved: true, Match: l.matchOf(&r), Meter: l.meter(meterProbes),
		Apply: []ofctl.Action{ofctl.ToController(whole)},
	}
}

func (l layout) matchOf(r *bypass.Rule) ofctl.Match {
	k := keyOfRule(r)
	return l.match(&k)
}

// match is the match of the flow that has key k.
func (l layout) match(k *matchKey) ofctl.Match {
	f, t := fieldsOf(k.proto), trafficOf(k.proto, k.dst)
	switch k.dir {
	case bypass.Outbound:
		return t.match(ofctl.InPort(k.ofport), ofctl.EthSrc(k.smac), ofctl.EthDst(k.dmac),
			src(k.src), dst(k.dst), f.src(k.sp), f.dst(k.dp))
	case bypass.Inbound:
		return t.match(ofctl.InPort(l.uplink), src(k.src), dst(k.dst), f.src(k.sp), f.dst(k.dp))
	}
	m := t.match(ofctl.InPort(l.uplink), ofctl.Untagged(), ofctl.NotFragment(), dst(k.dst), f.dst(k.dp))
	if !k.src.IsUnspecified() {
		m = append(m, src(k.src))
	}
	if k.sp != 0 {
		m = append(m, f.src(k.sp))
	}
	return m
}

// named is as much of e's flow as it takes to delete it.
func (l layout) named(e *entry) ofctl.Flow {
	f := ofctl.Flow{Priority: exact, Cookie: l.cookie(e.peer), Match: l.match(&e.matchKey)}
	switch e.dir {
	case bypass.Outbound:
		f.Table = l.cfg.OutboundTable
	case bypass.Inbound:
		f.Table = l.cfg.InboundTable
	default:
		f.Table, f.Priority, f.Cookie = tableClassify, l.cfg.Priority+listenAbove, l.cookie(listening)
	}
	return f
}

// inboundGate lets what comes from the peer into the inbound table.
func (l layout) inboundGate(e bypass.Lease) ofctl.Flow {
	return ofctl.Flow{
		Table: tableClassify, Priority: l.cfg.Priority, Cookie: l.cookie(e.Peer),
		HardTimeout: seconds(e.Inbound),
		Match: trafficOf(e.Proto, e.Local).match(ofctl.InPort(l.uplink), ofctl.Untagged(), ofctl.NotFragment(),
			src(e.Remote), dst(e.Local), l.reserved(e.Proto)),
		Goto: l.cfg.InboundTable,
	}
}

// outboundGate ends the pipeline with the action set as the exact rule wrote it.
func (l layout) outboundGate(e bypass.Lease) ofctl.Flow {
	return ofctl.Flow{
		Table: l.cfg.gateTable(), Priority: exact, Cookie: l.cookie(e.Peer),
		HardTimeout: seconds(e.Outbound),
		Match:       trafficOf(e.Proto, e.Local).match(ofctl.Metadata(l.metadata(e.Peer), 0)),
	}
}

// tether holds the peer's rules, which have its cookie: when the last tether of the
// peer goes, they go. Nothing leads to its table.
func (l layout) tether(k lessee, left time.Duration) ofctl.Flow {
	cookie := l.cookie(k.peer)
	return ofctl.Flow{
		Table: l.cfg.tetherTable(), Priority: exact, Cookie: cookie,
		HardTimeout: seconds(left),
		Match:       k.match(ofctl.Metadata(l.metadata(k.peer), 0)),
		Apply: []ofctl.Action{
			ofctl.Tether{Table: l.cfg.OutboundTable, Cookie: cookie},
			ofctl.Tether{Table: l.cfg.InboundTable, Cookie: cookie},
		},
	}
}

// reserved matches destination ports of the reserved range.
func (l layout) reserved(p bypass.Proto) ofctl.Field {
	return ofctl.PortRange(fieldsOf(p).dst(l.ports.Base), l.ports.Mask)
}

// base is the flows of b. They all carry its lease as hard time-out.
func (l layout) base(b bypass.Base) []ofctl.Flow {
	var flows []ofctl.Flow
	if !l.outer() {
		flows = l.inside(b)
	}
	for _, g := range b.Guard {
		flows = append(flows, l.guard(g, bypass.TCP), l.guard(g, bypass.UDP))
	}
	if l.cfg.External == nil {
		flows = append(flows, l.errors(b.Guard)...)
	}
	for i := range flows {
		flows[i].HardTimeout = seconds(b.Lease)
		if flows[i].Cookie == 0 {
			flows[i].Cookie = l.cookie(0)
		}
	}
	return flows
}

// inside is what only a bridge with workloads has.
func (l layout) inside(b bypass.Base) []ofctl.Flow {
	flows := []ofctl.Flow{
		{Table: l.cfg.InboundTable, Meter: l.meter(meterOdd), Apply: []ofctl.Action{ofctl.ToController(headersOnly)}},
		{Table: l.cfg.OutboundTable, Apply: l.rest()},
	}
	if l.cfg.Mark == 0 {
		flows = append(flows, ofctl.Flow{Table: l.cfg.gateTable(), Apply: l.rest(), Clear: true})
	} else { // who comes after us may use the action set: it must be empty before
		flows = append(flows, ofctl.Flow{Table: l.cfg.gateTable(), Clear: true, Goto: l.cfg.restTable()},
			ofctl.Flow{Table: l.cfg.restTable(), Apply: l.rest()})
	}
	for _, w := range b.Workloads {
		for _, a := range w.IPs {
			if oneFamily(a) { // no rule can have others
				flows = append(flows, l.workload(w, a, bypass.TCP), l.workload(w, a, bypass.UDP))
			}
		}
	}
	return flows
}

// workload sends what may be bypassed to the outbound table. Frames with a tag, a
// false source or in fragments never get there.
func (l layout) workload(w bypass.Workload, a netip.Addr, p bypass.Proto) ofctl.Flow {
	return ofctl.Flow{
		Table: tableClassify, Priority: l.cfg.Priority, Cookie: l.cookie(w.Ofport),
		Match: l.unmarked(trafficOf(p, a).match(ofctl.InPort(w.Ofport), ofctl.Untagged(), ofctl.NotFragment(),
			ofctl.EthSrc(w.MAC), src(a))),
		Goto: l.cfg.OutboundTable,
	}
}

// guard keeps packets that no gate takes from the host's stack. Its cookie is
// nobody's, which tells its packet-ins from those of listen rules.
func (l layout) guard(g bypass.AddrPair, p bypass.Proto) ofctl.Flow {
	return ofctl.Flow{
		Table: tableClassify, Priority: l.cfg.Priority - guardBelow,
		Match: trafficOf(p, g.Local).match(ofctl.InPort(l.uplink), src(g.Remote), dst(g.Local), l.reserved(p)),
		Meter: l.meter(meterOdd),
		Apply: []ofctl.Action{ofctl.ToController(headersOnly)},
	}
}

// hop is the group of h.
func (l layout) hop(h bypass.Hop) ofctl.Group {
	return ofctl.Group{
		ID: l.cfg.GroupBase + h.ID, Type: ofctl.GroupIndirect,
		Buckets: []ofctl.Bucket{{Actions: append(set(ofctl.EthSrc(h.Src), ofctl.EthDst(h.Dst)),
			ofctl.Output{Port: l.uplink})}},
	}
}
