package pump

import (
	"encoding/binary"

	"github.com/viasnet/vias/internal/control"
	"github.com/viasnet/vias/internal/seg"
	"github.com/viasnet/vias/tap"
)

// A frame that no datagram of the link can hold goes as several, of which each is
//
//	0     kind (control.KindFragment)
//	1     index, from 0
//	2     how many there are, 2 to maxFragments
//	3..5  the frame's length in bytes
//	6..9  the frame's number, another one for each frame of the link
//	10..  the part
//
// All integers are big-endian. All parts but the last are of one length, the frame's divided by
// their number and rounded up: so nothing that can be said about them needs to be believed.
type fragment struct {
	index, count, length int
	number               uint32
	part                 []byte
}

const (
	fragmentHeader = 10
	// maxFragments of 1,190 bytes, the least that links take, are 76,160.
	maxFragments = 64
)

// shares is into how many parts a frame is cut for datagrams that take room bytes of it, and how
// long they are. false: it would be too many.
func shares(length, room int) (count, size int, ok bool) {
	if length <= 0 || room <= 0 {
		return 0, 0, false
	}
	size = ceil(length, ceil(length, room)) // all alike, rather than a short last one
	count = ceil(length, size)
	return count, size, count <= maxFragments
}

func ceil(a, b int) int { return (a + b - 1) / b }

// parseFragment reads a datagram and checks all that one fragment alone can show.
func parseFragment(d []byte) (f fragment, ok bool) {
	if len(d) <= fragmentHeader {
		return f, false
	}
	f = fragment{
		index: int(d[1]), count: int(d[2]), length: int(d[3])<<16 | int(binary.BigEndian.Uint16(d[4:])),
		number: binary.BigEndian.Uint32(d[6:]), part: d[fragmentHeader:],
	}
	if f.count < 2 || f.count > maxFragments || f.index >= f.count || f.length > tap.MaxFrame {
		return f, false
	}
	start := f.index * f.size()
	return f, ceil(f.length, f.size()) == f.count && len(f.part) == min(f.size(), f.length-start)
}

// size is the length of all parts but the last.
func (f *fragment) size() int { return max(1, ceil(f.length, f.count)) }

// putHeader writes what stands before the part.
func (f *fragment) putHeader(d []byte) {
	d[0], d[1], d[2], d[3] = control.KindFragment, byte(f.index), byte(f.count), byte(f.length>>16)
	binary.BigEndian.PutUint16(d[4:], uint16(f.length))
	binary.BigEndian.PutUint32(d[6:], f.number)
}

// What a datagram in a Port's batch is.
const (
	wholeFrame uint8 = iota // without its kind byte yet
	partOfFrame
	lastPart
)

// fragment finishes a frame, or cuts a super-frame of UDP, and appends what comes of it, in as many
// datagrams as it takes.
func (o *Out) fragment(p *Port, frame []byte, f tap.Offload, mtu int) error {
	o.cutter.Partial = false
	if err := o.cutter.Reset(frame, f, mtu); err != nil {
		return err
	}
	if o.finished == nil {
		o.finished = tap.NewBatch(finishedFrames, finishedBytes)
	}
	for done := false; !done; {
		o.finished.Reset()
		done = o.cutter.Next(o.finished)
		for i := range o.finished.Len() {
			o.split(p, o.finished.Frame(i))
		}
	}
	return nil
}

// fragmentIP does the same with packets that are longer than mtu, but may be cut by routers.
func (o *Out) fragmentIP(p *Port, frame []byte, f tap.Offload, mtu int) error {
	o.cutter.Partial = false
	if err := o.cutter.Reset(frame, f, o.Device.MTU()); err != nil {
		return err
	}
	if o.finished == nil {
		o.finished = tap.NewBatch(finishedFrames, finishedBytes)
	}
	if o.pieces == nil {
		o.pieces = tap.NewBatch(maxPieces, finishedBytes)
	}
	for done := false; !done; {
		o.finished.Reset()
		done = o.cutter.Next(o.finished)
		for i := range o.finished.Len() {
			o.pieces.Reset()
			if !seg.FragmentIPv4(o.pieces, o.finished.Frame(i), mtu) {
				o.Counters.Drop(OutTooLong)
				continue
			}
			for k := range o.pieces.Len() {
				o.split(p, o.pieces.Frame(k))
			}
		}
	}
	return nil
}

// split appends a finished frame, whole or in parts. One that takes too many is dropped.
func (o *Out) split(p *Port, frame []byte) {
	if len(frame) <= p.room() {
		copy(o.reserve(p, len(frame)), frame)
		o.lane(p).batch.Commit(len(frame), tap.Offload{})
		return
	}
	count, size, ok := shares(len(frame), int(p.limit.Load())-fragmentHeader)
	if !ok || len(frame) > tap.MaxFrame {
		o.Counters.Drop(OutTooLong)
		return
	}
	f := fragment{count: count, length: len(frame), number: p.frames.Add(1) - 1}
	l := o.lane(p)
	for ; f.index < count; f.index++ {
		part := frame[f.index*size : min((f.index+1)*size, len(frame))]
		d := o.reserve(p, fragmentHeader+len(part))
		f.putHeader(d)
		copy(d[fragmentHeader:], part)
		l.kinds[l.batch.Len()] = partOfFrame
		if f.index+1 == count {
			l.kinds[l.batch.Len()] = lastPart
		}
		l.batch.Commit(len(d), tap.Offload{})
	}
	p.Out.Add(len(frame))
}

// reserve makes room in p's batch, which takes any datagram of the link when it is empty.
func (o *Out) reserve(p *Port, n int) []byte {
	b := o.lane(p).batch
	d := b.Reserve(n)
	if d == nil {
		o.flush(p)
		d = b.Reserve(n)
	}
	return d
}

// longest is how long the longest frame is that a super-frame is cut into; 0 if it is none.
func longest(frame []byte, f tap.Offload) int {
	if f.GSO == tap.GSONone {
		return len(frame)
	}
	return min(len(frame), seg.HeaderLen(frame)+int(f.SegmentSize))
}
