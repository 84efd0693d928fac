package seg

import (
	"bytes"
	"encoding/binary"

	"github.com/viasnet/vias/tap"
)

// Joiner makes super-frames of TCP segments, or of UDP datagrams, that follow each other, as
// receive offload does in a kernel or a card (GRO): whoever takes them does so once, and not for
// each. Only what a Cutter would cut into the very same frames again is joined. The zero
// Joiner is ready; it belongs to one goroutine and allocates nothing.
//
//	for _, frame := range frames {
//		for j.Add(out, frame, false) == Full {
//			j.Flush(out)
//			send(out)
//		}
//	}
//	j.Flush(out)
//	send(out)
type Joiner struct {
	UDP bool // join UDP too

	open    []byte // memory of out, behind its last frame; nil = nothing is open
	n       int    // bytes of open
	h       headers
	size    int // payload of each segment
	count   int
	next    uint32 // TCP's sequence number
	id      uint16 // IPv4's identification of the next
	ipSum   uint32 // see ipv4Constant
	partial bool   // the first's checksum was left out
	joining bool   // another may follow
}

// Joined is what became of a frame that was added.
type Joined uint8

// Taken: it is in out, or will be. Full: out is full, and nothing was taken. Unfit: its
// checksum cannot have been left out, and nothing was taken.
const (
	Taken Joined = iota
	Full
	Unfit
)

// Flush makes what is open a frame of out. out must be the one that Add had.
func (j *Joiner) Flush(out *tap.Batch) {
	if j.open == nil {
		return
	}
	out.Commit(j.n, j.finish())
	j.open = nil
}

// finish writes the headers of what is open.
func (j *Joiner) finish() (o tap.Offload) {
	f, h := j.open[:j.n], &j.h
	if j.count == 1 {
		if j.partial {
			o = h.pseudoOnly(f)
		}
		return o
	}
	ip := f[h.l3:]
	if h.v6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-ipv6HeaderLen))
	} else {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		PutIPv4Checksum(ip[:ipv4HeaderLen])
	}
	if h.protocol == ProtocolUDP {
		binary.BigEndian.PutUint16(f[h.l4+4:], uint16(len(f)-h.l4))
	}
	o = h.pseudoOnly(f)
	o.SegmentSize, o.HeaderLen = uint16(j.size), uint16(h.payload)
	switch {
	case h.protocol == ProtocolUDP:
		o.GSO = tap.GSOUDP
	case h.v6:
		o.GSO = tap.GSOTCP6
	default:
		o.GSO = tap.GSOTCP4
	}
	return o
}

// Add takes a frame: it joins what is open, or begins anew. It copies the frame, which is a
// finished one, or, if partial, one whose checksum was left out (Cutter.Partial). An empty out
// takes any frame that it was made for.
func (j *Joiner) Add(out *tap.Batch, frame []byte, partial bool) Joined {
	if j.open != nil {
		if j.follows(frame, partial) {
			j.append(frame)
			return Taken
		}
		j.Flush(out)
	}
	h, ok := parse(frame)
	if partial && !(ok && h.whole(frame)) {
		return Unfit
	}
	if !ok || !j.joins(frame, &h, partial) {
		var o tap.Offload
		if partial {
			o = h.pseudoOnly(frame)
		}
		if !out.Append(frame, o) {
			return Full
		}
		return Taken
	}
	const longest = tap.HeaderLen + 0xffff // as long as an IP packet can say
	room := out.Reserve(min(max(out.Free(), len(frame)), longest))
	if room == nil {
		return Full
	}
	j.open, j.n, j.h, j.size, j.count = room, copy(room, frame), h, h.end-h.payload, 1
	j.partial, j.joining = partial, true
	if !h.v6 {
		j.id = binary.BigEndian.Uint16(frame[h.l3+4:]) + 1
		j.ipSum = ipv4Constant(frame[h.l3:h.l4])
	}
	if h.protocol == ProtocolTCP {
		j.next = binary.BigEndian.Uint32(frame[h.l4+4:]) + uint32(j.size)
		j.joining = frame[h.l4+13]&tcpPSH == 0
	}
	return Taken
}

// joins tells whether a frame may be one of a super-frame's: untagged, with data, without
// anything that belongs to one segment alone, and sound.
func (j *Joiner) joins(frame []byte, h *headers, partial bool) bool {
	const ack = 0x10
	if h.l3 != tap.HeaderLen || h.payload == h.end || h.plainIP() != h.l4 || !h.whole(frame) {
		return false
	}
	if h.protocol == ProtocolTCP {
		if frame[h.l4+13]&^tcpPSH != ack || !h.plainTCP(frame) {
			return false
		}
	} else if !j.UDP || !partial && same16(frame[h.l4+6:], noChecksum[:]) {
		return false
	}
	ip := frame[h.l3:]
	return (h.v6 || Sum(ip[:ipv4HeaderLen], 0) == 0xffff) && h.verified(frame, partial)
}

// verified tells whether the transport's checksum is right; a wrong one must not become a
// right one.
func (h *headers) verified(frame []byte, partial bool) bool {
	if partial {
		return true
	}
	t := frame[h.l4:]
	return Sum(t, h.pseudo(frame[h.l3:], len(t))) == 0xffff
}

// follows tells whether a frame is what comes behind the open ones. It is not parsed: where its
// headers are the first one's, but for what a Cutter changes, they mean the same.
func (j *Joiner) follows(frame []byte, partial bool) bool {
	h, o := &j.h, j.open
	n := len(frame) - h.payload
	return j.joining && n > 0 && n <= j.size && j.n+n <= len(o) &&
		same64(frame, o) && same64(frame[6:], o[6:]) && // Ethernet
		j.followsIP(frame[h.l3:], o[h.l3:]) && j.followsTransport(frame[h.l4:], o[h.l4:h.payload], partial) &&
		h.verified(frame, partial)
}

func (j *Joiner) followsIP(ip, was []byte) bool {
	if j.h.v6 { // all but the payload's length, which must be right
		return same32(ip, was) && int(binary.BigEndian.Uint16(ip[4:])) == len(ip)-ipv6HeaderLen && same16(ip[6:], was[6:]) &&
			bytes.Equal(ip[8:ipv6HeaderLen], was[8:ipv6HeaderLen])
	}
	// All but length and checksum, which must be right, and identification, which counts up.
	length, sum := binary.BigEndian.Uint16(ip[2:]), binary.BigEndian.Uint16(ip[10:])
	return same16(ip, was) && int(length) == len(ip) && binary.BigEndian.Uint16(ip[4:]) == j.id &&
		same32(ip[6:], was[6:]) && same64(ip[12:], was[12:]) && uint16(ipv4Sum(j.ipSum, length, j.id)) == ^sum
}

func (j *Joiner) followsTransport(t, first []byte, partial bool) bool {
	if !same32(t, first) { // ports
		return false
	}
	if j.h.protocol == ProtocolUDP {
		return int(binary.BigEndian.Uint16(t[4:])) == len(t) && (partial || !same16(t[6:], noChecksum[:]))
	}
	return binary.BigEndian.Uint32(t[4:]) == j.next &&
		same32(t[8:], first[8:]) && t[12] == first[12] && // acknowledgement, header's length
		(t[13]^first[13])&^tcpPSH == 0 && // flags
		same16(t[14:], first[14:]) && // window
		same16(t[18:], first[18:]) && bytes.Equal(t[tcpHeaderLen:len(first)], first[tcpHeaderLen:]) // urgent pointer, options
}

// noChecksum in UDP's field means that the sender uses none.
var noChecksum = [2]byte{}

func same16(a, b []byte) bool { return binary.NativeEndian.Uint16(a) == binary.NativeEndian.Uint16(b) }
func same32(a, b []byte) bool { return binary.NativeEndian.Uint32(a) == binary.NativeEndian.Uint32(b) }
func same64(a, b []byte) bool { return binary.NativeEndian.Uint64(a) == binary.NativeEndian.Uint64(b) }

func (j *Joiner) append(frame []byte) {
	h := &j.h
	n := copy(j.open[j.n:], frame[h.payload:])
	j.n += n
	j.next += uint32(n)
	j.id++
	j.count++
	j.joining = n == j.size
	if h.protocol == ProtocolTCP {
		psh := frame[h.l4+13] & tcpPSH
		j.open[h.l4+13] |= psh // it belongs to the last
		j.joining = j.joining && psh == 0
	}
}
