// Package taptest has what tests of and with [tap.Device] need: a pair of devices
// in memory ([Pipe]) and the suite that every Device passes ([Run]).
package taptest

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/viasnet/vias/tap"
)

// DefaultQueue is how many frames wait at each end of a Pipe by default: the
// kernel's txqueuelen.
const DefaultQueue = 1000

// PipeConfig describes a pair of devices in memory.
type PipeConfig struct {
	// MTU in bytes; 0: 1500.
	MTU int
	// Queue is how many frames wait for a reader before more are dropped;
	// 0: DefaultQueue.
	Queue int
	// Queues of the first end (tap.MultiQueue); 0: it is no such thing.
	Queues int
	// Caps of both ends. With none, unfinished frames written are dropped.
	Caps tap.Caps
}

// Pipe is a wire in memory: frames written to a are read from b and the other way
// round. See [PipeConfig.Open].
func Pipe(mtu int) (a, b tap.Device) { return PipeConfig{MTU: mtu}.Open() }

// Open makes the pair. A full queue drops, as a wire would. Closing one end leaves
// the other open: it reads what was written before, then waits, and what is
// written to it is dropped. Both are [tap.Counted]; they use no goroutine, and
// their waits are durable blocks in the sense of testing/synctest.
func (c PipeConfig) Open() (a, b tap.Device) {
	if c.MTU <= 0 {
		c.MTU = tap.DefaultMTU
	}
	if c.Queue <= 0 {
		c.Queue = DefaultQueue
	}
	ab := newQueue(c.Queue)
	list, ba := make([]tap.Device, 0, c.Queues), make([]*queue, 0, c.Queues)
	for range max(c.Queues, 1) {
		q := newQueue(c.Queue)
		list, ba = append(list, &end{config: c, in: q, out: []*queue{ab}}), append(ba, q)
	}
	b = &end{config: c, in: ab, out: ba}
	if c.Queues == 0 {
		return list[0], b
	}
	m := &multiEnd{end: list[0].(*end), queues: list}
	m.queues[0] = m
	return m, b
}

// multiEnd is an end with several queues, of which it is the first.
type multiEnd struct {
	*end
	queues []tap.Device
}

func (m *multiEnd) Queues() []tap.Device { return m.queues }

func (m *multiEnd) Stats() tap.Stats {
	s := m.end.Stats()
	for _, q := range m.queues[1:] {
		x := q.(*end).Stats()
		s.ReadDropped += x.ReadDropped
		s.WriteDropped += x.WriteDropped
	}
	return s
}

func (m *multiEnd) Close() error {
	err := m.end.Close()
	for _, q := range m.queues[1:] {
		err = errors.Join(err, q.Close())
	}
	return err
}

var errNoRoom = errors.New("taptest: the batch takes no frame")

// end is one end of a wire.
type end struct {
	config       PipeConfig
	in           *queue
	out          []*queue // a flow's frames go to one of them
	closed       atomic.Bool
	writeDropped atomic.Uint64
}

func (e *end) ReadBatch(b *tap.Batch) error { return e.in.pop(b) }

func (e *end) WriteBatch(b *tap.Batch) error {
	for i := range b.Len() {
		if e.closed.Load() {
			return tap.ErrClosed
		}
		o := b.Offload(i)
		if !e.acceptable(b.Frame(i), o) || !e.out[flow(b.Frame(i))%len(e.out)].push(b.Frame(i), o) {
			e.writeDropped.Add(1)
		}
	}
	if e.closed.Load() {
		return tap.ErrClosed
	}
	return nil
}

func (e *end) acceptable(frame []byte, o tap.Offload) bool {
	switch {
	case o != (tap.Offload{}) && !e.config.Caps.Offload:
		return false
	case o.GSO == tap.GSOUDP && !e.config.Caps.USO:
		return false
	case o.GSO == tap.GSONone:
		return tap.Fits(frame, e.config.MTU)
	}
	return len(frame) >= tap.HeaderLen && len(frame) <= tap.MaxFrame && int(o.SegmentSize) <= e.config.MTU
}

// flow is a number that all frames of a flow have in common: of the MACs and, for IPv4,
// protocol, addresses and the first four bytes behind the header.
func flow(frame []byte) int {
	h := uint32(2166136261) // FNV-1a
	mix := func(b []byte) {
		for _, x := range b {
			h = (h ^ uint32(x)) * 16777619
		}
	}
	mix(frame[:12])
	if len(frame) >= 38 && frame[12] == 8 && frame[13] == 0 && frame[14] == 0x45 {
		mix(frame[23:24])
		mix(frame[26:38])
	}
	return int(h >> 8)
}

func (e *end) Caps() tap.Caps { return e.config.Caps }

func (e *end) MTU() int { return e.config.MTU }

func (e *end) Stats() tap.Stats {
	return tap.Stats{ReadDropped: e.in.tooLong.Load(), WriteDropped: e.writeDropped.Load()}
}

func (e *end) Close() error {
	if !e.closed.Swap(true) {
		e.in.close()
	}
	return nil
}

// entry is one frame in a queue; its memory is used again and again.
type entry struct {
	frame   []byte
	offload tap.Offload
}

// queue is a ring of frames on their way to one end.
type queue struct {
	tooLong atomic.Uint64 // frames that the reader's empty batch could not hold

	mu          sync.Mutex // guards everything below
	filled      sync.Cond  // signals: a frame came, or closed
	ring        []entry
	first, used int
	closed      bool // the reading end was closed
}

func newQueue(n int) *queue {
	q := &queue{ring: make([]entry, n)}
	q.filled.L = &q.mu
	return q
}

// push copies frame into the queue; false means dropped.
func (q *queue) push(frame []byte, o tap.Offload) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.used == len(q.ring) {
		return false
	}
	e := &q.ring[(q.first+q.used)%len(q.ring)]
	e.frame, e.offload = append(e.frame[:0], frame...), o
	q.used++
	q.filled.Signal()
	return true
}

// pop waits for a frame and moves as many as b takes.
func (q *queue) pop(b *tap.Batch) error {
	b.Reset()
	if b.Free() == 0 {
		return errNoRoom
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for b.Len() == 0 {
		for q.used == 0 && !q.closed {
			q.filled.Wait()
		}
		if q.closed {
			return tap.ErrClosed
		}
		q.drainLocked(b)
	}
	return nil
}

func (q *queue) drainLocked(b *tap.Batch) {
	for ; q.used > 0; q.first, q.used = (q.first+1)%len(q.ring), q.used-1 {
		e := &q.ring[q.first]
		if b.Append(e.frame, e.offload) {
			continue
		}
		if b.Len() > 0 {
			return
		}
		q.tooLong.Add(1)
	}
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.filled.Broadcast()
}
