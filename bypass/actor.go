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
type timers []timer

// A flow's deadlines, of which there can be very many, need no closure.
type timer struct {
	at   time.Time
	f    func()
	flow *entry
}

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at.Before(t[j].at) }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }

// Push and Pop serve container/heap.
func (t *timers) Push(x any) { *t = append(*t, x.(timer)) }

// Pop serves container/heap.
func (t *timers) Pop() any {
	old := *t
	last := old[len(old)-1]
	old[len(old)-1] = timer{}
	*t = old[:len(old)-1]
	if n := len(*t); n >= minTimers && n < cap(old)/4 { // a wave of flows is over
		*t = append(make(timers, 0, 2*n), *t...)
	}
	return last
}

func (t *timers) add(at time.Time, f func()) { heap.Push(t, timer{at: at, f: f}) }

// addFlow is for a flow's deadline.
func (t *timers) addFlow(at time.Time, e *entry) { heap.Push(t, timer{at: at, flow: e}) }

// minTimers is for how many there is always room.
const minTimers = 256

// due takes those whose time has come.
func (t *timers) due(now time.Time) []timer {
	var due []timer
	for len(*t) > 0 && !(*t)[0].at.After(now) {
		due = append(due, heap.Pop(t).(timer))
	}
	return due
}

// next is when the earliest callback is due.
func (t timers) next() (time.Time, bool) {
	if len(t) == 0 {
		return time.Time{}, false
	}
	return t[0].at, true
}
