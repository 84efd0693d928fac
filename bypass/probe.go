package bypass

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// A probe is a packet of the proof: an ordinary UDP datagram or TCP segment
// between two reserved ports, whose payload (or, for a SYN, initial sequence
// number) carries a MAC over all that a middle box could change. Its text:
//
//	what(1) round(8) n(4) zeros… mac(16)
//
// The MAC is HMAC-SHA256, cut to 16 bytes, over protocol, both address:port, TTL
// and IP length as sent, and the text before it; its key comes from both ends'
// challenges, so it holds for one round of proof between two runs of two peers.
type probe struct {
	proto    Proto
	src, dst netip.AddrPort
	ttl      uint8
	size     int // of the IP packet
	syn, ack bool
	rst      bool
	seq, num uint32 // TCP sequence and acknowledgement
	text     []byte // payload
}

// What a probe's text says.
const (
	probeRequest = 1
	probeReply   = 2
)

const (
	probeTTL  = 255
	probeMAC  = 16
	probeText = 1 + 8 + 4 + probeMAC // the shortest text
)

// probeKey authenticates the probes of one round.
type probeKey []byte

// newProbeKey binds both challenges, both peers and their runs, the network and
// the domain. low is the end with the lower PeerID.
func newProbeKey(low, high proofEnd, network, domain string) (probeKey, error) {
	info := fmt.Appendf(nil, "vias probe 1\x00%d\x00%s\x00%d\x00%s\x00", len(network), network, len(domain), domain)
	for _, e := range []proofEnd{low, high} {
		info = append(info, e.id[:]...)
		info = binary.BigEndian.AppendUint64(info, e.epoch)
		info = append(info, e.addr.AsSlice()...)
	}
	secret := append(append([]byte(nil), low.nonce...), high.nonce...)
	k, err := hkdf.Key(sha256.New, secret, nil, string(info), sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("bypass: probe key: %w", err)
	}
	return k, nil
}

// proofEnd is what one end puts into the key.
type proofEnd struct {
	id    overlay.PeerID
	epoch uint64
	addr  netip.Addr
	nonce []byte
}

func (k probeKey) sum(p *probe, size int, text []byte) []byte {
	h := hmac.New(sha256.New, k)
	b := make([]byte, 0, 32)
	b = append(b, byte(p.proto), probeTTL)
	for _, a := range []netip.AddrPort{p.src, p.dst} {
		b = append(b, a.Addr().AsSlice()...)
		b = binary.BigEndian.AppendUint16(b, a.Port())
	}
	b = binary.BigEndian.AppendUint16(b, uint16(size))
	h.Write(b)
	h.Write(text)
	return h.Sum(nil)[:probeMAC]
}

// isn is the initial sequence number of a SYN (or SYN-ACK): whoever does not hold
// the key cannot open a probe connection.
func (k probeKey) isn(p *probe, what byte) uint32 {
	return binary.BigEndian.Uint32(k.sum(p, p.head(), []byte{what, 's', 'y', 'n'}))
}

// head is the length of p's IP and transport headers, which have no options.
func (p *probe) head() int {
	ip, l4 := lenIPv4, lenTCP
	if FamilyOf(p.src.Addr()) == IPv6 {
		ip = lenIPv6
	}
	if p.proto == UDP {
		l4 = lenUDP
	}
	return ip + l4
}

// seal gives p a text of such a length that its IP packet has size bytes.
func (k probeKey) seal(p *probe, what byte, round uint64, n uint32, size int) {
	head := p.head()
	p.size = max(size, head+probeText)
	text := make([]byte, p.size-head)
	text[0] = what
	binary.BigEndian.PutUint64(text[1:], round)
	binary.BigEndian.PutUint32(text[9:], n)
	copy(text[len(text)-probeMAC:], k.sum(p, p.size, text[:len(text)-probeMAC]))
	p.text = text
}

// open checks p's text as if it had been sent from src to dst, and tells what it says.
func (k probeKey) open(p *probe, src, dst netip.AddrPort) (what byte, round uint64, n uint32, ok bool) {
	if len(p.text) < probeText {
		return 0, 0, 0, false
	}
	cut := len(p.text) - probeMAC
	sent := probe{proto: p.proto, src: src, dst: dst}
	if !hmac.Equal(k.sum(&sent, p.size, p.text[:cut]), p.text[cut:]) {
		return 0, 0, 0, false
	}
	return p.text[0], binary.BigEndian.Uint64(p.text[1:]), binary.BigEndian.Uint32(p.text[9:]), true
}

// packetLayer is an IPv4 or IPv6 header.
type packetLayer interface {
	gopacket.SerializableLayer
	gopacket.NetworkLayer
}

// header is p's IP header. IPv4's has Don't Fragment set: a probe's size is the point.
// Routers do not fragment IPv6.
func (p *probe) header() (packetLayer, layers.EthernetType) {
	src, dst := p.src.Addr().AsSlice(), p.dst.Addr().AsSlice()
	if FamilyOf(p.src.Addr()) == IPv6 {
		return &layers.IPv6{Version: 6, HopLimit: probeTTL, NextHeader: layers.IPProtocol(p.proto), SrcIP: src, DstIP: dst}, layers.EthernetTypeIPv6
	}
	return &layers.IPv4{Version: 4, TTL: probeTTL, Flags: layers.IPv4DontFragment, Protocol: layers.IPProtocol(p.proto), SrcIP: src, DstIP: dst}, layers.EthernetTypeIPv4
}

// frame is p as an Ethernet frame.
func (p *probe) frame(src, dst tap.MAC) ([]byte, error) {
	ip, kind := p.header()
	eth := &layers.Ethernet{SrcMAC: src[:], DstMAC: dst[:], EthernetType: kind}
	var l4 gopacket.SerializableLayer
	var err error
	if p.proto == UDP {
		u := &layers.UDP{SrcPort: layers.UDPPort(p.src.Port()), DstPort: layers.UDPPort(p.dst.Port())}
		err, l4 = u.SetNetworkLayerForChecksum(ip), u
	} else {
		t := &layers.TCP{SrcPort: layers.TCPPort(p.src.Port()), DstPort: layers.TCPPort(p.dst.Port()),
			Seq: p.seq, Ack: p.num, SYN: p.syn, ACK: p.ack, RST: p.rst, PSH: len(p.text) > 0, Window: 65535}
		err, l4 = t.SetNetworkLayerForChecksum(ip), t
	}
	if err != nil {
		return nil, fmt.Errorf("bypass: probe: %w", err)
	}
	b := gopacket.NewSerializeBuffer()
	err = gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, l4, gopacket.Payload(p.text))
	if err != nil {
		return nil, fmt.Errorf("bypass: probe: %w", err)
	}
	return b.Bytes(), nil
}

var errNoProbe = errors.New("bypass: not a probe")

// parseProbe reads a frame that a Listen rule sent up: an IP header, TCP or UDP behind it,
// and nothing else. It believes nothing but the lengths; open tells who sent it.
func parseProbe(frame []byte) (probe, error) {
	var c Packet
	NewClassifier().Classify(frame, &c) // strict, of either family
	if c.Reason != ReasonNone {
		return probe{}, errNoProbe
	}
	packet := frame[tap.HeaderLen:]
	p := probe{proto: c.Flow.Proto, src: c.Flow.Src, dst: c.Flow.Dst}
	text := packet[lenIPv4:]
	if FamilyOf(p.src.Addr()) == IPv6 {
		p.ttl, p.size, text = packet[7], lenIPv6+int(binary.BigEndian.Uint16(packet[4:])), packet[lenIPv6:]
	} else {
		p.ttl, p.size = packet[8], int(binary.BigEndian.Uint16(packet[2:]))
	}
	end := p.size - (len(packet) - len(text)) // padding may follow
	if p.proto == TCP {
		const syn, rst, ack = 0x02, 0x04, 0x10
		flags := text[13]
		p.syn, p.ack, p.rst = flags&syn != 0, flags&ack != 0, flags&rst != 0
		p.seq, p.num = binary.BigEndian.Uint32(text[4:]), binary.BigEndian.Uint32(text[8:])
	}
	p.text = text[end-c.Payload : end]
	return p, nil
}
