package bypasstest

import (
	"encoding/binary"
	"net/netip"

	"github.com/viasnet/vias/bypass"
)

// Parse reads a frame. ok is false for whatever is not TCP or UDP over IPv4 or IPv6
// with all its headers there. Of later fragments the ports are 0. Payload is part of
// frame.
func Parse(frame []byte) (p Packet, ok bool) {
	at, ok := locate(frame)
	p.Flow.Proto = bypass.Proto(at.proto)
	if !ok || p.Flow.Proto != bypass.TCP && p.Flow.Proto != bypass.UDP {
		return p, false
	}
	copy(p.DstMAC[:], frame)
	copy(p.SrcMAC[:], frame[6:])
	if at.l3 > ethLen {
		p.VLAN = binary.BigEndian.Uint16(frame[14:]) & 0xfff
	}
	p.TTL, p.Class = at.ttl, at.class
	p.Fragment, p.More, p.Ext = at.fragment, at.more, at.ext
	return p, p.parseTransport(at.src, at.dst, frame[at.l4:at.end])
}

func (p *Packet) parseTransport(src, dst netip.Addr, t []byte) bool {
	if p.Fragment != 0 {
		p.Flow.Src, p.Flow.Dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
		p.Payload = t
		return true
	}
	if len(t) < 8 {
		return false
	}
	p.Flow.Src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(t))
	p.Flow.Dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(t[2:]))
	if p.Flow.Proto == bypass.UDP {
		p.Payload = t[8:]
		return true
	}
	if len(t) < 20 || int(t[12]>>4)*4 < 20 || int(t[12]>>4)*4 > len(t) {
		return false
	}
	p.Seq, p.Ack = binary.BigEndian.Uint32(t[4:]), binary.BigEndian.Uint32(t[8:])
	p.Flags = t[13] & 0x3f
	p.Payload = t[int(t[12]>>4)*4:]
	return true
}

// odd tells whether p is what no switch takes for a flow's: tagged, a fragment, behind
// extension headers.
func (p Packet) odd() bool {
	return p.VLAN != 0 || p.Fragment != 0 || p.More || len(p.Ext) > 0
}

// network is where the IP header of frame starts.
func network(frame []byte) (l3 int, f bypass.Family, ok bool) {
	l3 = ethLen
	if len(frame) >= ethLen+vlanLen && binary.BigEndian.Uint16(frame[12:]) == etherVLAN {
		l3 += vlanLen
	}
	if len(frame) <= l3 {
		return 0, 0, false
	}
	switch ether := binary.BigEndian.Uint16(frame[l3-2:]); {
	case ether == etherIPv4 && len(frame) >= l3+ip4Len && frame[l3]>>4 == 4:
		return l3, bypass.IPv4, true
	case ether == etherIPv6 && len(frame) >= l3+ip6Len && frame[l3]>>4 == 6:
		return l3, bypass.IPv6, true
	}
	return 0, 0, false
}

// layers is where the parts of an IP packet stand in its frame, and what they say.
type layers struct {
	l3, l4, end int // of the packet; a frame may be padded
	proto       uint8
	ttl, class  uint8
	src, dst    netip.Addr
	fragment    uint16
	more        bool
	ext         []uint8
}

// locate reads the network layer of frame, over all extension headers.
func locate(frame []byte) (at layers, ok bool) {
	l3, family, ok := network(frame)
	if !ok {
		return at, false
	}
	at.l3 = l3
	if family == bypass.IPv6 {
		return at, at.ipv6(frame)
	}
	ip := frame[l3:]
	ihl := int(ip[0]&0xf) * 4
	total := int(binary.BigEndian.Uint16(ip[2:]))
	if ihl < ip4Len || total < ihl || total > len(ip) {
		return at, false
	}
	at.l4, at.end = l3+ihl, l3+total
	at.class, at.ttl, at.proto = ip[1], ip[8], ip[9]
	frag := binary.BigEndian.Uint16(ip[6:])
	at.fragment, at.more = frag&0x1fff, frag&0x2000 != 0
	at.src, at.dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	return at, true
}

func (at *layers) ipv6(frame []byte) bool {
	ip := frame[at.l3:]
	at.l4 = at.l3 + ip6Len
	at.end = at.l4 + int(binary.BigEndian.Uint16(ip[4:]))
	at.class, at.proto, at.ttl = ip[0]<<4|ip[1]>>4, ip[6], ip[7]
	at.src, at.dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
	for at.end <= len(frame) {
		h := frame[at.l4:at.end]
		switch at.proto {
		case ExtHopByHop, ExtRouting, ExtDestination, ExtAuth, ExtFragment:
		default:
			return true
		}
		if len(h) < 8 {
			return false
		}
		n := int(h[1])*8 + 8
		switch at.proto {
		case ExtAuth:
			n = int(h[1])*4 + 8
		case ExtFragment:
			n = fragLen
			frag := binary.BigEndian.Uint16(h[2:])
			at.fragment, at.more = frag>>3, frag&1 != 0
		}
		if n > len(h) {
			return false
		}
		if at.proto != ExtFragment || at.fragment == 0 && !at.more {
			at.ext = append(at.ext, at.proto)
		}
		at.proto = h[0]
		at.l4 += n
		if at.fragment != 0 {
			return true
		}
	}
	return false
}
