package seg

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/viasnet/vias/tap"
)

// spec is a packet as its fields; build makes the bytes, slowly and obviously.
type spec struct {
	v6, tagged bool
	protocol   uint8
	options    int // bytes of IPv4 options, or of an IPv6 hop-by-hop header
	id         uint16
	seq        uint32
	flags      byte
	tcpOptions int
	noChecksum bool // UDP
}

// build makes a finished frame.
func (s spec) build(payload []byte) []byte {
	l4 := s.transport(payload)
	f := append([]byte{}, 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1)
	if s.tagged {
		f = append(f, 0x81, 0, 0x20, 7)
	}
	if !s.v6 {
		ip := make([]byte, 20+s.options)
		ip[0], ip[1] = byte(0x45+s.options/4), 0x02 // ECT(0)
		for i := range s.options {
			ip[20+i] = 1 // no operation
		}
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(l4)))
		binary.BigEndian.PutUint16(ip[4:], s.id)
		ip[6], ip[8], ip[9] = 0x40, 64, s.protocol
		copy(ip[12:], s.src())
		copy(ip[16:], s.dst())
		binary.BigEndian.PutUint16(ip[10:], slowChecksum(ip))
		f = append(append(f, 8, 0), ip...)
		return append(f, l4...)
	}
	ip := make([]byte, 40+s.options)
	ip[0], ip[3], ip[6], ip[7] = 0x60, 9, s.protocol, 64
	binary.BigEndian.PutUint16(ip[4:], uint16(s.options+len(l4)))
	copy(ip[8:], s.src())
	copy(ip[24:], s.dst())
	if s.options > 0 {
		ip[6] = 0 // hop-by-hop, all PadN
		ip[40], ip[41], ip[42], ip[43] = s.protocol, byte(s.options/8-1), 1, byte(s.options-4)
	}
	f = append(append(f, 0x86, 0xdd), ip...)
	return append(f, l4...)
}

func (s spec) src() []byte { return s.address(1) }
func (s spec) dst() []byte { return s.address(2) }
func (s spec) address(last byte) []byte {
	if s.v6 {
		return []byte{0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last}
	}
	return []byte{192, 0, 2, last}
}

func (s spec) transport(payload []byte) []byte {
	var h []byte
	at := 6
	if s.protocol == ProtocolTCP {
		at = 16
		h = make([]byte, 20+s.tcpOptions)
		binary.BigEndian.PutUint32(h[4:], s.seq)
		binary.BigEndian.PutUint32(h[8:], 0x01020304)
		h[12], h[13] = byte(5+s.tcpOptions/4)<<4, s.flags
		binary.BigEndian.PutUint16(h[14:], 512)
		for i := range s.tcpOptions {
			h[20+i] = 1
		}
	} else {
		h = make([]byte, 8)
		binary.BigEndian.PutUint16(h[4:], uint16(8+len(payload)))
	}
	binary.BigEndian.PutUint16(h[0:], 40000)
	binary.BigEndian.PutUint16(h[2:], 443)
	l4 := append(h, payload...)
	if s.protocol == ProtocolUDP && s.noChecksum {
		return l4
	}
	sum := slowChecksum(append(s.pseudo(len(l4)), l4...))
	if sum == 0 && s.protocol == ProtocolUDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(l4[at:], sum)
	return l4
}

func (s spec) pseudo(length int) []byte {
	p := append(s.src(), s.dst()...)
	return append(p, 0, s.protocol, byte(length>>8), byte(length))
}

// super makes the frame as a sender with offloads does, and what it says of it.
func (s spec) super(payload []byte, segment int) ([]byte, tap.Offload) {
	f := s.build(payload)
	l4 := len(f) - len(s.transport(payload))
	o := tap.Offload{SegmentSize: uint16(segment), HeaderLen: uint16(len(f) - len(payload))}
	at := 6
	switch {
	case s.protocol == ProtocolUDP:
		o.GSO = tap.GSOUDP
	case s.v6:
		o.GSO, at = tap.GSOTCP6, 16
	default:
		o.GSO, at = tap.GSOTCP4, 16
	}
	if !s.noChecksum {
		o.NeedsChecksum, o.ChecksumStart, o.ChecksumOffset = true, uint16(l4), uint16(at)
		binary.BigEndian.PutUint16(f[l4+at:], ^slowChecksum(s.pseudo(len(f)-l4)))
	}
	return f, o
}

// segments is the slow cutter: every segment is a packet of its own.
func (s spec) segments(payload []byte, segment int) (frames [][]byte) {
	flags := s.flags
	for at := 0; at == 0 || at < len(payload); at += segment {
		part := payload[at:min(at+segment, len(payload))]
		one := s
		one.seq, one.id, one.flags = s.seq+uint32(at), s.id+uint16(at/segment), flags
		if at+segment < len(payload) {
			one.flags &^= tcpFIN | tcpPSH
		}
		if at > 0 {
			one.flags &^= tcpCWR
		}
		frames = append(frames, one.build(part))
	}
	return frames
}

func randomSpec(r *rand.Rand) spec {
	s := spec{
		v6: r.IntN(2) == 0, tagged: r.IntN(3) == 0, protocol: ProtocolTCP,
		id: uint16(r.Uint32()), seq: r.Uint32(), flags: byte(r.Uint32()) &^ (tcpSYN | tcpRST),
		tcpOptions: r.IntN(11) * 4, options: r.IntN(3) * 8,
	}
	if r.IntN(2) == 0 {
		s.protocol, s.noChecksum = ProtocolUDP, r.IntN(4) == 0
	}
	return s
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}
