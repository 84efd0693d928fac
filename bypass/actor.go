package bypass

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// queue is an unbounded queue of work for one goroutine. Whoever posts from the
// network or the packet path bounds it by itself (see loop.admit).
type queue[J any] struct {
	mu     sync.Mutex
	jobs   []J
	wake   chan struct{} // capacity 1
	closed bool
}

// mailbox is the loop's own queue; worker one of calls that block, so that the loop
// never does. A worker's jobs get the context in which the loop runs.
type (
	mailbox = queue[func()]
	worker  = queue[func(context.Context)]
)

func newQueue[J any]() *queue[J] { return &queue[J]{wake: make(chan struct{}, 1)} }

func newMailbox() *mailbox { return newQueue[func()]() }

func newWorker() *worker { return newQueue[func(context.Context)]() }

// post queues job; false after close.
func (b *queue[J]) post(job J) bool {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return false
	}
	b.jobs = append(b.jobs, job)
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return true
}

// take removes all jobs, in order.
func (b *queue[J]) take() []J {
	b.mu.Lock()
	defer b.mu.Unlock()
	jobs := b.jobs
	b.jobs = nil
	return jobs
}

// close refuses further jobs; those queued can still be taken.
func (b *queue[J]) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
}

// work runs a worker's jobs one after the other until ctx ends; those that wait then
// are not run any more.
func work(ctx context.Context, w *worker) {
	for {
		for _, job := range w.take() {
			if ctx.Err() != nil {
				return
			}
			job(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
	}
}

// timers is a heap of callbacks by time. A callback checks by itself whether it is
// still wanted: nothing is ever removed early.
type timers struct {
	clock
	heap timerHeap
}

// A flow's deadlines, of which there can be very many, need no closure.
type timer struct {
	at   moment
	f    func()
	flow *entry
}

func (t *timers) add(at time.Time, f func()) { heap.Push(&t.heap, timer{at: t.at(at), f: f}) }

// addFlow is for a flow's deadline.
func (t *timers) addFlow(at moment, e *entry) { heap.Push(&t.heap, timer{at: at, flow: e}) }

// due takes those whose time has come.
func (t *timers) due(now time.Time) []timer {
	var due []timer
	for len(t.heap) > 0 && !t.heap[0].at.After(t.at(now)) {
		due = append(due, heap.Pop(&t.heap).(timer))
	}
	return due
}

// next is when the earliest callback is due.
func (t *timers) next() (time.Time, bool) {
	if len(t.heap) == 0 {
		return time.Time{}, false
	}
	return t.time(t.heap[0].at), true
}

// timerHeap is for container/heap.
type timerHeap []timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timerHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push and Pop serve container/heap.
func (h *timerHeap) Push(x any) { *h = append(*h, x.(timer)) }

// minTimers is for how many there is always room.
const minTimers = 256

// Pop serves container/heap.
func (h *timerHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = timer{}
	*h = old[:len(old)-1]
	if n := len(*h); n >= minTimers && n < cap(old)/4 { // a wave of flows is over
		*h = append(make(timerHeap, 0, 2*n), *h...)
	}
	return last
}
