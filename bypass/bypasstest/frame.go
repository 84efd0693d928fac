package bypasstest

import (
	"encoding/binary"
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

// IPv6 extension headers, for Packet.Ext (RFC 8200; RFC 4302 for the last).
const (
	ExtHopByHop    uint8 = 0
	ExtRouting     uint8 = 43
	ExtFragment    uint8 = 44 // an atomic fragment: offset 0 and nothing more (RFC 6946)
	ExtDestination uint8 = 60
	ExtAuth        uint8 = 51
)

// Packet is an Ethernet frame with a TCP segment or a UDP datagram over IPv4 or IPv6,
// as a test wants to write or read it. The addresses of Flow are of one family.
type Packet struct {
	SrcMAC, DstMAC tap.MAC
	VLAN           uint16 // 0 = untagged
	Flow           bypass.Flow
	TTL            uint8 // or hop limit; 0 = 64
	Class          uint8 // DSCP and ECN
	// Fragment is the offset in units of 8 bytes (0 for a first or whole packet),
	// More the more-fragments flag (RFC 791). Over IPv6 they are a fragment header.
	Fragment uint16
	More     bool
	Ext      []uint8 // IPv6 only: extension headers, in order, but that of a fragment
	Seq, Ack uint32  // TCP only
	Flags    uint8   // TCP only
	Payload  []byte
}

const (
	ethLen  = 14
	vlanLen = 4
	ip4Len  = 20
	ip6Len  = 40
	fragLen = 8 // an IPv6 fragment header

	etherVLAN = 0x8100
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
)

// Frame is the frame's bytes, with right checksums.
func (p Packet) Frame() []byte {
	b := ethernet(p.SrcMAC, p.DstMAC, p.VLAN, p.Flow.Src.Addr())
	l3 := len(b)
	if p.Flow.Src.Addr().Is4() {
		b = p.appendIPv4(b)
	} else {
		b = p.appendIPv6(b)
	}
	l4 := len(b)
	b = append(p.appendTransport(b), p.Payload...)
	putLength(b[l3:])
	fixChecksums(b[l3:], l4-l3, byte(p.Flow.Proto))
	return b
}

// ethernet is the header of a frame that carries a packet from src.
func ethernet(from, to tap.MAC, vlan uint16, src netip.Addr) []byte {
	b := append(append(make([]byte, 0, 128), to[:]...), from[:]...)
	if vlan != 0 {
		b = binary.BigEndian.AppendUint16(b, etherVLAN)
		b = binary.BigEndian.AppendUint16(b, vlan)
	}
	if src.Is4() {
		return binary.BigEndian.AppendUint16(b, etherIPv4)
	}
	return binary.BigEndian.AppendUint16(b, etherIPv6)
}

// putLength writes ip's length into its header.
func putLength(ip []byte) {
	if ip[0]>>4 == 4 {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		return
	}
	binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-ip6Len))
}

func (p Packet) ttl() uint8 {
	if p.TTL == 0 {
		return 64
	}
	return p.TTL
}

func (p Packet) appendIPv4(b []byte) []byte {
	frag := p.Fragment & 0x1fff
	if p.More {
		frag |= 0x2000
	}
	b = append(b, 0x45, p.Class, 0, 0, 0, 0, byte(frag>>8), byte(frag), p.ttl(), byte(p.Flow.Proto), 0, 0)
	b = append(b, p.Flow.Src.Addr().AsSlice()...)
	return append(b, p.Flow.Dst.Addr().AsSlice()...)
}

func (p Packet) appendIPv6(b []byte) []byte {
	chain := append([]uint8{}, p.Ext...)
	if p.Fragment != 0 || p.More {
		chain = append(chain, ExtFragment)
	}
	chain = append(chain, byte(p.Flow.Proto))
	b = append(b, 0x60|p.Class>>4, p.Class<<4, 0, 0, 0, 0, chain[0], p.ttl())
	b = append(b, p.Flow.Src.Addr().AsSlice()...)
	b = append(b, p.Flow.Dst.Addr().AsSlice()...)
	for i, kind := range chain[:len(chain)-1] {
		next := chain[i+1]
		switch kind {
		case ExtFragment:
			frag := p.Fragment << 3
			if p.More {
				frag |= 1
			}
			b = append(b, next, 0, byte(frag>>8), byte(frag), 0, 0, 0, 9)
		case ExtAuth:
			b = append(b, next, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0xde, 0xad, 0xbe, 0xef)
		case ExtRouting: // of type 4 (RFC 8754), at its end
			b = append(b, next, 0, 4, 0, 0, 0, 0, 0)
		default: // PadN
			b = append(b, next, 0, 1, 4, 0, 0, 0, 0)
		}
	}
	return b
}

func (p Packet) appendTransport(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, p.Flow.Src.Port())
	b = binary.BigEndian.AppendUint16(b, p.Flow.Dst.Port())
	if p.Flow.Proto != bypass.TCP {
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(p.Payload)))
		return append(b, 0, 0)
	}
	b = binary.BigEndian.AppendUint32(b, p.Seq)
	b = binary.BigEndian.AppendUint32(b, p.Ack)
	return append(b, 5<<4, p.Flags, 0xff, 0xff, 0, 0, 0, 0)
}
