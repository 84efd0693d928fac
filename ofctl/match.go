package ofctl

import (
	"encoding/binary"
	"net/netip"
)

// Match is what a flow matches: a conjunction of fields. nil matches everything.
// Order does not matter; a field may stand once.
type Match []Field

// Field is one match field with its value (an OXM, OpenFlow 1.3.5, section
// 7.2.3.2), masked or not. It is also what SetField sets. Fields are comparable
// with ==. Make them with the constructors below.
type Field struct {
	kind   FieldKind
	masked bool
	// value and mask are big-endian in the first width bytes; value has no bit
	// outside mask.
	value, mask [16]byte
}

func field16(k FieldKind, v uint16) Field {
	f := Field{kind: k}
	binary.BigEndian.PutUint16(f.value[:], v)
	return f
}

func field32(k FieldKind, v uint32) Field {
	f := Field{kind: k}
	binary.BigEndian.PutUint32(f.value[:], v)
	return f
}

func field8(k FieldKind, v uint8) Field {
	f := Field{kind: k}
	f.value[0] = v
	return f
}

func fieldMAC(k FieldKind, m [6]byte) Field {
	f := Field{kind: k}
	copy(f.value[:], m[:])
	return f
}

func fieldPrefix(k FieldKind, p netip.Prefix) Field {
	f := Field{kind: k}
	if p.Addr().BitLen() != 8*k.Width() {
		return Field{} // of the other family: Check says so
	}
	p = p.Masked()
	copy(f.value[:], p.Addr().AsSlice())
	if p.Bits() < p.Addr().BitLen() {
		f.masked = true
		for i := range p.Bits() {
			f.mask[i/8] |= 0x80 >> (i % 8)
		}
	}
	return f
}

// InPort matches the ofport that a frame came in by.
func InPort(ofport uint32) Field { return field32(KindInPort, ofport) }

// Metadata matches the table metadata in mask's bits; mask 0 means all of them.
func Metadata(value, mask uint64) Field {
	f := Field{kind: KindMetadata}
	if mask == 0 {
		mask = ^uint64(0)
	}
	binary.BigEndian.PutUint64(f.value[:], value&mask)
	if mask != ^uint64(0) {
		f.masked = true
		binary.BigEndian.PutUint64(f.mask[:], mask)
	}
	return f
}

// EthSrc matches or sets the source MAC.
func EthSrc(mac [6]byte) Field { return fieldMAC(KindEthSrc, mac) }

// EthDst matches or sets the destination MAC.
func EthDst(mac [6]byte) Field { return fieldMAC(KindEthDst, mac) }

// EthType matches the EtherType (behind any VLAN tag).
func EthType(t uint16) Field { return field16(KindEthType, t) }

// Untagged matches frames without a VLAN tag (OFPVID_NONE).
func Untagged() Field { return field16(KindVLAN, 0) }

// VLAN matches frames tagged with vid.
func VLAN(vid uint16) Field { return field16(KindVLAN, 0x1000|vid&0xfff) }

// VLANPCP matches or sets the tag's priority; it needs a tag.
func VLANPCP(v uint8) Field { return field8(KindVLANPCP, v) }

// TunnelID matches or sets the key of the tunnel that a frame came through.
func TunnelID(id uint64) Field { return Field{kind: KindTunnelID}.number64(id) }

// IPProto matches the IPv4 protocol or IPv6 next header.
func IPProto(p uint8) Field { return field8(KindIPProto, p) }

// IPDSCP matches or sets the six DSCP bits; IPECN the two ECN bits.
func IPDSCP(v uint8) Field { return field8(KindIPDSCP, v) }

// IPECN matches or sets the two ECN bits.
func IPECN(v uint8) Field { return field8(KindIPECN, v) }

// IPv4Src matches source addresses in p; a single address may be set.
func IPv4Src(p netip.Prefix) Field { return fieldPrefix(KindIPv4Src, p) }

// IPv4Dst matches destination addresses in p; a single address may be set.
func IPv4Dst(p netip.Prefix) Field { return fieldPrefix(KindIPv4Dst, p) }

// IPv6Src matches source addresses in p; a single address may be set.
func IPv6Src(p netip.Prefix) Field { return fieldPrefix(KindIPv6Src, p) }

// IPv6Dst matches destination addresses in p; a single address may be set.
func IPv6Dst(p netip.Prefix) Field { return fieldPrefix(KindIPv6Dst, p) }

// Host is the prefix of one address, for the four above.
func Host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// TCPSrc, TCPDst, UDPSrc and UDPDst match or set a port.
func TCPSrc(p uint16) Field { return field16(KindTCPSrc, p) }

// TCPDst matches or sets the TCP destination port.
func TCPDst(p uint16) Field { return field16(KindTCPDst, p) }

// UDPSrc matches or sets the UDP source port.
func UDPSrc(p uint16) Field { return field16(KindUDPSrc, p) }

// UDPDst matches or sets the UDP destination port.
func UDPDst(p uint16) Field { return field16(KindUDPDst, p) }

// SCTPSrc matches or sets the SCTP source port.
func SCTPSrc(p uint16) Field { return field16(KindSCTPSrc, p) }

// SCTPDst matches or sets the SCTP destination port.
func SCTPDst(p uint16) Field { return field16(KindSCTPDst, p) }

// Masked is f matching only in mask's bits, which are those of a number as wide as the
// field: Masked(EthDst(group), 0x0100_0000_0000) matches every group address. It is for
// fields of up to eight bytes; addresses of IPv6 have prefixes.
func Masked(f Field, mask uint64) Field {
	m := Field{kind: f.kind}.number64(mask)
	f.masked, f.mask = true, m.value
	for i := range f.value {
		f.value[i] &= f.mask[i]
	}
	return f
}

// number64 is f with a number for its value.
func (f Field) number64(v uint64) Field {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], v)
	copy(f.value[:], b[8-min(f.kind.Width(), 8):])
	return f
}

// PortRange is f, one of the port fields, matching an aligned power-of-two
// range: the ports that equal f's in mask's bits. It needs CapPortMask.
func PortRange(f Field, mask uint16) Field {
	f.masked = true
	binary.BigEndian.PutUint16(f.mask[:], mask)
	f.value[0] &= f.mask[0]
	f.value[1] &= f.mask[1]
	return f
}

// ICMPType and ICMPCode match ICMP over IPv4.
func ICMPType(t uint8) Field { return field8(KindICMP4Type, t) }

// ICMPCode matches the code of ICMP over IPv4.
func ICMPCode(c uint8) Field { return field8(KindICMP4Code, c) }

// ICMP6Type matches the type of ICMP over IPv6.
func ICMP6Type(t uint8) Field { return field8(KindICMP6Type, t) }

// ICMP6Code matches the code of ICMP over IPv6.
func ICMP6Code(c uint8) Field { return field8(KindICMP6Code, c) }

// ARPOp matches the ARP operation: 1 request, 2 reply.
func ARPOp(op uint16) Field { return field16(KindARPOp, op) }

// ARPSPA and ARPTPA match ARP's sender and target protocol addresses.
func ARPSPA(p netip.Prefix) Field { return fieldPrefix(KindARPSPA, p) }

// ARPTPA matches ARP's target protocol address.
func ARPTPA(p netip.Prefix) Field { return fieldPrefix(KindARPTPA, p) }

// ARPSHA matches or sets ARP's sender hardware address.
func ARPSHA(mac [6]byte) Field { return fieldMAC(KindARPSHA, mac) }

// ARPTHA matches or sets ARP's target hardware address.
func ARPTHA(mac [6]byte) Field { return fieldMAC(KindARPTHA, mac) }

// NDTarget matches the target of a neighbour solicitation or advertisement (RFC 4861).
func NDTarget(p netip.Prefix) Field { return fieldPrefix(KindNDTarget, p) }

// NDSLL matches the source link-layer address of a neighbour solicitation.
func NDSLL(mac [6]byte) Field { return fieldMAC(KindNDSLL, mac) }

// NDTLL matches the target link-layer address of a neighbour advertisement.
func NDTLL(mac [6]byte) Field { return fieldMAC(KindNDTLL, mac) }

// IPv6Label matches or sets the flow label's 20 bits.
func IPv6Label(v uint32) Field { return Field{kind: KindIPv6Label}.number64(uint64(v)) }

// NotFragment matches IP packets that are no fragments (nw_frag=no). It needs
// CapFragMatch. An IPv6 packet with a fragment header but neither an offset nor more to
// come (an atomic fragment, RFC 6946) is none.
func NotFragment() Field { return field8(KindFrag, 0) }

// TTL matches the IPv4 TTL or IPv6 hop limit. It needs CapTTLMatch.
func TTL(v uint8) Field { return field8(KindTTL, v) }

// TCP4 is a match on TCP over IPv4 and fs.
func TCP4(fs ...Field) Match { return ip4(6, fs) }

// UDP4 is a match on UDP over IPv4 and fs.
func UDP4(fs ...Field) Match { return ip4(17, fs) }

// SCTP4 is a match on SCTP over IPv4 and fs.
func SCTP4(fs ...Field) Match { return ip4(132, fs) }

// ICMP4 is a match on ICMP over IPv4 and fs.
func ICMP4(fs ...Field) Match { return ip4(1, fs) }

// IP4 is a match on IPv4 and fs.
func IP4(fs ...Field) Match { return append(Match{EthType(0x0800)}, fs...) }

// TCP6 is a match on TCP over IPv6 and fs. Open vSwitch looks for TCP behind extension
// headers too, and has no field that tells whether there are any; so it is with the other
// protocols over IPv6.
func TCP6(fs ...Field) Match { return ip6(6, fs) }

// UDP6 is a match on UDP over IPv6 and fs.
func UDP6(fs ...Field) Match { return ip6(17, fs) }

// SCTP6 is a match on SCTP over IPv6 and fs.
func SCTP6(fs ...Field) Match { return ip6(132, fs) }

// ICMP6 is a match on ICMP over IPv6 and fs.
func ICMP6(fs ...Field) Match { return ip6(58, fs) }

// IP6 is a match on IPv6 and fs.
func IP6(fs ...Field) Match { return append(Match{EthType(0x86dd)}, fs...) }

// ARP is a match on ARP and fs.
func ARP(fs ...Field) Match { return append(Match{EthType(0x0806)}, fs...) }

func ip4(proto uint8, fs []Field) Match {
	return append(Match{EthType(0x0800), IPProto(proto)}, fs...)
}

func ip6(proto uint8, fs []Field) Match {
	return append(Match{EthType(0x86dd), IPProto(proto)}, fs...)
}
