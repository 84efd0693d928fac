package bypasstest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/tap"
)

// TCP flags, for Packet.Flags (RFC 9293, section 3.1).
const (
	FlagFIN uint8 = 1 << iota
	FlagSYN
	FlagRST
	FlagPSH
	FlagACK
)

// Packet is an Ethernet frame with a TCP segment or a UDP datagram over IPv4, as a
// test wants to write or read it.
type Packet struct {
	SrcMAC, DstMAC tap.MAC
	VLAN           uint16 // 0 = untagged
	Flow           bypass.Flow
	TTL            uint8 // 0 = 64
	// Fragment is the offset in units of 8 bytes (0 for a first or whole packet),
	// More the more-fragments flag (RFC 791).
	Fragment uint16
	More     bool
	Seq, Ack uint32 // TCP only
	Flags    uint8  // TCP only
	Payload  []byte
}

const (
	ethLen  = 14
	vlanLen = 4
	ipLen   = 20
)

// Frame is the frame's bytes, with right checksums. The addresses of Flow must be
// IPv4.
func (p Packet) Frame() []byte {
	l4 := 8
	if p.Flow.Proto == bypass.TCP {
		l4 = 20
	}
	l3 := ethLen
	if p.VLAN != 0 {
		l3 += vlanLen
	}
	b := make([]byte, l3+ipLen+l4+len(p.Payload))
	copy(b, p.DstMAC[:])
	copy(b[6:], p.SrcMAC[:])
	if p.VLAN != 0 {
		binary.BigEndian.PutUint16(b[12:], 0x8100)
		binary.BigEndian.PutUint16(b[14:], p.VLAN)
	}
	binary.BigEndian.PutUint16(b[l3-2:], 0x0800)
	p.putIPv4(b[l3:])
	p.putTransport(b[l3+ipLen:])
	copy(b[l3+ipLen+l4:], p.Payload)
	fixChecksums(b[l3:])
	return b
}

func (p Packet) putIPv4(ip []byte) {
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	frag := p.Fragment & 0x1fff
	if p.More {
		frag |= 0x2000
	}
	binary.BigEndian.PutUint16(ip[6:], frag)
	if ip[8] = p.TTL; p.TTL == 0 {
		ip[8] = 64
	}
	ip[9] = byte(p.Flow.Proto)
	src, dst := p.Flow.Src.Addr().As4(), p.Flow.Dst.Addr().As4()
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
}

func (p Packet) putTransport(t []byte) {
	binary.BigEndian.PutUint16(t, p.Flow.Src.Port())
	binary.BigEndian.PutUint16(t[2:], p.Flow.Dst.Port())
	if p.Flow.Proto != bypass.TCP {
		binary.BigEndian.PutUint16(t[4:], uint16(len(t)))
		return
	}
	binary.BigEndian.PutUint32(t[4:], p.Seq)
	binary.BigEndian.PutUint32(t[8:], p.Ack)
	t[12] = 5 << 4
	t[13] = p.Flags
	binary.BigEndian.PutUint16(t[14:], 0xffff)
}

// Parse reads a frame. ok is false for whatever is not TCP or UDP over IPv4 with
// all its headers there. Of later fragments the ports are 0. Payload is part of
// frame.
func Parse(frame []byte) (p Packet, ok bool) {
	l3, ok := network(frame)
	if !ok {
		return p, false
	}
	ip := frame[l3:]
	ihl := int(ip[0]&0xf) * 4
	total := int(binary.BigEndian.Uint16(ip[2:]))
	if ip[0]>>4 != 4 || ihl < ipLen || total < ihl || total > len(ip) {
		return p, false
	}
	ip = ip[:total]
	copy(p.DstMAC[:], frame)
	copy(p.SrcMAC[:], frame[6:])
	if l3 > ethLen {
		p.VLAN = binary.BigEndian.Uint16(frame[14:]) & 0xfff
	}
	p.TTL = ip[8]
	frag := binary.BigEndian.Uint16(ip[6:])
	p.Fragment, p.More = frag&0x1fff, frag&0x2000 != 0
	p.Flow.Proto = bypass.Proto(ip[9])
	if p.Flow.Proto != bypass.TCP && p.Flow.Proto != bypass.UDP {
		return p, false
	}
	return p, p.parseTransport(ip, ihl)
}

func (p *Packet) parseTransport(ip []byte, ihl int) bool {
	src, dst := netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	t := ip[ihl:]
	if p.Fragment != 0 {
		p.Flow.Src, p.Flow.Dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
		p.Payload = t
		return true
	}
	if len(t) < 8 {
		return false
	}
	p.Flow.Src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(t))
	p.Flow.Dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(t[2:]))
	if p.Flow.Proto == bypass.UDP {
		p.Payload = t[8:]
		return true
	}
	if len(t) < 20 || int(t[12]>>4)*4 < 20 || int(t[12]>>4)*4 > len(t) {
		return false
	}
	p.Seq, p.Ack = binary.BigEndian.Uint32(t[4:]), binary.BigEndian.Uint32(t[8:])
	p.Flags = t[13] & 0x3f
	p.Payload = t[int(t[12]>>4)*4:]
	return true
}

// network is where the IPv4 header of frame starts.
func network(frame []byte) (l3 int, ok bool) {
	l3 = ethLen
	if len(frame) >= ethLen+vlanLen && binary.BigEndian.Uint16(frame[12:]) == 0x8100 {
		l3 += vlanLen
	}
	if len(frame) < l3+ipLen || binary.BigEndian.Uint16(frame[l3-2:]) != 0x0800 {
		return 0, false
	}
	return l3, true
}

// rewriting is what a rule does to a frame. A zero MAC is left as it is.
type rewriting struct {
	srcMAC, dstMAC tap.MAC
	src, dst       netip.AddrPort
}

// apply rewrites frame in place and corrects its checksums by the difference (RFC
// 1624): a wrong checksum stays wrong, as on a switch. A UDP checksum of 0 (none)
// stays 0.
func (r rewriting) apply(frame []byte) {
	if !r.dstMAC.IsZero() {
		copy(frame, r.dstMAC[:])
	}
	if !r.srcMAC.IsZero() {
		copy(frame[6:], r.srcMAC[:])
	}
	l3, ok := network(frame)
	if !ok {
		return
	}
	ip := frame[l3:]
	ihl := int(ip[0]&0xf) * 4
	if len(ip) < ihl+8 {
		return
	}
	var was, is [12]byte
	copy(was[:8], ip[12:20])
	copy(was[8:], ip[ihl:ihl+4])
	src, dst := r.src.Addr().As4(), r.dst.Addr().As4()
	copy(is[:], src[:])
	copy(is[4:], dst[:])
	binary.BigEndian.PutUint16(is[8:], r.src.Port())
	binary.BigEndian.PutUint16(is[10:], r.dst.Port())
	copy(ip[12:], is[:8])
	copy(ip[ihl:], is[8:])
	adjust(ip[10:12], was[:8], is[:8])
	if sum := transportSum(ip, ihl); sum != nil {
		udp := ip[9] == byte(bypass.UDP)
		if udp && sum[0]|sum[1] == 0 {
			return
		}
		if adjust(sum, was[:], is[:]); udp && sum[0]|sum[1] == 0 {
			sum[0], sum[1] = 0xff, 0xff
		}
	}
}

// transportSum is where the transport's checksum stands; nil if it is not there.
func transportSum(ip []byte, ihl int) []byte {
	at := ihl + 6
	if ip[9] == byte(bypass.TCP) {
		at = ihl + 16
	}
	if len(ip) < at+2 {
		return nil
	}
	return ip[at : at+2]
}

// adjust corrects a checksum over data in which was became is (RFC 1624, eqn. 3).
func adjust(sum, was, is []byte) {
	s := uint32(^binary.BigEndian.Uint16(sum))
	for i := 0; i < len(was); i += 2 {
		s += uint32(^binary.BigEndian.Uint16(was[i:])) + uint32(binary.BigEndian.Uint16(is[i:]))
	}
	binary.BigEndian.PutUint16(sum, ^fold(s))
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// add is the ones' complement sum of b on top of s (RFC 1071).
func add(s uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) > 0 {
		s += uint32(b[0]) << 8
	}
	return s
}

// transportTotal sums the pseudo header and the transport's part of ip.
func transportTotal(ip []byte, ihl int) uint16 {
	t := ip[ihl:]
	s := add(0, ip[12:20]) + uint32(ip[9]) + uint32(len(t))
	return fold(add(s, t))
}

// fixChecksums computes the checksums of an IPv4 packet with a whole TCP segment or
// UDP datagram.
func fixChecksums(ip []byte) {
	ihl := int(ip[0]&0xf) * 4
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^fold(add(0, ip[:ihl])))
	sum := transportSum(ip, ihl)
	sum[0], sum[1] = 0, 0
	binary.BigEndian.PutUint16(sum, ^transportTotal(ip, ihl))
	if ip[9] == byte(bypass.UDP) && sum[0]|sum[1] == 0 {
		sum[0], sum[1] = 0xff, 0xff
	}
}

// CheckSums tells whether the IPv4 checksum and, unless it is a fragment, the TCP
// or UDP checksum of frame are right.
func CheckSums(frame []byte) error {
	p, ok := Parse(frame)
	if !ok {
		return errors.New("bypasstest: not TCP or UDP over IPv4")
	}
	l3, _ := network(frame)
	ip := frame[l3:]
	ip = ip[:binary.BigEndian.Uint16(ip[2:])]
	ihl := int(ip[0]&0xf) * 4
	if got := fold(add(0, ip[:ihl])); got != 0xffff {
		return fmt.Errorf("bypasstest: %v: IPv4 header sums to %#04x", p.Flow, got)
	}
	if p.Fragment != 0 || p.More {
		return nil
	}
	if sum := transportSum(ip, ihl); p.Flow.Proto == bypass.UDP && sum[0]|sum[1] == 0 {
		return nil
	}
	if got := transportTotal(ip, ihl); got != 0xffff {
		return fmt.Errorf("bypasstest: %v: transport sums to %#04x", p.Flow, got)
	}
	return nil
}
