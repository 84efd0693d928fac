package ofctltest

import "encoding/binary"

// EtherTypes and IP protocols that are looked into.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherVLAN = 0x8100
	etherQinQ = 0x88a8
	etherIPv6 = 0x86dd
	// etherNone is what Open vSwitch matches for a frame without EtherType.
	etherNone = 0x05ff

	protoICMP  = 1
	protoTCP   = 6
	protoUDP   = 17
	protoICMP6 = 58

	ethLen, vlanLen, minIPv4, minIPv6 = 14, 4, 20, 40
)

// Bits of key[atFrag], as in NXM_NX_IP_FRAG.
const (
	fragAny   = 1
	fragLater = 2
)

// packet is one frame on its way through the tables.
type packet struct {
	frame []byte
	// owned: frame is this packet's alone and may be written to.
	owned bool
	key   key
	// Offsets into frame; 0 = there is no such header. l4 is set for TCP, UDP and
	// ICMP with a whole header only, and never in a later fragment.
	l3, l4 int
	// sum is the offset of the transport checksum; 0 = none.
	sum int
}

// newPacket parses frame, which is not copied. Nothing in a frame is an error: a
// header that is cut short or wrong leaves its fields zero.
func newPacket(frame []byte, inPort uint32) packet {
	p := packet{frame: frame}
	binary.BigEndian.PutUint32(p.key[atInPort:], inPort)
	p.parse()
	return p
}

func (p *packet) inPort() uint32 { return binary.BigEndian.Uint32(p.key[atInPort:]) }

func (p *packet) etherType() uint16 { return binary.BigEndian.Uint16(p.key[atEthType:]) }

// tagged tells whether the frame has an 802.1Q or 802.1ad tag.
func (p *packet) tagged() bool { return p.key[atVLAN]&0x10 != 0 }

// parse fills key (but for metadata and in_port, which stay) and the offsets.
func (p *packet) parse() {
	old := p.key
	p.key = key{}
	copy(p.key[atMetadata:], old[atMetadata:atMetadata+8])
	copy(p.key[atInPort:], old[atInPort:atInPort+4])
	p.l3, p.l4, p.sum = 0, 0, 0
	if len(p.frame) < ethLen {
		return
	}
	copy(p.key[atEthDst:], p.frame[0:6])
	copy(p.key[atEthSrc:], p.frame[6:12])
	at := 12
	typ := binary.BigEndian.Uint16(p.frame[at:])
	if (typ == etherVLAN || typ == etherQinQ) && len(p.frame) >= ethLen+vlanLen {
		tci := binary.BigEndian.Uint16(p.frame[at+2:])
		binary.BigEndian.PutUint16(p.key[atVLAN:], 0x1000|tci&0xfff)
		at += vlanLen
		typ = binary.BigEndian.Uint16(p.frame[at:])
	}
	if typ < 0x0600 {
		typ = etherNone
	}
	binary.BigEndian.PutUint16(p.key[atEthType:], typ)
	at += 2
	switch typ {
	case etherIPv4:
		p.parseIPv4(at)
	case etherIPv6:
		p.parseIPv6(at)
	case etherARP:
		p.parseARP(at)
	}
}

func (p *packet) parseARP(at int) {
	b := p.frame[at:]
	// Ethernet and IPv4 addresses only (RFC 826).
	if len(b) < 28 || binary.BigEndian.Uint64(b)>>16 != 0x000108000604 {
		return
	}
	p.l3 = at
	copy(p.key[atARPOp:], b[6:8])
	copy(p.key[atARPSHA:], b[8:14])
	copy(p.key[atIPv4Src:], b[14:18])
	copy(p.key[atARPTHA:], b[18:24])
	copy(p.key[atIPv4Dst:], b[24:28])
}

func (p *packet) parseIPv4(at int) {
	b := p.frame[at:]
	if len(b) < minIPv4 || b[0]>>4 != 4 {
		return
	}
	header, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	if header < minIPv4 || header > total || total > len(b) {
		return
	}
	p.l3 = at
	p.setTOS(b[1])
	p.key[atTTL] = b[8]
	p.key[atIPProto] = b[9]
	copy(p.key[atIPv4Src:], b[12:16])
	copy(p.key[atIPv4Dst:], b[16:20])
	frag := binary.BigEndian.Uint16(b[6:])
	p.setFrag(frag&0x2000 != 0, frag&0x1fff != 0)
	p.parseL4(at+header, at+total)
}

// parseIPv6 walks the extension headers that Open vSwitch walks (RFC 8200, 4302).
func (p *packet) parseIPv6(at int) {
	b := p.frame[at:]
	if len(b) < minIPv6 || b[0]>>4 != 6 {
		return
	}
	end := minIPv6 + int(binary.BigEndian.Uint16(b[4:]))
	if end > len(b) {
		return
	}
	b = b[:end]
	p.l3 = at
	p.setTOS(b[0]<<4 | b[1]>>4)
	p.key[atTTL] = b[7]
	copy(p.key[atIPv6Src:], b[8:24])
	copy(p.key[atIPv6Dst:], b[24:40])
	next, off := b[6], minIPv6
	for {
		size := 0
		switch next {
		case 0, 43, 60: // hop-by-hop, routing, destination options
			if off+8 > end {
				return
			}
			size = (int(b[off+1]) + 1) * 8
		case 51: // authentication header
			if off+8 > end {
				return
			}
			size = (int(b[off+1]) + 2) * 4
		case 44: // fragment
			if off+8 > end {
				return
			}
			size = 8
			f := binary.BigEndian.Uint16(b[off+2:])
			p.setFrag(f&1 != 0, f&^7 != 0)
			if f&^7 != 0 {
				// Open vSwitch sees no further in a later fragment.
				p.key[atIPProto] = 44
				return
			}
		default:
			p.key[atIPProto] = next
			p.parseL4(at+off, at+end)
			return
		}
		next, off = b[off], off+size
		if off > end {
			return
		}
	}
}

func (p *packet) setTOS(tos byte) {
	p.key[atIPDSCP], p.key[atIPECN] = tos>>2, tos&3
}

func (p *packet) setFrag(more, later bool) {
	if more || later {
		p.key[atFrag] = fragAny
	}
	if later {
		p.key[atFrag] |= fragLater
	}
}

// parseL4 looks at the transport header at at; the packet ends at end. As with Open
// vSwitch's "normal" handling of fragments (OFPC_FRAG_NORMAL), no fragment has
// ports to match, not even the first, but the first one's checksum is known.
func (p *packet) parseL4(at, end int) {
	if p.key[atFrag]&fragLater != 0 {
		return
	}
	need, sum := 0, 0
	switch p.key[atIPProto] {
	case protoTCP:
		need, sum = 20, 16
	case protoUDP:
		need, sum = 8, 6
	case protoICMP, protoICMP6:
		need, sum = 8, 2
		if (p.key[atIPProto] == protoICMP) != (p.etherType() == etherIPv4) {
			return
		}
	default:
		return
	}
	if at+need > end {
		return
	}
	p.l4, p.sum = at, at+sum
	if p.key[atFrag] != 0 {
		return
	}
	b := p.frame[at:end]
	if sum != 2 {
		copy(p.key[atL4Src:], b[:4])
		return
	}
	p.key[atL4Src], p.key[atL4Dst] = b[0], b[1]
	if p.isND() && len(b) >= 24 {
		copy(p.key[atNDTarget:], b[8:24])
	}
}

// isND: an ICMPv6 neighbour solicitation or advertisement (RFC 4861).
func (p *packet) isND() bool {
	return p.key[atIPProto] == protoICMP6 && (p.key[atL4Src] == 135 || p.key[atL4Src] == 136)
}
