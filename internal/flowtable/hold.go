package flowtable

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/overlay"
)

// MaxHeld is how many frames are held back at most; MaxHeldFrame how long each may
// be in bytes (a SYN with every option has 114, with a VLAN tag and TCP Fast Open
// data it may have more and is then not held).
const (
	MaxHeld      = 256
	MaxHeldFrame = 256
)

// Held is a frame that waits for its flow's bypass. Whoever got it from Take,
// TakeAll or Expire releases it: nobody else can.
type Held struct {
	Flow   bypass.Flow
	Peer   overlay.PeerID
	Ofport uint32
	Frame  []byte // complete: checksums are finished
	Due    time.Time
}

// Holds is the hold queue. All methods may be called by several goroutines.
type Holds struct {
	count atomic.Int32 // so that the packet path need not lock to learn "none"

	mu   sync.Mutex
	held map[bypass.Flow]Held
}

// NewHolds makes an empty queue.
func NewHolds() *Holds { return &Holds{held: map[bypass.Flow]Held{}} }

// Put holds a copy of h.Frame. false: the queue is full, the frame is too long, or
// a frame of that flow is held already.
func (q *Holds) Put(h Held) bool {
	if len(h.Frame) > MaxHeldFrame {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, dup := q.held[h.Flow]; dup || len(q.held) >= MaxHeld {
		return false
	}
	h.Frame = append([]byte(nil), h.Frame...)
	q.held[h.Flow] = h
	q.count.Store(int32(len(q.held)))
	return true
}

// Take removes the flow's frame; false: none is held (any more).
func (q *Holds) Take(f bypass.Flow) (Held, bool) {
	if q.count.Load() == 0 {
		return Held{}, false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	h, ok := q.held[f]
	delete(q.held, f)
	q.count.Store(int32(len(q.held)))
	return h, ok
}

// Expire removes the frames that are due, and says when the next one will be
// (zero: none is left).
func (q *Holds) Expire(now time.Time) (due []Held, next time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for f, h := range q.held {
		switch {
		case !now.Before(h.Due):
			due = append(due, h)
			delete(q.held, f)
		case next.IsZero() || h.Due.Before(next):
			next = h.Due
		}
	}
	q.count.Store(int32(len(q.held)))
	return due, next
}

// Len is how many frames are held.
func (q *Holds) Len() int { return int(q.count.Load()) }
