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
	for !o.cutter.Next(p.batch) {
		o.flush(p)
	}
	return 0
}

// open readies p's batch.
func (o *Out) open(p *Port) {
	if p.batch == nil {
		p.batch = tap.NewBatch(linkFrames, max(linkBytes, 2*int(p.limit.Load())))
	}
	if !p.dirty {
		p.dirty = true
		o.dirty = append(o.dirty, p)
	}
}

// flush sends what was appended.
func (o *Out) flush(p *Port) {
	b := p.batch
	if b.Len() == 0 {
		return
	}
	frames, whole, bytes := 0, 0, 0
	for i := range b.Len() {
		switch p.kinds[i] {
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
	clear(p.kinds[:b.Len()])
	b.Reset()
}
