package seg

import (
	"bytes"
	"encoding/binary"

	"github.com/viasnet/vias/tap"
)

// Joiner makes super-frames of finished TCP segments that follow each other, as receive
// offload does in a kernel or a card (GRO): whoever takes them does so once, and not for
// each. Only what a Cutter would cut into the very same segments again is joined. The zero
// Joiner is ready; it belongs to one goroutine and allocates nothing.
//
//	for _, frame := range frames {
//		for !j.Add(out, frame) {
//			j.Flush(out)
//			send(out)
//		}
//	}
//	j.Flush(out)
//	send(out)
type Joiner struct {
	open    []byte // memory of out, behind its last frame; nil = nothing is open
	n       int    // bytes of open
	h       headers
	size    int // payload of each segment
	count   int
	next    uint32 // sequence number
	joining bool   // another may follow
}

// Flush makes what is open a frame of out. out must be the one that Add had.
func (j *Joiner) Flush(out *tap.Batch) {
	if j.open == nil {
		return
	}
	f, h := j.open[:j.n], &j.h
	var o tap.Offload
	if j.count > 1 {
		ip, t := f[h.l3:], f[h.l4:]
		o = tap.Offload{NeedsChecksum: true, ChecksumStart: uint16(h.l4), ChecksumOffset: tcpChecksumOffset,
			GSO: tap.GSOTCP4, SegmentSize: uint16(j.size), HeaderLen: uint16(h.payload)}
		if h.v6 {
			o.GSO = tap.GSOTCP6
			binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-ipv6HeaderLen))
		} else {
			binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
			PutIPv4Checksum(ip[:ipv4HeaderLen])
		}
		binary.BigEndian.PutUint16(t[tcpChecksumOffset:], uint16(h.pseudo(ip, len(t))))
	}
	out.Commit(j.n, o)
	j.open = nil
}

// Add takes a finished frame: it joins what is open, or begins anew. It copies the frame.
// false: out is full, and nothing was taken; an empty out takes any frame that it was made
// for.
func (j *Joiner) Add(out *tap.Batch, frame []byte) bool {
	h, ok := parse(frame)
	ok = ok && h.joins(frame)
	if j.open != nil {
		if ok && j.follows(frame, &h) {
			j.append(frame, &h)
			return true
		}
		j.Flush(out)
	}
	if !ok {
		return out.Append(frame, tap.Offload{})
	}
	const longest = tap.HeaderLen + 0xffff // as long as an IP packet can say
	room := out.Reserve(min(max(out.Free(), len(frame)), longest))
	if room == nil {
		return false
	}
	j.open, j.n, j.h, j.size, j.count = room, copy(room, frame), h, h.end-h.payload, 1
	j.next = binary.BigEndian.Uint32(frame[h.l4+4:]) + uint32(j.size)
	j.joining = frame[h.l4+13]&tcpPSH == 0
	return true
}

// joins tells whether a frame is a segment that may be one of a super-frame's: untagged, with
// data, without anything that belongs to one segment alone, and sound.
func (h *headers) joins(frame []byte) bool {
	const ack = 0x10
	return h.protocol == ProtocolTCP && h.l3 == tap.HeaderLen && h.end == len(frame) && h.payload < h.end &&
		h.plainIP() == h.l4 && frame[h.l4+13]&^tcpPSH == ack && h.plainTCP(frame) && h.sound(frame, tap.Offload{})
}

// follows tells whether a frame is what comes behind the open ones.
func (j *Joiner) follows(frame []byte, h *headers) bool {
	n, o := h.end-h.payload, j.open
	if !j.joining || h.l4 != j.h.l4 || h.payload != j.h.payload || n > j.size || j.n+n > len(o) {
		return false
	}
	ip, was := frame[h.l3:], o[h.l3:]
	if h.v6 {
		// All but the payload's length.
		if !bytes.Equal(ip[:4], was[:4]) || !bytes.Equal(ip[6:ipv6HeaderLen], was[6:ipv6HeaderLen]) {
			return false
		}
	} else {
		// All but length, identification, which counts up, and checksum.
		id := binary.BigEndian.Uint16(was[4:]) + uint16(j.count)
		if !bytes.Equal(ip[:2], was[:2]) || binary.BigEndian.Uint16(ip[4:]) != id ||
			!bytes.Equal(ip[6:10], was[6:10]) || !bytes.Equal(ip[12:ipv4HeaderLen], was[12:ipv4HeaderLen]) {
			return false
		}
	}
	t, first := frame[h.l4:h.payload], o[h.l4:h.payload]
	return bytes.Equal(frame[:tap.HeaderLen], o[:tap.HeaderLen]) && // addresses
		bytes.Equal(t[:4], first[:4]) && binary.BigEndian.Uint32(t[4:]) == j.next && // ports, sequence number
		bytes.Equal(t[8:13], first[8:13]) && // acknowledgement, header's length
		bytes.Equal(t[14:16], first[14:16]) && bytes.Equal(t[18:], first[18:]) // window, urgent pointer, options
}

func (j *Joiner) append(frame []byte, h *headers) {
	n := h.end - h.payload
	j.n += copy(j.open[j.n:], frame[h.payload:h.end])
	j.next += uint32(n)
	j.count++
	psh := frame[h.l4+13] & tcpPSH
	j.open[h.l4+13] |= psh // it belongs to the last
	j.joining = n == j.size && psh == 0
}
