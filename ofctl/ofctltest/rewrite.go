package ofctltest

import (
	"encoding/binary"
	"slices"

	"github.com/viasnet/vias/ofctl"
)

// own makes the frame writable: whoever injected it keeps his.
func (p *packet) own() {
	if !p.owned {
		p.frame, p.owned = slices.Clone(p.frame), true
	}
}

// set writes a header field into the frame and keeps checksums right. A header
// that is not there is left alone. It may leave key stale: see parse.
func (p *packet) set(f ofctl.Field) {
	v := f.Value()
	switch f.Kind() {
	case ofctl.KindMetadata:
		copy(p.key[atMetadata:], v)
	case ofctl.KindEthDst:
		p.own()
		copy(p.frame[0:6], v)
	case ofctl.KindEthSrc:
		p.own()
		copy(p.frame[6:12], v)
	case ofctl.KindVLAN:
		p.setVID(binary.BigEndian.Uint16(v))
	case ofctl.KindARPOp, ofctl.KindARPSHA, ofctl.KindARPSPA, ofctl.KindARPTHA, ofctl.KindARPTPA:
		p.setARP(f.Kind(), v)
	case ofctl.KindIPv4Src, ofctl.KindIPv4Dst:
		p.setIPv4(f.Kind(), v)
	case ofctl.KindIPv6Src, ofctl.KindIPv6Dst:
		p.setIPv6(f.Kind(), v)
	case ofctl.KindIPDSCP:
		p.setTrafficClass(0x03, v[0]<<2)
	case ofctl.KindIPECN:
		p.setTrafficClass(0xfc, v[0]&3)
	case ofctl.KindTTL:
		p.setTTL(v[0])
	default:
		p.setL4(f.Kind(), v)
	}
	p.parse()
}

func (p *packet) setVID(vid uint16) {
	if !p.tagged() {
		return
	}
	p.own()
	tci := binary.BigEndian.Uint16(p.frame[14:])
	binary.BigEndian.PutUint16(p.frame[14:], tci&^0xfff|vid&0xfff)
}

func (p *packet) setARP(k ofctl.FieldKind, v []byte) {
	if p.etherType() != etherARP || p.l3 == 0 {
		return
	}
	p.own()
	at := map[ofctl.FieldKind]int{
		ofctl.KindARPOp: 6, ofctl.KindARPSHA: 8, ofctl.KindARPSPA: 14,
		ofctl.KindARPTHA: 18, ofctl.KindARPTPA: 24,
	}[k]
	copy(p.frame[p.l3+at:], v)
}

func (p *packet) setIPv4(k ofctl.FieldKind, v []byte) {
	if p.etherType() != etherIPv4 || p.l3 == 0 {
		return
	}
	at := p.l3 + 12
	if k == ofctl.KindIPv4Dst {
		at += 4
	}
	// The pseudo-header of TCP and UDP holds the addresses, that of ICMP does not.
	p.write(at, v, p.l3+10, p.sumUnless(protoICMP))
}

func (p *packet) setIPv6(k ofctl.FieldKind, v []byte) {
	if p.etherType() != etherIPv6 || p.l3 == 0 {
		return
	}
	at := p.l3 + 8
	if k == ofctl.KindIPv6Dst {
		at += 16
	}
	p.write(at, v, p.sum)
}

// setTrafficClass replaces the bits of TOS or traffic class that are not in keep.
func (p *packet) setTrafficClass(keep, bits byte) {
	if p.l3 == 0 {
		return
	}
	switch p.etherType() {
	case etherIPv4:
		p.write(p.l3+1, []byte{p.frame[p.l3+1]&keep | bits&^keep}, p.l3+10)
	case etherIPv6:
		w := binary.BigEndian.Uint16(p.frame[p.l3:])
		tc := byte(w>>4)&keep | bits&^keep
		p.own()
		binary.BigEndian.PutUint16(p.frame[p.l3:], w&0xf00f|uint16(tc)<<4)
	}
}

func (p *packet) setTTL(ttl byte) {
	if p.l3 == 0 {
		return
	}
	switch p.etherType() {
	case etherIPv4:
		p.write(p.l3+8, []byte{ttl}, p.l3+10)
	case etherIPv6:
		p.own()
		p.frame[p.l3+7] = ttl
	}
}

// setL4 sets ports, ICMP type and code, and the target of neighbour discovery.
func (p *packet) setL4(k ofctl.FieldKind, v []byte) {
	if p.l4 == 0 {
		return
	}
	proto, at := byte(0), p.l4
	switch k {
	case ofctl.KindTCPSrc:
		proto = protoTCP
	case ofctl.KindTCPDst:
		proto, at = protoTCP, at+2
	case ofctl.KindUDPSrc:
		proto = protoUDP
	case ofctl.KindUDPDst:
		proto, at = protoUDP, at+2
	case ofctl.KindICMP4Type:
		proto = protoICMP
	case ofctl.KindICMP4Code:
		proto, at = protoICMP, at+1
	case ofctl.KindICMP6Type:
		proto = protoICMP6
	case ofctl.KindICMP6Code:
		proto, at = protoICMP6, at+1
	case ofctl.KindNDTarget:
		if proto, at = protoICMP6, at+8; !p.isND() || at+16 > len(p.frame) {
			return
		}
	default:
		return
	}
	if proto == p.key[atIPProto] {
		p.write(at, v, p.sum)
	}
}

// sumUnless is the offset of the transport checksum, or 0 if the protocol is proto.
func (p *packet) sumUnless(proto byte) int {
	if p.key[atIPProto] == proto {
		return 0
	}
	return p.sum
}

// write replaces bytes at at and updates the checksums at sums (0 = none) by the
// difference (RFC 1624), so that a wrong checksum stays wrong.
func (p *packet) write(at int, v []byte, sums ...int) {
	p.own()
	// Headers are aligned to 16 bits from l3 on: take whole words.
	from, to := at-(at-p.l3)%2, at+len(v)
	to += (to - p.l3) % 2
	diff := ^sum16(p.frame[from:to], 0)
	copy(p.frame[at:], v)
	diff = sum16(p.frame[from:to], uint32(diff))
	for _, s := range sums {
		if s == 0 {
			continue
		}
		old := binary.BigEndian.Uint16(p.frame[s:])
		udp := s == p.sum && p.key[atIPProto] == protoUDP
		if udp && old == 0 {
			continue // the sender computed none (RFC 768)
		}
		sum := ^fold(uint32(^old) + uint32(diff))
		if udp && sum == 0 {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(p.frame[s:], sum)
	}
}

// sum16 is the one's complement sum of b, an even number of bytes, and start.
func sum16(b []byte, start uint32) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		start += uint32(binary.BigEndian.Uint16(b))
	}
	return fold(start)
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// pushVLAN adds an 802.1Q tag with VLAN 0 or, if there is one, a copy of the tag
// (OpenFlow 1.3.5, section 5.12.1).
func (p *packet) pushVLAN() {
	tag := []byte{etherVLAN >> 8, etherVLAN & 0xff, 0, 0}
	if p.tagged() {
		copy(tag[2:], p.frame[14:16])
	}
	p.frame, p.owned = slices.Concat(p.frame[:12], tag, p.frame[12:]), true
	p.parse()
}

func (p *packet) popVLAN() {
	if !p.tagged() {
		return
	}
	p.frame, p.owned = slices.Concat(p.frame[:12], p.frame[16:]), true
	p.parse()
}

// decTTL tells whether the packet lives on.
func (p *packet) decTTL() bool {
	if p.l3 == 0 || p.etherType() != etherIPv4 && p.etherType() != etherIPv6 {
		return true
	}
	ttl := p.key[atTTL]
	if ttl <= 1 {
		return false
	}
	p.setTTL(ttl - 1)
	p.key[atTTL] = ttl - 1
	return true
}
