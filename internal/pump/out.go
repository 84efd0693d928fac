package pump

import (
	"fmt"
	"sync"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/flowtable"
	"github.com/viasnet/vias/internal/l2"
	"github.com/viasnet/vias/internal/seg"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// Sizes of batches.
const (
	deviceFrames = 128
	deviceBytes  = 4 * tap.MaxFrame
	linkFrames   = 128
	linkBytes    = linkFrames * 1536
	// Of what is to go in fragments: one frame, or some segments of a super-frame.
	finishedFrames = 16
	finishedBytes  = 2 * tap.MaxFrame
	maxPieces      = 128
)

// Shared is what the pumps of one Network share.
type Shared struct {
	Stations *l2.Table
	Flows    *flowtable.Table
	Ports    *Ports
	Counters *Counters
	Opens    *Opens
	// Bypass: there is a Host, so flows may leave the overlay.
	Bypass bool
	// Spares are for those who receive; nil = each its own.
	Spares *Spares
}

// Opened gives back what a flow's SYN took from its workload's allowance, once: the
// connection got through, or left the overlay.
func (s *Shared) Opened(e *flowtable.Entry, workload tap.MAC) {
	if e.Through() {
		s.Opens.Through(workload)
	}
}

// OutConfig is what Out needs.
type OutConfig struct {
	Shared
	// Device is one queue; Queue is its number. Each queue has an Out of its own.
	Device tap.Device
	Queue  int
	// Alone, if set, is held for each batch, so that the Outs of several queues take turns:
	// what a flow remembers to ask for a bypass is of one goroutine at a time.
	Alone *sync.Mutex
	// Writer takes what we tell workloads; nil = nothing.
	Writer *Writer
	Learn  bool
	// Learned is called when a station was learned. It must not block.
	Learned func()
	Trigger Trigger
	// Finder finds unknown destinations; nil = they are flooded.
	Finder Finder
}

// Out moves frames from the device to the links. It belongs to one goroutine.
//
//	batch from the device
//	 1. source check (or learn)
//	 2. destination: flood, local, or a peer; a Finder may keep the frame until there is one
//	 3. classify, count, trigger a bypass, perhaps hold
//	 4. cut into finished frames and fragments behind the peer's others
//	one send per peer
type Out struct {
	OutConfig
	classifier *bypass.Classifier
	packet     bypass.Packet
	early      bool // packet is a SYN that may not ask for a bypass (see Opens)
	cutter     seg.Cutter
	view       *l2.View
	ports      *portSet
	now        time.Time
	dirty      []*Port
	spare      []*pending
	finished   *tap.Batch
	pieces     *tap.Batch // IP's fragments of one frame
	notices    notices
	found      discovery
	scratch    [flowtable.MaxHeldFrame]byte
}

// NewOut makes an Out.
func NewOut(c OutConfig) *Out {
	return &Out{OutConfig: c, classifier: bypass.NewClassifier()}
}

// Run returns when the device ends, with its error wrapped in ErrDevice.
func (o *Out) Run() error {
	b := tap.NewBatch(deviceFrames, deviceBytes)
	for {
		if err := o.Device.ReadBatch(b); err != nil {
			return fmt.Errorf("%w: %w", ErrDevice, err)
		}
		if o.Alone == nil {
			o.Batch(b)
			continue
		}
		o.Alone.Lock()
		o.Batch(b)
		o.Alone.Unlock()
	}
}

// forward sends a batch of frames.
func (o *Out) forward(b *tap.Batch) {
	o.view, o.ports, o.now = o.Stations.View(), o.Ports.load(), time.Now()
	for i := range b.Len() {
		frame := b.Frame(i)
		if !o.found.releasing { // else they were counted when they came
			o.Counters.OutFrames.Add(1)
			o.Counters.OutBytes.Add(uint64(len(frame)))
		}

		from, cause := o.source(frame)
		if cause != l2.OK {
			o.Counters.Drop(outCause(cause))
			continue
		}
		dst := tap.MAC(frame[:6])
		if l2.LinkLocal(dst) {
			o.Counters.Drop(OutLinkLocal)
			continue
		}
		to := o.view.MAC(dst)
		if to == nil { // broadcast, multicast and unknown
			if !o.unknown(frame, b.Offload(i), from, dst) {
				o.flood(frame, b.Offload(i))
			}
			continue
		}
		if to.Local() {
			o.Counters.Drop(OutLocal)
			continue
		}
		port := o.ports.byPeer[to.Peer]
		if port == nil && o.unlinked(frame, b.Offload(i), from, to) {
			continue
		}
		if o.flow(frame, b.Offload(i), from, to, port) {
			continue // held, or dropped
		}
		if port == nil {
			o.Counters.Drop(OutNoLink)
			continue
		}
		if mtu := o.send(port, frame, b.Offload(i)); mtu > 0 {
			o.tooBig(frame, mtu)
		}
	}
	o.flushAll()
}

// source is the local station that a frame came from.
func (o *Out) source(frame []byte) (*l2.Station, l2.Cause) {
	s, cause := o.view.CheckSource(frame, overlay.PeerID{})
	if cause == l2.UnknownMAC && o.Learn {
		if _, ok := o.Stations.Learn(tap.MAC(frame[6:12]), o.now); ok {
			o.Learned()
			o.view = o.Stations.View()
			s, cause = o.view.CheckSource(frame, overlay.PeerID{})
		}
	}
	if cause == l2.OK {
		s.Touch(o.now)
	}
	return s, cause
}

func (o *Out) flood(frame []byte, f tap.Offload) {
	if len(o.ports.list) == 0 {
		o.Counters.Drop(OutNoPeers)
		return
	}
	o.Counters.Flooded.Add(1)
	for _, p := range o.ports.list {
		p.floods.Add(1)
		o.send(p, frame, f)
	}
}

// flow counts a frame of a flow that could be bypassed. true: the frame was held, or
// dropped.
func (o *Out) flow(frame []byte, f tap.Offload, from, to *l2.Station, port *Port) (taken bool) {
	p := &o.packet
	o.classifier.Classify(frame, p)
	if p.Reason != bypass.ReasonNone {
		return false
	}
	o.early = false
	if p.SYN {
		ok, plenty := o.Opens.Allow(from.MAC, o.now)
		if !ok {
			o.Counters.Drop(OutOpening)
			return true
		}
		o.early = !plenty
	}
	e, _ := o.Flows.Track(p.Flow, o.now)
	if e == nil {
		return false
	}
	e.Seen(o.now)
	e.SetPeer(&to.Peer)
	switch {
	case p.SYN:
		e.SetOpened(flowtable.OpenedHere)
		if o.Bypass {
			e.Ask = flowtable.Ask{Base: e.Total()}
		}
	case p.FIN:
		e.SetClosed()
	}
	e.Out.Add(len(frame))
	if !o.Bypass {
		e.SetReason(bypass.ReasonNoHost)
		return false
	}
	return o.ask(e, frame, f, from, to, port)
}
