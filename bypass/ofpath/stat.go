package ofpath

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/tap"
)

// kind is what a flow of ours is for.
type kind uint8

const (
	kindOther kind = iota
	kindBase       // misses, workloads, guard, ICMP errors: what Set makes
	kindGate
	kindTether
	kindOutbound
	kindInbound
	kindListen
)

// kindOf tells what a flow of ours is for. Workloads' flows and inbound gates, which
// share a priority, are told apart by where they lead to.
func (c Config) kindOf(f ofctl.Flow) kind {
	switch {
	case f.Table == tableClassify && f.Priority == c.Priority+listenAbove:
		return kindListen
	case f.Table == tableClassify && f.Priority == c.Priority && (f.Goto == c.InboundTable || c.patch != ""):
		return kindGate
	case f.Table == tableClassify:
		return kindBase
	case f.Priority == 0, f.Table == c.InboundTable && f.Priority == errorCopy:
		return kindBase
	case f.Priority != exact:
		return kindOther
	case f.Table == c.InboundTable:
		return kindInbound
	case f.Table == c.OutboundTable:
		return kindOutbound
	case f.Table == c.gateTable():
		return kindGate
	case f.Table == c.tetherTable():
		return kindTether
	}
	return kindOther
}

// direction is that of a rule's flow; false if it is not a rule's.
func (k kind) direction() (bypass.Direction, bool) {
	switch k {
	case kindOutbound:
		return bypass.Outbound, true
	case kindInbound:
		return bypass.Inbound, true
	case kindListen:
		return bypass.Listen, true
	}
	return 0, false
}

// header is what a rule's flow matches, or what it sets.
type header struct {
	proto    bypass.Proto
	inPort   uint32
	smac     tap.MAC
	dmac     tap.MAC
	src, dst netip.Addr
	sp, dp   uint16
	metadata uint64
}

func (h header) flow() bypass.Flow {
	f := bypass.Flow{Proto: h.proto}
	if h.src.IsValid() {
		f.Src = netip.AddrPortFrom(h.src, h.sp)
	}
	if h.dst.IsValid() {
		f.Dst = netip.AddrPortFrom(h.dst, h.dp)
	}
	return f
}

// sender is the source; unspecified, in dst's family, if it is not matched.
func (h header) sender() netip.Addr {
	switch {
	case h.src.IsValid():
		return h.src
	case h.dst.Is4():
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// headerOf is what m matches exactly.
func headerOf(m ofctl.Match) (h header) {
	for _, f := range m {
		h.put(f)
	}
	return h
}

// put takes over one exact field; others are of no interest.
func (h *header) put(f ofctl.Field) {
	v := f.Value()
	if f.Mask() != nil || len(v) == 0 {
		return
	}
	switch f.Kind() {
	case ofctl.KindIPProto:
		h.proto = bypass.Proto(v[0])
	case ofctl.KindInPort:
		h.inPort = binary.BigEndian.Uint32(v)
	case ofctl.KindMetadata:
		h.metadata = binary.BigEndian.Uint64(v)
	case ofctl.KindEthSrc:
		copy(h.smac[:], v)
	case ofctl.KindEthDst:
		copy(h.dmac[:], v)
	case ofctl.KindIPv4Src, ofctl.KindIPv6Src:
		h.src, _ = netip.AddrFromSlice(v)
	case ofctl.KindIPv4Dst, ofctl.KindIPv6Dst:
		h.dst, _ = netip.AddrFromSlice(v)
	case ofctl.KindTCPSrc, ofctl.KindUDPSrc:
		h.sp = binary.BigEndian.Uint16(v)
	case ofctl.KindTCPDst, ofctl.KindUDPDst:
		h.dp = binary.BigEndian.Uint16(v)
	}
}

// actions is what as sets, and where it ends: a port or a group.
func actions(as []ofctl.Action) (h header, port, group uint32) {
	for _, a := range as {
		switch a := a.(type) {
		case ofctl.SetField:
			h.put(a.Field)
		case ofctl.Output:
			port = a.Port
		case ofctl.ToGroup:
			group = a.ID
		}
	}
	return h, port, group
}

// stat reads a rule back from its flow, without its ID, which is not in the switch;
// false if it is not a rule's.
func (c Config) stat(s ofctl.FlowStat) (bypass.RuleStat, bool) {
	dir, ok := c.kindOf(s.Flow).direction()
	if !ok || cookieWhose(s.Cookie) == 0 {
		return bypass.RuleStat{}, false
	}
	m := headerOf(s.Match)
	r := bypass.Rule{
		Direction: dir, Peer: cookieWhose(s.Cookie),
		Idle: time.Duration(s.IdleTimeout) * time.Second,
		Hard: time.Duration(s.HardTimeout) * time.Second,
	}
	wire := m.flow()
	switch dir {
	case bypass.Outbound:
		set, _, group := actions(s.Write)
		set.proto = m.proto
		out := set.flow()
		r.Flow, r.Local, r.Remote = wire, out.Src, out.Dst
		r.LocalMAC, r.RemoteMAC = m.smac, m.dmac
		r.Ofport, r.Hop = m.inPort, group-c.GroupBase
	case bypass.Inbound:
		set, port, _ := actions(s.Apply)
		set.proto = m.proto
		r.Flow, r.Local, r.Remote = set.flow().Reverse(), wire.Dst, wire.Src
		r.LocalMAC, r.RemoteMAC, r.Ofport = set.dmac, set.smac, port
	case bypass.Listen:
		r.Flow.Proto, r.Local, r.Peer = m.proto, wire.Dst, 0
		r.Remote = netip.AddrPortFrom(m.sender(), m.sp)
	}
	return bypass.RuleStat{Epoch: cookieEpoch(s.Cookie), Rule: r, Packets: s.Packets, Bytes: s.Bytes}, true
}
