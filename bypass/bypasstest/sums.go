package bypasstest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/tap"
)

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
	at, ok := locate(frame)
	if !ok || at.end-at.l4 < 8 || at.src.Is4() != r.src.Addr().Is4() {
		return
	}
	ip, t := frame[at.l3:at.end], frame[at.l4:at.end]
	addrs := addresses(ip)
	was := append(append([]byte{}, addrs...), t[:4]...)
	is := append(r.src.Addr().AsSlice(), r.dst.Addr().AsSlice()...)
	is = binary.BigEndian.AppendUint16(is, r.src.Port())
	is = binary.BigEndian.AppendUint16(is, r.dst.Port())
	copy(addrs, is)
	copy(t, is[len(addrs):])
	if at.src.Is4() {
		adjust(ip[10:12], was[:len(addrs)], is[:len(addrs)])
	}
	if sum := transportSum(t, at.proto); sum != nil {
		udp := at.proto == byte(bypass.UDP)
		if udp && sum[0]|sum[1] == 0 {
			return
		}
		if adjust(sum, was, is); udp {
			neverZero(sum)
		}
	}
}

// addresses are where source and destination stand in ip.
func addresses(ip []byte) []byte {
	if ip[0]>>4 == 4 {
		return ip[12:20]
	}
	return ip[8:40]
}

// transportSum is where the checksum of a TCP segment, UDP datagram or ICMP message
// stands; nil if it is not there.
func transportSum(t []byte, proto byte) []byte {
	at := 6
	switch proto {
	case byte(bypass.TCP):
		at = 16
	case protoICMP, protoICMPv6:
		at = 2
	}
	if len(t) < at+2 {
		return nil
	}
	return t[at : at+2]
}

// neverZero makes a UDP checksum that was computed as 0 what it must be then (RFC 768).
func neverZero(sum []byte) {
	if sum[0]|sum[1] == 0 {
		sum[0], sum[1] = 0xff, 0xff
	}
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

// transportTotal sums the transport's part of ip, from l4 on, and its pseudo header;
// ICMP has none.
func transportTotal(ip []byte, l4 int, proto byte) uint16 {
	t := ip[l4:]
	if proto == protoICMP {
		return fold(add(0, t))
	}
	s := add(0, addresses(ip)) + uint32(proto) + uint32(len(t))
	return fold(add(s, t))
}

// fixChecksums computes the checksums of a packet whose transport's part is whole.
func fixChecksums(ip []byte, l4 int, proto byte) {
	if ip[0]>>4 == 4 {
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], ^fold(add(0, ip[:ip4Len])))
	}
	sum := transportSum(ip[l4:], proto)
	sum[0], sum[1] = 0, 0
	binary.BigEndian.PutUint16(sum, ^transportTotal(ip, l4, proto))
	if proto == byte(bypass.UDP) {
		neverZero(sum)
	}
}

// CheckSums tells whether the IPv4 header's checksum and, unless it is a fragment, the
// TCP, UDP or ICMP checksum of frame are right. Over IPv6 a UDP datagram must have one.
func CheckSums(frame []byte) error {
	at, ok := locate(frame)
	if !ok {
		return errors.New("bypasstest: not a whole IP packet")
	}
	ip := frame[at.l3:at.end]
	v4 := at.src.Is4()
	if got := fold(add(0, ip[:at.l4-at.l3])); v4 && got != 0xffff {
		return fmt.Errorf("bypasstest: %v > %v: IPv4 header sums to %#04x", at.src, at.dst, got)
	}
	if at.fragment != 0 || at.more {
		return nil
	}
	sum := transportSum(frame[at.l4:at.end], at.proto)
	if sum == nil {
		return fmt.Errorf("bypasstest: %v > %v: cut short", at.src, at.dst)
	}
	if at.proto == byte(bypass.UDP) && v4 && sum[0]|sum[1] == 0 {
		return nil
	}
	if got := transportTotal(ip, at.l4-at.l3, at.proto); got != 0xffff {
		return fmt.Errorf("bypasstest: %v > %v: transport sums to %#04x", at.src, at.dst, got)
	}
	return nil
}
