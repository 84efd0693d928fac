package pump

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/viasnet/vias/internal/control"
	"github.com/viasnet/vias/internal/flowtable"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// Overhead is what a datagram of a link has besides the frame's layer-3 packet, in
// bytes: the kind byte and the Ethernet header.
const Overhead = 1 + tap.HeaderLen

// Port is a peer's link as the pumps see it.
type Port struct {
	// Out and In count frames and their bytes.
	Out, In flowtable.Counter

	link  overlay.Link
	peer  overlay.PeerID
	limit atomic.Int64 // longest datagram
	ready atomic.Bool  // both Hellos are there
	// device is the MTU of the peer's; 0 = not known.
	device atomic.Int64
	// floods are frames, both ways, that were to a group.
	floods atomic.Uint64

	mu sync.Mutex // serialises link.SendBatch: Out, control messages, released frames

	frames atomic.Uint32 // numbers of frames that go in fragments
	lanes  [tap.MaxQueues]lane
}

// lane is what a Port has for the Out of one queue. It belongs to its goroutine.
type lane struct{ *pending } // nil = nothing is to be sent

// pending is what is to be sent. Out lends one to each Port that it has something for.
type pending struct {
	batch *tap.Batch
	kinds [linkFrames]uint8 // what each datagram of batch is
}

// NewPort wraps link.
func NewPort(link overlay.Link) *Port {
	p := &Port{link: link, peer: link.Peer()}
	p.Refresh()
	return p
}

// Unicast is how many frames, both ways, were to one station. It is not exact while frames pass.
func (p *Port) Unicast() uint64 { return p.Out.Packets() + p.In.Packets() - p.floods.Load() }

// Refresh asks the link anew how long datagrams may be.
func (p *Port) Refresh() overlay.Path {
	path := p.link.Path()
	p.limit.Store(int64(path.MTU))
	return path
}

// Peer is who is at the other end.
func (p *Port) Peer() overlay.PeerID { return p.peer }

// MTU is the largest layer-3 packet, in bytes, that one datagram of the link holds now.
func (p *Port) MTU() int { return int(p.limit.Load()) - Overhead }

// room is the longest frame that one datagram of the link holds now, in bytes.
func (p *Port) room() int { return int(p.limit.Load()) - 1 }

// SetReady lets frames in. mtu is that of the peer's device, as its Hello says.
func (p *Port) SetReady(mtu int) {
	p.device.Store(int64(mtu))
	p.ready.Store(true)
}

// DeviceMTU is the largest layer-3 packet in bytes that the peer's device takes, and at most own,
// which ours does.
func (p *Port) DeviceMTU(own int) int {
	if mtu := int(p.device.Load()); mtu >= minMTU {
		return min(mtu, own)
	}
	return own // it did not say
}

// minMTU is the least that IPv4 knows (RFC 791).
const minMTU = 68

// Send sends datagrams that have their kind byte. b's contents are undefined after.
func (p *Port) Send(b *tap.Batch) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link.SendBatch(b)
}

// SendFrame sends one finished frame by way of b, for the few that do not come
// from the device just now.
func (p *Port) SendFrame(frame []byte, b *tap.Batch) error {
	b.Reset()
	d := b.Reserve(1 + len(frame))
	if d == nil || len(frame) > p.MTU()+tap.HeaderLen {
		return errTooLong
	}
	d[0] = control.KindFrame
	copy(d[1:], frame)
	b.Commit(len(d), tap.Offload{})
	if err := p.Send(b); err != nil {
		return err
	}
	p.Out.Add(len(frame))
	return nil
}

var errTooLong = errors.New("pump: frame longer than the link takes")

// Ports is the set of links that frames are sent to. All methods may be called by
// several goroutines.
type Ports struct {
	mu  sync.Mutex // serialises changes
	set atomic.Pointer[portSet]
}

type portSet struct {
	byPeer map[overlay.PeerID]*Port
	list   []*Port
}

var noPorts = &portSet{}

func (s *Ports) load() *portSet {
	if v := s.set.Load(); v != nil {
		return v
	}
	return noPorts
}

// Get is the peer's port, or nil.
func (s *Ports) Get(id overlay.PeerID) *Port { return s.load().byPeer[id] }

// List is all ports. It must not be changed.
func (s *Ports) List() []*Port { return s.load().list }

// Put adds p; it replaces another port of the same peer.
func (s *Ports) Put(p *Port) {
	s.change(func(list []*Port) []*Port {
		list = slices.DeleteFunc(list, func(q *Port) bool { return q.peer == p.peer })
		return append(list, p)
	})
}

// Remove takes p out, if it is still there.
func (s *Ports) Remove(p *Port) {
	s.change(func(list []*Port) []*Port {
		return slices.DeleteFunc(list, func(q *Port) bool { return q == p })
	})
}

func (s *Ports) change(f func([]*Port) []*Port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := &portSet{byPeer: map[overlay.PeerID]*Port{}, list: f(slices.Clone(s.load().list))}
	for _, p := range next.list {
		next.byPeer[p.peer] = p
	}
	s.set.Store(next)
}

// ErrDevice wraps errors of the device, which end the Network; all others end one
// link.
var ErrDevice = errors.New("device")

// Writer lets many links write to the one device.
type Writer struct {
	failed chan error // room for one a queue
	caps   tap.Caps

	mu     sync.Mutex // a Device allows one writer at a time
	device tap.Device
	dead   bool
}

// NewWriter makes a Writer. It does not own d.
func NewWriter(d tap.Device) *Writer { return NewWriters([]tap.Device{d})[0] }

// NewWriters makes one for each queue of a device. Failed of any is of all.
func NewWriters(queues []tap.Device) []*Writer {
	failed := make(chan error, len(queues))
	list := make([]*Writer, 0, len(queues))
	for _, d := range queues {
		list = append(list, &Writer{device: d, caps: d.Caps(), failed: failed})
	}
	return list
}

// Write writes b's frames. It has no error: the link that a frame came by has no
// part in it, and its control session is still needed to say goodbye.
func (w *Writer) Write(b *tap.Batch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return
	}
	if err := w.device.WriteBatch(b); err != nil {
		w.dead = true
		w.failed <- fmt.Errorf("%w: %w", ErrDevice, err)
	}
}

// Failed gives the error that ended the device, wrapped in ErrDevice, once. Later
// frames are lost.
func (w *Writer) Failed() <-chan error { return w.failed }
