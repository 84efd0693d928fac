package bypass

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/viasnet/vias/tap"
)

// Packet is what a Classifier read from a frame.
type Packet struct {
	Src, Dst tap.MAC
	// Flow is set when Reason is ReasonNone.
	Flow Flow
	// SYN: a TCP segment that opens a connection (SYN without ACK). SYNACK: the answer
	// to one. FIN: one that ends it (FIN or RST).
	SYN, SYNACK, FIN bool
	// Payload is the length of the transport's payload in bytes.
	Payload int
	// Reason says why the frame can never be bypassed; ReasonNone: it can.
	Reason Reason
}

// Classifier reads frames. It belongs to one goroutine. It allocates nothing.
type Classifier struct {
	parser  *gopacket.DecodingLayerParser
	decoded []gopacket.LayerType
	ip      layers.IPv4
	tcp     layers.TCP
}

// NewClassifier makes a Classifier.
func NewClassifier() *Classifier {
	c := &Classifier{decoded: make([]gopacket.LayerType, 0, 4)}
	c.parser = gopacket.NewDecodingLayerParser(layers.LayerTypeIPv4)
	c.parser.SetDecodingLayerContainer(gopacket.DecodingLayerSparse(nil))
	c.parser.AddDecodingLayer(&c.ip)
	c.parser.IgnoreUnsupported = true
	return c
}

// EtherTypes that the classifier tells apart.
const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	etherQ    = 0x8100
	etherAD   = 0x88a8
)

// Lengths of headers without options.
const (
	lenIPv4 = 20
	lenIPv6 = 40
	lenTCP  = 20
	lenUDP  = 8
)

// Next headers of IPv6 that are extension headers (RFC 7045, section 4).
const (
	nextHopByHop = 0
	nextRouting  = 43
	nextFragment = 44
	nextESP      = 50
	nextAH       = 51
	nextOptions  = 60
	nextMobility = 135
	nextHIP      = 139
	nextShim6    = 140
)

// Classify reads the headers of an Ethernet frame into p. It never fails: whatever
// it does not fully understand gets a Reason, and stays on the overlay. Partial
// checksums and super-frames are fine.
func (c *Classifier) Classify(frame []byte, p *Packet) {
	*p = Packet{Reason: ReasonMalformed}
	if len(frame) < tap.HeaderLen {
		return
	}
	p.Dst, p.Src = tap.MAC(frame[0:6]), tap.MAC(frame[6:12])
	switch binary.BigEndian.Uint16(frame[12:14]) {
	case etherIPv4:
		p.Reason = c.ipv4(frame[tap.HeaderLen:], p)
	case etherIPv6:
		p.Reason = c.ipv6(frame[tap.HeaderLen:], p)
	case etherQ, etherAD:
		p.Reason = ReasonTagged
	default:
		p.Reason = ReasonProtocol
	}
}

func (c *Classifier) ipv4(packet []byte, p *Packet) Reason {
	// The parser leaves the previous packet's values in a layer that it did not
	// reach: it counts only if it is listed in decoded.
	err := c.parser.DecodeLayers(packet, &c.decoded)
	if len(c.decoded) == 0 || c.decoded[0] != layers.LayerTypeIPv4 {
		return ReasonMalformed
	}
	ip := &c.ip
	switch proto := Proto(ip.Protocol); {
	case ip.Version != 4, ip.IHL != 5, c.parser.Truncated, binary.BigEndian.Uint16(packet[2:4]) == 0: // gopacket takes 0 for "all"
		return ReasonMalformed
	case ip.Flags&layers.IPv4MoreFragments != 0 || ip.FragOffset != 0:
		return ReasonFragment
	case proto != TCP && proto != UDP:
		return ReasonProtocol
	case err != nil:
		return ReasonMalformed
	}
	src, _ := netip.AddrFromSlice(ip.SrcIP)
	dst, _ := netip.AddrFromSlice(ip.DstIP)
	return c.ports(Proto(ip.Protocol), src, dst, ip.Payload, p)
}

// ipv6 reads its header by hand: gopacket's IPv6 layer allocates for a hop-by-hop header,
// takes a payload length of 0 for a jumbogram's, and cuts off in silence what is too
// long. Whatever has an extension header stays on the overlay: a switch looks behind
// some of them for the ports, and not behind others.
func (c *Classifier) ipv6(packet []byte, p *Packet) Reason {
	if len(packet) < lenIPv6 || packet[0]>>4 != 6 {
		return ReasonMalformed
	}
	size := int(binary.BigEndian.Uint16(packet[4:6]))
	if size > len(packet)-lenIPv6 {
		return ReasonMalformed
	}
	switch packet[6] {
	case byte(TCP), byte(UDP):
	case nextFragment:
		return ReasonFragment
	case nextHopByHop, nextRouting, nextESP, nextAH, nextOptions, nextMobility, nextHIP, nextShim6:
		return ReasonMalformed
	default:
		return ReasonProtocol
	}
	src, dst := netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40]))
	return c.ports(Proto(packet[6]), src, dst, packet[lenIPv6:lenIPv6+size], p)
}

// ports reads the header of a transport, of which text is all there is.
func (c *Classifier) ports(proto Proto, src, dst netip.Addr, text []byte, p *Packet) Reason {
	payload := 0
	switch {
	case proto == UDP:
		// A zero length stands for a jumbogram's in IPv6 (RFC 2675), a shorter one than
		// IP's for something behind the datagram: no switch reads it so.
		if len(text) < lenUDP || int(binary.BigEndian.Uint16(text[4:6])) != len(text) {
			return ReasonMalformed
		}
		payload = len(text) - lenUDP
	case c.tcp.DecodeFromBytes(text, gopacket.NilDecodeFeedback) != nil:
		return ReasonMalformed
	default:
		payload = len(c.tcp.Payload)
	}
	if !unicast(src) || !unicast(dst) {
		return ReasonProtocol
	}
	p.Flow = Flow{proto, netip.AddrPortFrom(src, binary.BigEndian.Uint16(text)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(text[2:]))}
	if p.Payload = payload; proto == TCP {
		p.SYN, p.SYNACK = c.tcp.SYN && !c.tcp.ACK, c.tcp.SYN && c.tcp.ACK
		p.FIN = c.tcp.FIN || c.tcp.RST
	}
	return ReasonNone
}

var broadcast4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// unicast tells whether a flow with this address can be bypassed. Addresses of IPv6's
// link scope cannot: any two guests may have the same. Nor can an IPv4 address in an IPv6
// one: no such packet should be on a wire.
func unicast(a netip.Addr) bool {
	switch {
	case !a.IsValid(), a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a == broadcast4, a.Is4In6(), a.Zone() != "":
		return false
	}
	return a.Is4() || !a.IsLinkLocalUnicast()
}
