package icedtls

import (
	"sync"
	"sync/atomic"
)

// queue is a bounded queue of buffers, which are its memory: an empty one has none. Any number of
// goroutines may put, one at a time may get.
type queue struct {
	depth int
	ready chan struct{} // room for one: the queue was empty, and is not. nil: nobody waits for it

	size atomic.Int32 // changed under mu
	mu   sync.Mutex   // guards what follows
	head *buffer
	tail *buffer
}

func newQueue(depth int) queue { return queue{depth: depth, ready: make(chan struct{}, 1)} }

// len is how many wait.
func (q *queue) len() int { return int(q.size.Load()) }

// put takes b over; false: there is no room, and b is still the caller's.
func (q *queue) put(b *buffer) bool {
	q.mu.Lock()
	n := int(q.size.Load())
	switch {
	case n >= q.depth:
		q.mu.Unlock()
		return false
	case n == 0:
		q.head = b
	default:
		q.tail.next = b
	}
	q.tail = b
	q.size.Add(1)
	q.mu.Unlock()
	if n == 0 {
		select {
		case q.ready <- struct{}{}:
		default:
		}
	}
	return true
}

// get returns the first; nil: there is none. Then wait for ready, and get again: ready may be of
// one that was got already.
func (q *queue) get() *buffer {
	if q.size.Load() == 0 {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	b := q.head
	if b == nil {
		return nil
	}
	q.head, b.next = b.next, nil
	if q.head == nil {
		q.tail = nil
	}
	q.size.Add(-1)
	return b
}
