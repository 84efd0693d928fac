package pump

import (
	"errors"

	"github.com/viasnet/vias/internal/control"
	"github.com/viasnet/vias/internal/seg"
	"github.com/viasnet/vias/tap"
)

// send appends a frame to what goes to p: whole if it fits a datagram of the link, TCP in smaller
// segments, everything else in fragments. What the peer's device does not take becomes IP's own
// fragments if its sender allows that, and is dropped otherwise; then mtu says what it does take.
func (o *Out) send(p *Port, frame []byte, f tap.Offload) (mtu int) {
	o.open(p)
	mtu = p.DeviceMTU(o.Device.MTU())
	o.cutter.Partial = true // but not for frames that go in fragments
	var err error
	switch {
	case f.GSO == tap.GSOTCP4 || f.GSO == tap.GSOTCP6:
		err = o.cutter.Reset(frame, f, min(mtu, seg.MTU(frame, p.room())))
	case longest(frame, f) <= p.room():
		err = o.cutter.Reset(frame, f, mtu)
	case f.GSO == tap.GSONone && o.cutter.ResetSegment(frame, f, min(mtu, seg.MTU(frame, p.room()))):
		// The cutter has it.
	default:
		err = o.fragment(p, frame, f, mtu)
	}
	if errors.Is(err, seg.ErrTooLong) && seg.MayFragment(frame, mtu) {
		err = o.fragmentIP(p, frame, f, mtu)
	}
	switch {
	case errors.Is(err, seg.ErrTooLong):
		o.Counters.Drop(OutTooLong)
		return mtu
	case err != nil:
		o.Counters.Drop(OutMalformed)
		return 0
	}
	for !o.cutter.Next(o.lane(p).batch) {
		o.flush(p)
	}
	return 0
}

// lane is what p has for this Out.
func (o *Out) lane(p *Port) *lane { return &p.lanes[o.Queue] }

// maxDirty is for how many peers something is kept at a time: a flood to a thousand of them is sent
// by and by.
const maxDirty = 16

// open readies p's batch.
func (o *Out) open(p *Port) {
	l := o.lane(p)
	if l.pending != nil {
		return
	}
	if len(o.dirty) == maxDirty {
		o.flushAll()
	}
	p.Refresh() // the path's MTU changes at any time
	o.dirty = append(o.dirty, p)
	bytes := max(linkBytes, 2*int(p.limit.Load()))
	if n := len(o.spare); n > 0 && o.spare[n-1].batch.Free() >= bytes {
		l.pending, o.spare = o.spare[n-1], o.spare[:n-1]
		return
	}
	l.pending = &pending{batch: tap.NewBatch(linkFrames, bytes)}
}

// flushAll sends all that was appended.
func (o *Out) flushAll() {
	for _, p := range o.dirty {
		o.flush(p)
		l := o.lane(p)
		o.spare = append(o.spare, l.pending)
		l.pending = nil
	}
	o.dirty = o.dirty[:0]
}

// flush sends what was appended.
func (o *Out) flush(p *Port) {
	l := o.lane(p)
	b := l.batch
	if b.Len() == 0 {
		return
	}
	frames, whole, bytes := 0, 0, 0
	for i := range b.Len() {
		switch l.kinds[i] {
		case wholeFrame:
			kind := byte(control.KindFrame)
			if b.Offload(i).NeedsChecksum {
				kind = control.KindPartial
				b.SetOffload(i, tap.Offload{})
			}
			b.Trim(i, -1)
			d := b.Frame(i)
			d[0] = kind
			bytes += len(d) - 1
			whole++
		case lastPart:
			frames++
		}
	}
	p.Out.AddN(whole, bytes)
	frames += whole
	if err := p.Send(b); err != nil {
		o.Counters.DropN(OutLinkError, frames)
	}
	clear(l.kinds[:b.Len()])
	b.Reset()
}
