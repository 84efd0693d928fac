package seg

import (
	"encoding/binary"

	"github.com/viasnet/vias/tap"
)

// Fields of an IPv4 header's bytes 6 and 7 (RFC 791).
const (
	ipv4DF     = 0x4000
	ipv4MF     = 0x2000
	ipv4Offset = 0x1fff
)

// minFragmentMTU: every IPv4 module takes packets of this length (RFC 791), so nobody needs less.
const minFragmentMTU = 576

// MayFragment tells whether a router might cut the frame's packet for an MTU that it exceeds: a whole
// IPv4 packet or fragment without DF. Packets with options are not cut here, since not every option
// belongs into every fragment, and nobody uses them.
func MayFragment(frame []byte, mtu int) bool {
	l3, ip, ok := ipv4Packet(frame)
	return ok && mtu >= minFragmentMTU && frame[l3] == 0x45 &&
		binary.BigEndian.Uint16(ip[6:])&ipv4DF == 0 && Checksum(ip[:ipv4HeaderLen], 0) == 0
}

// FragmentIPv4 appends to dst the fragments, of at most mtu bytes each, of the IPv4 packet in a finished
// frame for which MayFragment is true. What stands behind the packet (padding) is left out. false: dst
// had no room for all of them, 120 at most.
func FragmentIPv4(dst *tap.Batch, frame []byte, mtu int) bool {
	l3, ip, ok := ipv4Packet(frame)
	if !ok {
		return false
	}
	field := binary.BigEndian.Uint16(ip[6:])
	payload, step := ip[ipv4HeaderLen:], (mtu-ipv4HeaderLen)&^7
	for at := 0; at == 0 || at < len(payload); at += step {
		part := payload[at:min(at+step, len(payload))]
		p := dst.Reserve(l3 + ipv4HeaderLen + len(part))
		if p == nil {
			return false
		}
		copy(p, frame[:l3+ipv4HeaderLen])
		copy(p[l3+ipv4HeaderLen:], part)
		f := field + uint16(at/8)
		if at+step < len(payload) {
			f |= ipv4MF
		}
		binary.BigEndian.PutUint16(p[l3+2:], uint16(ipv4HeaderLen+len(part)))
		binary.BigEndian.PutUint16(p[l3+6:], f)
		PutIPv4Checksum(p[l3 : l3+ipv4HeaderLen])
		dst.Commit(len(p), tap.Offload{})
	}
	return true
}

// ipv4Packet is the packet of a frame with at most one tag, and where it begins.
func ipv4Packet(frame []byte) (l3 int, ip []byte, ok bool) {
	l3 = tap.HeaderLen
	if len(frame) < l3 {
		return 0, nil, false
	}
	etherType := binary.BigEndian.Uint16(frame[12:])
	if (etherType == etherCTag || etherType == etherSTag) && len(frame) >= l3+tap.TagLen {
		etherType = binary.BigEndian.Uint16(frame[16:])
		l3 += tap.TagLen
	}
	if ip = frame[l3:]; etherType != etherIPv4 || len(ip) < ipv4HeaderLen {
		return 0, nil, false
	}
	total := int(binary.BigEndian.Uint16(ip[2:]))
	if total < ipv4HeaderLen || total > len(ip) {
		return 0, nil, false
	}
	return l3, ip[:total], int(binary.BigEndian.Uint16(ip[6:])&ipv4Offset)*8+total <= 65535
}
