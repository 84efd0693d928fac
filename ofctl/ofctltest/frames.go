package ofctltest

import (
	"encoding/binary"
	"slices"
)

// Stations and addresses of the conformance suite.
var (
	macA = [6]byte{0x02, 0, 0, 0, 0, 0x0a}
	macB = [6]byte{0x02, 0, 0, 0, 0, 0x0b}
	macC = [6]byte{0x02, 0, 0, 0, 0, 0x0c}
	ipA  = [4]byte{10, 0, 0, 1}
	ipB  = [4]byte{10, 0, 0, 2}
	ipC  = [4]byte{172, 16, 0, 3}
)

// ethernet is an untagged frame.
func ethernet(dst, src [6]byte, typ uint16, payload []byte) []byte {
	f := slices.Concat(dst[:], src[:])
	return append(binary.BigEndian.AppendUint16(f, typ), payload...)
}

// withTag is frame with an 802.1Q tag in front of its EtherType.
func withTag(frame []byte, vid uint16) []byte {
	return slices.Concat(frame[:12], []byte{0x81, 0, byte(vid >> 8), byte(vid)}, frame[12:])
}

// ip4 is an IPv4 frame from A to B. flags are the 16 bits of flags and offset.
func ip4(proto byte, src, dst [4]byte, flags uint16, payload []byte) []byte {
	h := []byte{0x45, 0, 0, 0, 0, 7, 0, 0, 64, proto, 0, 0}
	h = slices.Concat(h, src[:], dst[:])
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(payload)))
	binary.BigEndian.PutUint16(h[6:], flags)
	binary.BigEndian.PutUint16(h[10:], ^sum16(h, 0))
	return ethernet(macB, macA, etherIPv4, append(h, payload...))
}

// ip6 is an IPv6 frame from A to B.
func ip6(next byte, src, dst [16]byte, payload []byte) []byte {
	h := []byte{0x60, 0, 0, 0, 0, 0, next, 64}
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	return ethernet(macB, macA, etherIPv6, slices.Concat(h, src[:], dst[:], payload))
}

// tcp is a TCP segment with a zero checksum.
func tcp(src, dst uint16, data string) []byte {
	b := binary.BigEndian.AppendUint16(nil, src)
	b = binary.BigEndian.AppendUint16(b, dst)
	b = append(b, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 0x20, 0, 0, 0, 0, 0)
	return append(b, data...)
}

// udp is a UDP datagram with a zero checksum.
func udp(src, dst uint16, data string) []byte {
	b := binary.BigEndian.AppendUint16(nil, src)
	b = binary.BigEndian.AppendUint16(b, dst)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(data)))
	return append(b, append([]byte{0, 0}, data...)...)
}

// summed is an IP frame with its transport checksum filled in.
func summed(frame []byte) []byte {
	p := newPacket(slices.Clone(frame), 0)
	if p.sum == 0 {
		return p.frame
	}
	binary.BigEndian.PutUint16(p.frame[p.sum:], 0)
	sum := ^l4Sum(&p)
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(p.frame[p.sum:], sum)
	return p.frame
}

// l4Sum is the sum over pseudo-header and transport packet: 0xffff if its checksum
// is right.
func l4Sum(p *packet) uint16 {
	var pseudo []byte
	proto, end := p.key[atIPProto], 0
	if p.etherType() == etherIPv4 {
		pseudo = slices.Clone(p.frame[p.l3+12 : p.l3+20])
		end = p.l3 + int(binary.BigEndian.Uint16(p.frame[p.l3+2:]))
	} else {
		pseudo = slices.Clone(p.frame[p.l3+8 : p.l3+40])
		end = p.l3 + minIPv6 + int(binary.BigEndian.Uint16(p.frame[p.l3+4:]))
	}
	body := slices.Clone(p.frame[p.l4:end])
	pseudo = binary.BigEndian.AppendUint16(append(pseudo, 0, proto), uint16(len(body)))
	if proto == protoICMP {
		pseudo = nil
	}
	if len(body)%2 == 1 {
		body = append(body, 0)
	}
	return sum16(body, uint32(sum16(pseudo, 0)))
}

// ipSumOK tells whether the IPv4 header's checksum is right; true if there is none.
func ipSumOK(p *packet) bool {
	if p.l3 == 0 || p.etherType() != etherIPv4 {
		return true
	}
	return sum16(p.frame[p.l3:p.l3+int(p.frame[p.l3]&0xf)*4], 0) == 0xffff
}

// sumsOK tells whether all checksums of a frame that is no fragment are right. A UDP
// checksum of zero is.
func sumsOK(frame []byte) bool {
	p := newPacket(frame, 0)
	if !ipSumOK(&p) {
		return false
	}
	if p.sum == 0 || p.key[atFrag] != 0 {
		return true
	}
	if p.key[atIPProto] == protoUDP && binary.BigEndian.Uint16(frame[p.sum:]) == 0 {
		return true
	}
	return l4Sum(&p) == 0xffff
}

// tcpAB is a TCP segment from A to B with right checksums.
func tcpAB(src, dst uint16, data string) []byte {
	return summed(ip4(protoTCP, ipA, ipB, 0x4000, tcp(src, dst, data)))
}

// udpAB is a UDP datagram from A to B with right checksums.
func udpAB(src, dst uint16, data string) []byte {
	return summed(ip4(protoUDP, ipA, ipB, 0, udp(src, dst, data)))
}
