package bypasstest

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/tap"
)

// ICMP is an Ethernet frame with an ICMP (RFC 792) or ICMPv6 (RFC 4443) message: which
// of the two, its addresses say, which are of one family.
type ICMP struct {
	SrcMAC, DstMAC tap.MAC
	VLAN           uint16 // 0 = untagged
	Src, Dst       netip.Addr
	TTL            uint8 // 0 = 64
	Type, Code     uint8
	Rest           uint32 // the second half of the header: a too-big's MTU
	Body           []byte // what an error quotes, from the IP header on
}

const (
	protoICMP   = 1
	protoICMPv6 = 58
	icmpLen     = 8
)

// ErrorTypes are the messages of a family that a Datapath sends up as PacketError:
// unreachable (and, in IPv4, too big), time exceeded, parameter problem; in IPv6 too big
// is one of its own.
func ErrorTypes(f bypass.Family) []uint8 {
	if f == bypass.IPv4 {
		return []uint8{3, 11, 12}
	}
	return []uint8{1, 2, 3, 4}
}

// IsError tells whether m has one of ErrorTypes.
func (m ICMP) IsError() bool {
	return slices.Contains(ErrorTypes(bypass.FamilyOf(m.Dst)), m.Type)
}

// Frame is the frame's bytes, with right checksums.
func (m ICMP) Frame() []byte {
	proto := byte(protoICMP)
	if !m.Src.Is4() {
		proto = protoICMPv6
	}
	p := Packet{TTL: m.TTL, Flow: bypass.Flow{
		Proto: bypass.Proto(proto), Src: netip.AddrPortFrom(m.Src, 0), Dst: netip.AddrPortFrom(m.Dst, 0),
	}}
	b := ethernet(m.SrcMAC, m.DstMAC, m.VLAN, m.Src)
	l3 := len(b)
	if m.Src.Is4() {
		b = p.appendIPv4(b)
	} else {
		b = p.appendIPv6(b)
	}
	l4 := len(b)
	b = binary.BigEndian.AppendUint32(append(b, m.Type, m.Code, 0, 0), m.Rest)
	b = append(b, m.Body...)
	putLength(b[l3:])
	fixChecksums(b[l3:], l4-l3, proto)
	return b
}

// ParseICMP reads a frame. ok is false for whatever is not a whole ICMP message, or one
// behind extension headers. Body is part of frame.
func ParseICMP(frame []byte) (m ICMP, ok bool) {
	at, ok := locate(frame)
	if !ok || at.end-at.l4 < icmpLen || at.fragment != 0 || at.more || len(at.ext) > 0 {
		return m, false
	}
	want := uint8(protoICMP)
	if !at.src.Is4() {
		want = protoICMPv6
	}
	if at.proto != want {
		return m, false
	}
	copy(m.DstMAC[:], frame)
	copy(m.SrcMAC[:], frame[6:])
	if at.l3 > ethLen {
		m.VLAN = binary.BigEndian.Uint16(frame[14:]) & 0xfff
	}
	t := frame[at.l4:at.end]
	m.Src, m.Dst, m.TTL, m.Type, m.Code = at.src, at.dst, at.ttl, t[0], t[1]
	m.Rest, m.Body = binary.BigEndian.Uint32(t[4:]), t[icmpLen:]
	return m, true
}
