package pump

import (
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/control"
	"github.com/viasnet/vias/internal/flowtable"
	"github.com/viasnet/vias/internal/l2"
	"github.com/viasnet/vias/internal/seg"
	"github.com/viasnet/vias/tap"
)

const (
	inFrames = 256
	inBytes  = 3 * tap.MaxFrame
)

// InConfig is what In needs.
type InConfig struct {
	Shared
	Port   *Port
	Writer *Writer
	// Control takes a datagram of the control session; an error ends the link.
	Control func(datagram []byte) error
	// Flush sends what Control wants sent; called once a batch.
	Flush func() error
}

// In moves frames from one link to the device. It belongs to one goroutine.
//
//	batch from the link
//	 1. kind: control goes to the session, fragments until they are a frame
//	 2. join what follows each other, if the device takes super-frames
//	 3. source check: the peer speaks only for what it announced
//	 4. destination: here or unknown, never another link
//	 5. note the flow
//	one write to the device
//
// What is joined has the same addresses, so one check is as good as one for each.
type In struct {
	InConfig
	fragments reassembly

	// Of the batch under way:
	*desk
	view   *l2.View
	now    time.Time
	joined *tap.Batch // what goes to the device if it takes super-frames
	mixed  *tap.Batch // what goes to the device if fragments became frames
	moved  int        // how many datagrams of the batch are in mixed, or nowhere
}

// NewIn makes an In.
func NewIn(c InConfig) *In {
	if c.Spares == nil {
		c.Spares = NewSpares()
	}
	return &In{InConfig: c, fragments: reassembly{counters: c.Counters}}
}

// Run returns when the link ends or breaks the protocol.
func (in *In) Run() error {
	defer in.fragments.end()
	b := tap.Lend(in.Spares.batches)
	for {
		if err := in.Port.link.RecvBatch(b); err != nil {
			return err
		}
		err := in.Batch(b)
		if b.Release(); err != nil {
			return err
		}
	}
}

// Batch takes one batch of the link's datagrams.
func (in *In) Batch(b *tap.Batch) error {
	in.view, in.now = in.Stations.View(), time.Now()
	in.fragments.expire(in.now)
	in.moved = 0
	in.desk = in.Spares.desks.Get()
	defer in.release()
	joins, controls := in.Writer.caps.Join, 0
	if joins {
		in.joined = in.Spares.batches.Get()
		in.joiner = seg.Joiner{UDP: in.Writer.caps.JoinUDP}
	}
	for i := range b.Len() {
		in.keep[i] = false
		d := b.Frame(i)
		if len(d) == 0 {
			in.Counters.Drop(InMalformed)
			continue
		}
		switch kind := d[0]; kind {
		case control.KindFrame, control.KindPartial:
			if joins {
				in.join(d[1:], kind == control.KindPartial)
				continue
			}
			b.Trim(i, 1)
			in.keep[i] = in.finished(b.Frame(i), kind == control.KindPartial) && in.frame(b.Frame(i), 1)
		case control.KindFragment:
			in.fragment(b, i)
		case control.KindControl:
			if joins {
				in.flushJoined() // by what was known when they were sent
			}
			if err := in.Control(d); err != nil {
				return err
			}
			controls++
			in.view = in.Stations.View() // it may have been an announcement
		default:
			in.Counters.Drop(InKind)
		}
	}
	if controls > 0 {
		if err := in.Flush(); err != nil {
			return err
		}
	}
	in.write(b)
	return nil
}

// release gives back what the batch took.
func (in *In) release() {
	for _, b := range []**tap.Batch{&in.joined, &in.mixed} {
		if *b != nil {
			(*b).Reset()
			in.Spares.batches.Put(*b)
			*b = nil
		}
	}
	in.Spares.desks.Put(in.desk)
	in.desk, in.view = nil, nil
}

// finished completes a checksum that was left out; false: it cannot have been.
func (in *In) finished(frame []byte, partial bool) bool {
	if !partial {
		return true
	}
	o, ok := seg.Partial(frame)
	if !ok || seg.Complete(frame, o) != nil {
		in.Counters.Drop(InMalformed)
		return false
	}
	return true
}

// fragment takes the i-th datagram. A frame that it completes comes behind those before it.
func (in *In) fragment(b *tap.Batch, i int) {
	if !in.Port.ready.Load() {
		in.Counters.Drop(InEarly)
		return
	}
	frame := in.fragments.add(b.Frame(i), in.now)
	if frame == nil {
		return
	}
	if in.Writer.caps.Join {
		in.join(frame, false)
		return
	}
	if !in.frame(frame, 1) {
		return
	}
	if in.mixed == nil {
		in.mixed = in.Spares.batches.Get()
	}
	in.move(b, i)
	in.mix(frame)
}

// move copies the frames before the i-th that are to be kept to mixed.
func (in *In) move(b *tap.Batch, i int) {
	for ; in.moved < i; in.moved++ {
		if in.keep[in.moved] {
			in.mix(b.Frame(in.moved))
		}
	}
}

func (in *In) mix(frame []byte) {
	if in.mixed.Append(frame, tap.Offload{}) {
		return
	}
	in.Writer.Write(in.mixed)
	in.mixed.Reset()
	in.mixed.Append(frame, tap.Offload{})
}

// join appends a frame to what goes to the device, perhaps to the one before it: a cut
// super-frame becomes one again.
func (in *In) join(frame []byte, partial bool) {
	joined := in.joiner.Add(in.joined, frame, partial)
	if joined == seg.Full {
		in.flushJoined()
		joined = in.joiner.Add(in.joined, frame, partial)
	}
	if joined != seg.Taken {
		in.Counters.Drop(InMalformed)
	}
}

// flushJoined writes what was joined, if it is to be kept.
func (in *In) flushJoined() {
	in.joiner.Flush(in.joined)
	in.joined.Drop(func(i int) bool {
		return in.frame(in.joined.Frame(i), segments(in.joined.Frame(i), in.joined.Offload(i)))
	})
	if in.joined.Len() > 0 {
		in.Writer.Write(in.joined)
	}
	in.joined.Reset()
}

// segments is how many frames were joined.
func segments(frame []byte, o tap.Offload) int {
	if o.GSO == tap.GSONone {
		return 1
	}
	return ceil(len(frame)-int(o.HeaderLen), int(o.SegmentSize))
}

// write writes the frames that are to be kept: those of b as they are, if no others stand
// among them.
func (in *In) write(b *tap.Batch) {
	if in.joined != nil {
		in.flushJoined()
		return
	}
	if in.mixed != nil && in.mixed.Len() > 0 {
		in.move(b, b.Len())
		in.Writer.Write(in.mixed)
		in.mixed.Reset()
		return
	}
	b.Drop(func(i int) bool { return in.keep[i] })
	if b.Len() > 0 {
		in.Writer.Write(b)
	}
}

// frame tells whether a frame, which was so many segments, goes to the device.
func (in *In) frame(frame []byte, segments int) bool {
	if !in.Port.ready.Load() {
		in.Counters.Drop(InEarly)
		return false
	}
	from, cause := in.view.CheckSource(frame, in.Port.peer)
	if cause != l2.OK {
		in.Counters.Drop(inCause(cause))
		return false
	}
	dst := tap.MAC(frame[:6])
	if l2.LinkLocal(dst) {
		in.Counters.Drop(InLinkLocal)
		return false
	}
	to := in.view.MAC(dst)
	if to != nil && !to.Local() {
		in.Counters.Drop(InNotHere)
		return false
	}
	in.Port.In.AddN(segments, len(frame))
	in.Counters.InFrames.Add(1)
	in.Counters.InBytes.Add(uint64(len(frame)))
	switch {
	case to != nil:
		in.flow(frame, segments, from)
	case dst.IsMulticast():
		in.Port.floods.Add(uint64(segments))
	}
	return true
}

// flow notes a frame of a flow that could be bypassed, so that its receiver knows
// of it as well.
func (in *In) flow(frame []byte, segments int, from *l2.Station) {
	p := &in.packet
	in.classifier.Classify(frame, p)
	if p.Reason != bypass.ReasonNone {
		return
	}
	e, _ := in.Flows.Track(p.Flow.Reverse(), in.now)
	if e == nil {
		return
	}
	e.Seen(in.now)
	e.SetPeer(&from.Peer)
	switch {
	case p.SYN:
		e.SetOpened(flowtable.OpenedThere)
	case p.FIN:
		e.SetClosed()
	default: // a reset is all that a scan gets; what the workload says itself shows nothing
		in.Opened(e, p.Dst)
	}
	e.In.AddN(segments, len(frame))
	if !in.Bypass {
		e.SetReason(bypass.ReasonNoHost)
	}
}
