package overlaytest

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// link is one end of an overlay.Link.
type link struct {
	transport *transport
	peer      overlay.PeerID
	out       *wire
	other     *link
	closed    atomic.Bool
	wake      chan struct{} // something was queued
	done      chan struct{} // err is set

	loss *time.Timer // guarded by the Net's mu; nil while the path is whole

	mu    sync.Mutex
	queue []datagram // by time of arrival
	free  [][]byte
	err   error
	stats overlay.LinkStats
}

// urgentRoom is how many datagrams of urgent batches find room in a queue that is full.
const urgentRoom = 256

type datagram struct {
	at   time.Time // zero: at once
	data []byte
}

func (n *Net) newLinksLocked(near, far *transport) (l, r *link) {
	newEnd := func(t, peer *transport) *link {
		e := &link{
			transport: t, peer: peer.claim, out: n.wireLocked(t.claim, peer.claim),
			wake: make(chan struct{}, 1), done: make(chan struct{}),
		}
		t.links[e] = struct{}{}
		return e
	}
	l, r = newEnd(near, far), newEnd(far, near)
	l.other, r.other = r, l
	return l, r
}

// Peer is the other end.
func (l *link) Peer() overlay.PeerID { return l.peer }

// SendBatch puts copies of b's datagrams into the peer's queue.
func (l *link) SendBatch(b *tap.Batch) error {
	if err := l.final(); err != nil {
		return err
	}
	n := l.transport.net
	n.mu.Lock()
	cut, filter := n.cut[l.out.direction], n.filter
	n.mu.Unlock()
	for i := range b.Len() {
		data := b.Frame(i)
		if len(data) > n.config.MTU || len(data) == 0 {
			l.transport.tooLong.Add(1)
			l.count(func(s *overlay.LinkStats) { s.Drops.TooLong++ })
			continue
		}
		l.count(func(s *overlay.LinkStats) { s.Sent.Datagrams++; s.Sent.Bytes += uint64(len(data)) })
		lose := cut || filter != nil && !filter(l.out.from, l.out.to, data)
		copies, delay := l.out.fate(&n.config, len(data), lose)
		for range copies {
			if l.other.enqueue(data, delay, b.Urgent()) {
				l.out.delivered(1)
			}
		}
	}
	return nil
}

// enqueue copies data; it is called by the sending end.
func (l *link) enqueue(data []byte, delay time.Duration, urgent bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return false
	}
	room := l.transport.net.config.Queue
	if urgent {
		room += urgentRoom
	}
	if len(l.queue) >= room {
		l.transport.full.Add(1)
		l.stats.Drops.Full++
		return false
	}
	l.stats.Received.Datagrams++
	l.stats.Received.Bytes += uint64(len(data))
	var d datagram
	if k := len(l.free); k > 0 {
		d.data, l.free = append(l.free[k-1][:0], data...), l.free[:k-1]
	} else {
		d.data = slices.Clone(data)
	}
	if delay > 0 {
		d.at = time.Now().Add(delay)
	}
	i := len(l.queue)
	for i > 0 && l.queue[i-1].at.After(d.at) {
		i--
	}
	l.queue = slices.Insert(l.queue, i, d)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return true
}

// RecvBatch takes what has arrived. What the peer sent before an orderly close is
// returned before ErrPeerClosed.
func (l *link) RecvBatch(b *tap.Batch) error {
	b.Reset()
	for {
		if l.closed.Load() {
			return overlay.ErrClosed
		}
		wait, err := l.take(b)
		if b.Len() > 0 {
			return nil
		}
		if err != nil {
			return err
		}
		l.await(wait)
	}
}

// take appends what has arrived by now. wait is when the next datagram will have,
// 0 when there is none.
func (l *link) take(b *tap.Batch) (wait time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var now time.Time
	k := 0
	for ; k < len(l.queue); k++ {
		d := &l.queue[k]
		if !d.at.IsZero() {
			if now.IsZero() {
				now = time.Now()
			}
			if wait = d.at.Sub(now); wait > 0 {
				break
			}
			wait = 0
		}
		if !b.Append(d.data, tap.Offload{}) {
			if b.Len() > 0 {
				break
			}
			l.transport.tooLong.Add(1) // no batch of this size will ever hold it
		}
		l.free = append(l.free, d.data)
	}
	l.queue = slices.Delete(l.queue, 0, k)
	return wait, l.err
}

func (l *link) await(wait time.Duration) {
	var due <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		due = t.C
	}
	select {
	case <-l.wake:
	case <-l.done:
	case <-due:
	}
}

func (l *link) count(f func(*overlay.LinkStats)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.stats)
}

// Stats is a snapshot. Memory has no overhead: bytes are the user's.
func (l *link) Stats() (s overlay.LinkStats) {
	l.count(func(now *overlay.LinkStats) { s = *now })
	s.Paths = 1
	return s
}

// Path is a snapshot.
func (l *link) Path() overlay.Path {
	c := &l.transport.net.config
	return overlay.Path{
		Kind:   overlay.PathMemory,
		Local:  Address(l.out.from),
		Remote: Address(l.out.to),
		RTT:    2 * c.Delay,
		MTU:    c.MTU,
	}
}

// Close tells the peer, if the path is whole.
func (l *link) Close() error {
	l.close(true)
	return nil
}

func (l *link) close(tell bool) {
	if l.closed.Swap(true) {
		return
	}
	if !l.fail(overlay.ErrClosed) {
		return // the peer went first
	}
	n := l.transport.net
	n.mu.Lock()
	delete(l.transport.links, l)
	l.stopLossLocked()
	tell = tell && !n.cut[l.out.direction]
	if !tell {
		n.startLossLocked(l.other)
	}
	n.mu.Unlock()
	if !tell {
		return
	}
	if d := n.config.Delay; d > 0 {
		time.AfterFunc(d, l.other.peerClosed)
	} else {
		l.other.peerClosed()
	}
}

func (l *link) peerClosed() { l.end(overlay.ErrPeerClosed) }

func (l *link) lost() { l.end(overlay.ErrLinkLost) }

func (l *link) end(err error) {
	l.fail(err)
	n := l.transport.net
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(l.transport.links, l)
	l.stopLossLocked()
}

// stopLossLocked takes the loss back, unless nobody is left to be heard of.
func (l *link) stopLossLocked() {
	if l.loss != nil && (l.final() != nil || l.other.final() == nil) {
		l.loss.Stop()
		l.loss = nil
	}
}

// fail sets the final error; the first one stays.
func (l *link) fail(err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return false
	}
	l.err = err
	close(l.done)
	return true
}

func (l *link) final() error {
	if l.closed.Load() {
		return overlay.ErrClosed
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}
