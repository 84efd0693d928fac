package seg

import (
	"encoding/binary"

	"github.com/viasnet/vias/tap"
)

// EtherTypes and IPv6 extension headers that headers looks at.
const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	etherCTag = 0x8100
	etherSTag = 0x88a8

	extHopByHop    = 0
	extDestination = 60
)

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
	tcpHeaderLen  = 20
	udpHeaderLen  = 8
)

// TCP flags that matter for cutting, in the header's byte 13.
const (
	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpPSH = 0x08
	tcpURG = 0x20
	tcpCWR = 0x80
)

// TCP options whose meaning does not depend on where a segment ends.
const (
	tcpOptionEnd        = 0
	tcpOptionNop        = 1
	tcpOptionSACK       = 5
	tcpOptionTimestamps = 8
	tcpOptionMPTCP      = 30

	tcpChecksumOffset = 16
)

// headers says where things are in a super-frame. Every offset was checked
// against the frame's true length.
type headers struct {
	l3, l4, payload, end int // offsets; end is behind the IP packet
	v6                   bool
	protocol             uint8
}

// parse finds the headers of an Ethernet frame that carries TCP or UDP over IPv4
// or IPv6, with at most one VLAN tag.
func parse(f []byte) (h headers, ok bool) {
	if len(f) < tap.HeaderLen {
		return h, false
	}
	etherType := binary.BigEndian.Uint16(f[12:])
	h.l3 = tap.HeaderLen
	if etherType == etherCTag || etherType == etherSTag {
		if len(f) < tap.HeaderLen+tap.TagLen {
			return h, false
		}
		etherType = binary.BigEndian.Uint16(f[16:])
		h.l3 += tap.TagLen
	}
	switch etherType {
	case etherIPv4:
		ok = h.parseIPv4(f)
	case etherIPv6:
		ok = h.parseIPv6(f)
	}
	return h, ok && h.parseTransport(f)
}

func (h *headers) parseIPv4(f []byte) bool {
	ip := f[h.l3:]
	if len(ip) < ipv4HeaderLen || ip[0]>>4 != 4 {
		return false
	}
	length, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
	if length < ipv4HeaderLen || total < length || total > len(ip) {
		return false
	}
	if binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 { // a fragment
		return false
	}
	h.protocol, h.l4, h.end = ip[9], h.l3+length, h.l3+total
	return true
}

func (h *headers) parseIPv6(f []byte) bool {
	ip := f[h.l3:]
	if len(ip) < ipv6HeaderLen || ip[0]>>4 != 6 {
		return false
	}
	total := ipv6HeaderLen + int(binary.BigEndian.Uint16(ip[4:]))
	if total > len(ip) {
		return false
	}
	h.v6, h.protocol, h.l4, h.end = true, ip[6], h.l3+ipv6HeaderLen, h.l3+total
	// Both of these are the same in every segment and leave the pseudo-header
	// alone; any other extension header is more than we know.
	for h.protocol == extHopByHop || h.protocol == extDestination {
		if h.end-h.l4 < 8 {
			return false
		}
		h.protocol, h.l4 = f[h.l4], h.l4+8+int(f[h.l4+1])*8
		if h.l4 > h.end {
			return false
		}
	}
	return true
}

func (h *headers) parseTransport(f []byte) bool {
	room := h.end - h.l4
	switch h.protocol {
	case ProtocolTCP:
		if room < tcpHeaderLen {
			return false
		}
		length := int(f[h.l4+12]>>4) * 4
		if length < tcpHeaderLen || length > room {
			return false
		}
		h.payload = h.l4 + length
	case ProtocolUDP:
		if room < udpHeaderLen {
			return false
		}
		h.payload = h.l4 + udpHeaderLen
	default:
		return false
	}
	return true
}

// is tells whether the headers are those that kind announces.
func (h *headers) is(kind tap.GSO) bool {
	switch kind {
	case tap.GSOTCP4:
		return h.protocol == ProtocolTCP && !h.v6
	case tap.GSOTCP6:
		return h.protocol == ProtocolTCP && h.v6
	case tap.GSOUDP:
		return h.protocol == ProtocolUDP
	}
	return false
}

// pseudo is the pseudo-header's sum for a segment of length bytes of the packet
// that starts at ip.
func (h *headers) pseudo(ip []byte, length int) uint32 {
	if h.v6 {
		return PseudoHeader(ip[8:24], ip[24:40], h.protocol, length)
	}
	return PseudoHeader(ip[12:16], ip[16:20], h.protocol, length)
}
