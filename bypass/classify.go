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
	// SYN: a TCP segment that opens a connection (SYN without ACK). FIN: one that
	// ends it (FIN or RST).
	SYN, FIN bool
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
	c.parser.AddDecodingLayer(&c.tcp)
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
	case etherQ, etherAD:
		p.Reason = ReasonTagged
	default:
		p.Reason = ReasonProtocol
	}
}

func (c *Classifier) ipv4(packet []byte, p *Packet) Reason {
	// The parser leaves the previous packet's values in layers that it did not
	// reach: only those listed in decoded count.
	err := c.parser.DecodeLayers(packet, &c.decoded)
	if len(c.decoded) == 0 || c.decoded[0] != layers.LayerTypeIPv4 {
		return ReasonMalformed
	}
	switch ip := &c.ip; {
	case ip.Version != 4, ip.IHL != 5, c.parser.Truncated:
		return ReasonMalformed
	case ip.Flags&layers.IPv4MoreFragments != 0 || ip.FragOffset != 0:
		return ReasonFragment
	case ip.Protocol != layers.IPProtocolTCP:
		return ReasonProtocol
	case err != nil, len(c.decoded) != 2:
		return ReasonMalformed
	}
	src, _ := netip.AddrFromSlice(c.ip.SrcIP)
	dst, _ := netip.AddrFromSlice(c.ip.DstIP)
	if src.IsMulticast() || dst.IsMulticast() || src.IsUnspecified() || dst == broadcast4 {
		return ReasonProtocol
	}
	p.Flow = Flow{TCP, netip.AddrPortFrom(src, uint16(c.tcp.SrcPort)), netip.AddrPortFrom(dst, uint16(c.tcp.DstPort))}
	p.SYN = c.tcp.SYN && !c.tcp.ACK
	p.FIN = c.tcp.FIN || c.tcp.RST
	p.Payload = len(c.tcp.Payload)
	return ReasonNone
}

var broadcast4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})
