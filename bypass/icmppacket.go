package bypass

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/viasnet/vias/internal/seg"
	"github.com/viasnet/vias/tap"
)

// icmpError is an ICMP error (RFC 792) or ICMPv6 error (RFC 4443) from the underlay, as
// far as it is of use to a guest.
type icmpError struct {
	from netip.Addr // whoever sent it: a router, or somebody who says so
	// wire is the quoted packet's flow as it went over the underlay: Src is ours.
	wire  Flow
	quote []byte // the quoted packet's head: IP header, transport header, perhaps more
	size  int    // of the whole quoted packet
	code  uint8  // of a destination unreachable
	mtu   int    // of the next hop; 0 = not a too-big but a destination unreachable
}

// Lengths in the messages.
const (
	ipv4Head  = 20
	ipv6Head  = 40
	icmpHead  = 8
	quotedL4  = 8   // of TCP or UDP: the least that is quoted, and enough to find the flow
	maxQuoted = 128 // what a guest gets; see cutQuote
	minMTU4   = 576
	minMTU6   = 1280
)

// Types and codes.
const (
	icmpUnreachable  = 3
	icmpFragNeeded   = 4 // a code of icmpUnreachable
	icmp6Unreachable = 1
	icmp6TooBig      = 2
	protoICMP        = 1
	protoICMP6       = 58
)

// Codes of destination unreachable that routers and firewalls send: no route, host,
// protocol, port, administratively prohibited. The rest is about source routes, classes
// of service and scopes, which no bypassed packet has.
const (
	icmpCodes  = 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<9 | 1<<10 | 1<<13
	icmp6Codes = 1<<0 | 1<<1 | 1<<3 | 1<<4 | 1<<5 | 1<<6
)

// parseICMPError reads an untagged frame. false: it is no such error, or anything of it
// is not as it must be.
//
// Time exceeded and parameter problem are not read. The one tells that there are routers,
// and where: to a guest, the other one is on its own link. It comes of a loop or of a
// guest that counts hops. The other is about headers that switches made. Neither tells a
// guest anything that it could act on.
func parseICMPError(frame []byte) (icmpError, bool) {
	if len(frame) < tap.HeaderLen {
		return icmpError{}, false
	}
	switch packet := frame[tap.HeaderLen:]; binary.BigEndian.Uint16(frame[12:]) {
	case etherIPv4:
		return parseICMP4(packet)
	case etherIPv6:
		return parseICMP6(packet)
	}
	return icmpError{}, false
}

// parseICMP4 takes no IP options, no fragments, and nothing whose checksums are wrong.
func parseICMP4(p []byte) (e icmpError, ok bool) {
	const least = ipv4Head + icmpHead + ipv4Head + quotedL4
	if len(p) < least || p[0] != 0x45 || p[9] != protoICMP || binary.BigEndian.Uint16(p[6:])&^dontFragment != 0 {
		return e, false
	}
	total := int(binary.BigEndian.Uint16(p[2:]))
	if total < least || total > len(p) || seg.Checksum(p[:ipv4Head], 0) != 0 {
		return e, false
	}
	m := p[ipv4Head:total]
	if m[0] != icmpUnreachable || seg.Checksum(m, 0) != 0 {
		return e, false
	}
	e.from, e.code = netip.AddrFrom4([4]byte(p[12:])), m[1]
	to := netip.AddrFrom4([4]byte(p[16:]))
	if !e.readQuote4(cutQuote(m[icmpHead:], 4*int(m[5]))) || e.wire.Src.Addr() != to {
		return e, false
	}
	if e.code != icmpFragNeeded {
		return e, e.code < 16 && icmpCodes>>e.code&1 == 1
	}
	// A router too old to name its MTU (RFC 1191, section 5) names 0. Below minMTU4 no
	// provider's link is: whoever says so does not make a guest send crumbs.
	e.mtu = max(int(binary.BigEndian.Uint16(m[6:])), minMTU4)
	return e, e.size > e.mtu && binary.BigEndian.Uint16(e.quote[6:])&dontFragment != 0
}

// dontFragment is IPv4's flag, beside which there must be none, nor an offset.
const dontFragment = 0x4000

func (e *icmpError) readQuote4(q []byte) bool {
	if len(q) < ipv4Head+quotedL4 || q[0] != 0x45 || binary.BigEndian.Uint16(q[6:])&^dontFragment != 0 {
		return false
	}
	e.size = int(binary.BigEndian.Uint16(q[2:]))
	return e.read(q, ipv4Head, q[9], netip.AddrFrom4([4]byte(q[12:])), netip.AddrFrom4([4]byte(q[16:])))
}

// parseICMP6 takes no extension headers.
func parseICMP6(p []byte) (e icmpError, ok bool) {
	const least = icmpHead + ipv6Head + quotedL4
	if len(p) < ipv6Head+least || p[0]>>4 != 6 || p[6] != protoICMP6 {
		return e, false
	}
	length := int(binary.BigEndian.Uint16(p[4:]))
	if length < least || length > len(p)-ipv6Head {
		return e, false
	}
	m := p[ipv6Head : ipv6Head+length]
	if seg.Checksum(m, seg.PseudoHeader(p[8:24], p[24:40], protoICMP6, length)) != 0 {
		return e, false
	}
	e.from, e.code = netip.AddrFrom16([16]byte(p[8:])), m[1]
	to, words := netip.AddrFrom16([16]byte(p[24:])), 0
	if m[0] == icmp6Unreachable { // in a too-big the MTU is there
		words = int(m[4])
	}
	if !e.readQuote6(cutQuote(m[icmpHead:], 8*words)) || e.wire.Src.Addr() != to {
		return e, false
	}
	switch m[0] {
	case icmp6Unreachable:
		return e, e.code < 16 && icmp6Codes>>e.code&1 == 1
	case icmp6TooBig:
		// RFC 8201, section 4: below IPv6's least MTU it is not to be believed.
		mtu := binary.BigEndian.Uint32(m[4:])
		e.mtu = int(min(mtu, 1<<16))
		return e, e.code == 0 && mtu >= minMTU6 && e.size > e.mtu
	}
	return e, false
}

func (e *icmpError) readQuote6(q []byte) bool {
	if len(q) < ipv6Head+quotedL4 || q[0]>>4 != 6 {
		return false
	}
	e.size = ipv6Head + int(binary.BigEndian.Uint16(q[4:]))
	return e.read(q, ipv6Head, q[6], netip.AddrFrom16([16]byte(q[8:])), netip.AddrFrom16([16]byte(q[24:])))
}

// read takes what both versions of IP have. The quote ends where the packet ended.
func (e *icmpError) read(q []byte, head int, proto byte, src, dst netip.Addr) bool {
	least := map[Proto]int{TCP: 20, UDP: 8}[Proto(proto)]
	if least == 0 || e.size < head+least {
		return false
	}
	l4 := q[head:]
	e.wire = Flow{Proto(proto), netip.AddrPortFrom(src, binary.BigEndian.Uint16(l4)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(l4[2:]))}
	e.quote = q[:min(len(q), e.size)]
	return true
}

// cutQuote leaves of a quote what is surely the quoted packet, and no more than enough to
// know it by. A router may put extensions behind it, among them the addresses of its
// interfaces (RFC 4884, RFC 5837): behind length bytes, if it says so, or, if it is old,
// behind the 128th.
func cutQuote(q []byte, length int) []byte {
	n := min(len(q), maxQuoted)
	if length > 0 {
		n = min(n, length)
	}
	return q[:n]
}

// translate is the error as if the guest's own packet had met it on the guest's own link:
// it comes from the remote guest, and quotes what the local one, flow's Src, sent.
func (e *icmpError) translate(flow Flow, local, remote tap.MAC) []byte {
	quote, v4 := e.requote(flow), flow.Src.Addr().Is4()
	head, ether := ipv6Head, uint16(etherIPv6)
	if v4 {
		head, ether = ipv4Head, etherIPv4
	}
	frame := make([]byte, tap.HeaderLen+head+icmpHead, tap.HeaderLen+head+icmpHead+len(quote))
	copy(frame, local[:])
	copy(frame[6:], remote[:])
	binary.BigEndian.PutUint16(frame[12:], ether)
	frame = append(frame, quote...)
	p := frame[tap.HeaderLen:]
	m := p[head:]
	from, to := flow.Dst.Addr().AsSlice(), flow.Src.Addr().AsSlice()
	switch {
	case v4 && e.mtu > 0:
		m[0], m[1] = icmpUnreachable, icmpFragNeeded
		binary.BigEndian.PutUint16(m[6:], uint16(e.mtu))
	case v4:
		m[0], m[1] = icmpUnreachable, e.code
	case e.mtu > 0:
		m[0] = icmp6TooBig
		binary.BigEndian.PutUint32(m[4:], uint32(e.mtu))
	default:
		m[0], m[1] = icmp6Unreachable, e.code
	}
	if v4 {
		p[0], p[1], p[6], p[8], p[9] = 0x45, 0xc0, dontFragment>>8, 64, protoICMP // 0xc0: RFC 1812, section 4.3.2.5
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		copy(p[12:], from)
		copy(p[16:], to)
		seg.PutIPv4Checksum(p[:ipv4Head])
		binary.BigEndian.PutUint16(m[2:], seg.Checksum(m, 0))
		return frame
	}
	p[0], p[6], p[7] = 0x60, protoICMP6, 64
	binary.BigEndian.PutUint16(p[4:], uint16(len(m)))
	copy(p[8:], from)
	copy(p[24:], to)
	binary.BigEndian.PutUint16(m[2:], seg.Checksum(m, seg.PseudoHeader(from, to, protoICMP6, len(m))))
	return frame
}

// requote is the quoted packet as the guest sent it. The switch changed addresses, ports
// and, with them, checksums, and nothing else: sequence numbers, lengths and identifiers
// are the guest's own.
func (e *icmpError) requote(flow Flow) []byte {
	q := bytes.Clone(e.quote)
	first, head := 8, ipv6Head
	if flow.Src.Addr().Is4() {
		first, head = 12, ipv4Head
	}
	addrs, l4 := q[first:head], q[head:]
	was := append(bytes.Clone(addrs), l4[:4]...)
	copy(addrs, append(flow.Src.Addr().AsSlice(), flow.Dst.Addr().AsSlice()...))
	binary.BigEndian.PutUint16(l4, flow.Src.Port())
	binary.BigEndian.PutUint16(l4[2:], flow.Dst.Port())
	is := append(bytes.Clone(addrs), l4[:4]...)
	at := 6 // of UDP's checksum
	if flow.Proto == TCP {
		at = 16
	}
	if len(l4) >= at+2 {
		sum := binary.BigEndian.Uint16(l4[at:])
		if flow.Proto == TCP || sum != 0 { // 0 in UDP is none, and stays so
			sum = seg.Update(sum, was, is)
			if flow.Proto == UDP && sum == 0 {
				sum = 0xffff
			}
			binary.BigEndian.PutUint16(l4[at:], sum)
		}
	}
	if flow.Src.Addr().Is4() {
		seg.PutIPv4Checksum(q[:ipv4Head])
	}
	return q
}
