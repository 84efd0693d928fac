// Package seg does by hand what network cards call offloads: it completes partial
// checksums and cuts super-frames (TSO for TCP, USO for UDP, over IPv4 and IPv6)
// into frames that fit the MTU. It also has the checksum arithmetic (RFC 1071,
// RFC 1624) for those who make or rewrite packets.
//
// Nothing that a frame's [tap.Offload] says is believed: every offset is checked
// against the frame itself.
package seg

import (
	"encoding/binary"
	"errors"

	"github.com/viasnet/vias/tap"
)

// Why a frame cannot be finished. Such a frame is to be dropped.
var (
	// ErrMalformed: the Offload and the frame's headers do not fit together.
	ErrMalformed = errors.New("seg: malformed frame or offload")
	// ErrTooLong: the frame, or its segments, would not fit the MTU.
	ErrTooLong = errors.New("seg: frame longer than the MTU")
)

// Cutter makes finished frames of one frame after another. The zero Cutter is
// ready; it belongs to one goroutine and allocates nothing.
//
// With Partial it leaves out the checksums of TCP and UDP that it would have to compute:
// such a frame has an Offload that says so, and 0 in its field. That is for a way on which
// nothing can change, to somebody who knows it (Partial, Joiner).
//
//	for i := range in.Len() {
//		if c.Reset(in.Frame(i), in.Offload(i), mtu) != nil {
//			continue // counted as dropped
//		}
//		for !c.Next(out) {
//			flush(out)
//		}
//	}
type Cutter struct {
	Partial bool // set before Reset

	frame   []byte
	offload tap.Offload
	done    bool

	// Of super-frames only:
	headers headers
	next    int // offset of the first payload byte that was not yet sent
	index   uint32
	ipSum   uint32 // see ipv4Constant
}

// Reset begins with frame, which must stay as it is until Next says done. mtu is
// the largest layer-3 packet in bytes. After an error Next has nothing to give.
//
// A segment size of TCP is an upper bound: it may be too large for the header in front
// of it. Open vSwitch 3.1 hands on MTU - 54 whatever TCP's options are, so a segment
// with SACK blocks would be longer than the MTU, and nobody would take it. UDP's is how
// the sender cut its data, and stays.
func (c *Cutter) Reset(frame []byte, o tap.Offload, mtu int) error {
	*c = Cutter{Partial: c.Partial, done: true}
	if o.GSO != tap.GSONone {
		return c.resetSuper(frame, o, mtu)
	}
	if len(frame) < tap.HeaderLen || o.NeedsChecksum && !completable(frame, o) {
		return ErrMalformed
	}
	if !tap.Fits(frame, mtu) {
		return ErrTooLong
	}
	c.frame, c.offload, c.done = frame, o, false
	return nil
}

func (c *Cutter) resetSuper(frame []byte, o tap.Offload, mtu int) error {
	h, ok := parse(frame)
	if !ok || !h.is(o.GSO) || o.SegmentSize == 0 {
		return ErrMalformed
	}
	if h.protocol == ProtocolTCP && frame[h.l4+13]&(tcpSYN|tcpRST) != 0 {
		return ErrMalformed // one of them, or many? Nobody sends this.
	}
	if room := mtu - (h.payload - h.l3); h.protocol == ProtocolTCP && room > 0 {
		o.SegmentSize = uint16(min(int(o.SegmentSize), room))
	}
	if h.payload-h.l3+min(int(o.SegmentSize), h.end-h.payload) > mtu {
		return ErrTooLong
	}
	c.frame, c.offload, c.done = frame[:h.end], o, false
	c.begin(h)
	return nil
}

// begin readies c for the segments of c.frame.
func (c *Cutter) begin(h headers) {
	c.headers, c.next = h, h.payload
	if !h.v6 {
		c.ipSum = ipv4Constant(c.frame[h.l3:h.l4])
	}
}

// Next appends finished frames to dst until all of the frame is there (true) or
// dst is full (false): then send and Reset dst, and call again. dst must be made
// for frames of the MTU with a VLAN tag; a frame that even an empty dst cannot
// hold is given up, so that the loop ends. Each appended frame has its whole
// headroom, and its Offload is zero, or tells of the checksum that was left out.
func (c *Cutter) Next(dst *tap.Batch) (done bool) {
	for !c.done {
		room := c.frame
		if c.offload.GSO == tap.GSONone {
			if p := dst.Reserve(len(room)); p != nil {
				copy(p, room)
				dst.Commit(len(p), c.finish(p))
				c.done = true
				return true
			}
		} else if c.nextSegment(dst) {
			continue
		}
		if dst.Len() > 0 {
			return false
		}
		c.done = true
	}
	return true
}

// finish completes the checksum of a frame that is no super-frame, or leaves it out.
func (c *Cutter) finish(p []byte) tap.Offload {
	if c.Partial && c.offload.NeedsChecksum {
		if h, ok := parse(p); ok && h.whole(p) && int(c.offload.ChecksumStart) == h.l4 && c.offload.ChecksumOffset == h.checksumOffset() {
			return h.leaveOut(p)
		}
	}
	_ = Complete(p, c.offload) // Reset checked it
	return tap.Offload{}
}

// nextSegment appends the next segment of a super-frame; false if dst is full.
func (c *Cutter) nextSegment(dst *tap.Batch) bool {
	h := &c.headers
	n := min(int(c.offload.SegmentSize), h.end-c.next)
	p := dst.Reserve(h.payload + n)
	if p == nil {
		return false
	}
	copy(p, c.frame[:h.payload])
	copy(p[h.payload:], c.frame[c.next:c.next+n])
	last := c.next+n == h.end
	c.finishIP(p)
	var o tap.Offload
	if h.protocol == ProtocolTCP {
		o = c.finishTCP(p, last)
	} else {
		o = c.finishUDP(p)
	}
	dst.Commit(len(p), o)
	c.next += n
	c.index++
	c.done = last
	return true
}

// finishIP sets length and identification. Every segment gets an identification
// of its own, with DF too, as Linux does.
func (c *Cutter) finishIP(p []byte) {
	h := &c.headers
	ip := p[h.l3:]
	if h.v6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-ipv6HeaderLen))
		return
	}
	length, id := uint16(len(ip)), binary.BigEndian.Uint16(ip[4:])+uint16(c.index)
	binary.BigEndian.PutUint16(ip[2:], length)
	binary.BigEndian.PutUint16(ip[4:], id)
	binary.BigEndian.PutUint16(ip[10:], ^uint16(ipv4Sum(c.ipSum, length, id)))
}

// finishTCP moves the sequence number on and gives each flag to the segment that
// it belongs to: FIN and PSH to the last, CWR to the first (RFC 3168, section
// 6.1.2: once is enough).
func (c *Cutter) finishTCP(p []byte, last bool) tap.Offload {
	h := &c.headers
	t := p[h.l4:]
	binary.BigEndian.PutUint32(t[4:], binary.BigEndian.Uint32(t[4:])+uint32(c.next-h.payload))
	if !last {
		t[13] &^= tcpFIN | tcpPSH
	}
	if c.index > 0 {
		t[13] &^= tcpCWR
	}
	if c.Partial {
		return h.leaveOut(p)
	}
	t[16], t[17] = 0, 0
	binary.BigEndian.PutUint16(t[16:], Checksum(t, h.pseudo(p[h.l3:], len(t))))
	return tap.Offload{}
}

// finishUDP sets length and checksum; a sender that uses none gets none.
func (c *Cutter) finishUDP(p []byte) tap.Offload {
	h := &c.headers
	u := p[h.l4:]
	binary.BigEndian.PutUint16(u[4:], uint16(len(u)))
	if !c.offload.NeedsChecksum && u[6] == 0 && u[7] == 0 {
		return tap.Offload{}
	}
	if c.Partial {
		return h.leaveOut(p)
	}
	u[6], u[7] = 0, 0
	binary.BigEndian.PutUint16(u[6:], notZero(Checksum(u, h.pseudo(p[h.l3:], len(u))), true))
	return tap.Offload{}
}

// Complete finishes a partial checksum in place, if o has one. frame is not a
// super-frame. ErrMalformed, and frame as it was, if the field is not in it.
func Complete(frame []byte, o tap.Offload) error {
	if !o.NeedsChecksum {
		return nil
	}
	if !completable(frame, o) {
		return ErrMalformed
	}
	part := frame[o.ChecksumStart:]
	// The field holds the pseudo-header's sum, which is so added in. Only UDP's
	// field is 6 bytes into its header.
	sum := notZero(Checksum(part, 0), o.ChecksumOffset == 6)
	binary.BigEndian.PutUint16(part[o.ChecksumOffset:], sum)
	return nil
}

// completable tells whether the checksum field lies in frame, behind the Ethernet
// header.
func completable(frame []byte, o tap.Offload) bool {
	return o.ChecksumStart >= tap.HeaderLen &&
		int(o.ChecksumStart)+int(o.ChecksumOffset)+2 <= len(frame)
}
