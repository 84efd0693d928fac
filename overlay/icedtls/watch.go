package icedtls

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// watch is the one goroutine that looks after all Links of a Transport. It looks at moments that they
// share, pingTick apart, so what a thousand idle Links have to say leaves in few bursts, and its answers
// come in few: a wake-up for each burst, not for each Link. While no Link is due, it sleeps.
type watch struct {
	kick chan struct{} // room for one: something is due sooner than it was

	mu    sync.Mutex // guards what follows, and what is in it
	queue watchQueue
}

// watched is one Link, for its watch.
type watched struct {
	// look does what is to be done now, and says after how long to look again; 0: never. The
	// watch calls it, which all Links share: it must not wait.
	look func() time.Duration
	due  time.Time
	at   int // its place in the queue, from 1; 0 = it has none
}

func newWatch() *watch { return &watch{kick: make(chan struct{}, 1)} }

// add has x looked at, for the first time at once.
func (w *watch) add(x *watched) {
	w.mu.Lock()
	x.due = time.Now()
	heap.Push(&w.queue, x)
	w.mu.Unlock()
	w.hurry()
}

// remove has x not looked at again. It may be called in its look.
func (w *watch) remove(x *watched) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x.at > 0 {
		heap.Remove(&w.queue, x.at-1)
	}
}

// wake has x looked at at once; again, if that is just happening.
func (w *watch) wake(x *watched) {
	w.set(x, time.Now())
	w.hurry()
}

func (w *watch) hurry() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// set has x looked at at due, if it was not to be earlier.
func (w *watch) set(x *watched, due time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x.at > 0 && due.Before(x.due) {
		x.due = due
		heap.Fix(&w.queue, x.at-1)
	}
}

// run is the goroutine; it ends with ctx.
func (w *watch) run(ctx context.Context) {
	began := time.Now()
	timer := time.NewTimer(watchNever)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.kick:
		case <-timer.C:
		}
		round := time.Now()
		x, next := w.take(round)
		for ; x != nil; x, next = w.take(round) {
			if pause := x.look(); pause > 0 {
				w.set(x, shared(began, time.Now().Add(pause)))
			} else {
				w.remove(x)
			}
		}
		timer.Reset(next)
	}
}

// watchNever is when something is looked at that is not due.
const watchNever = 24 * time.Hour

// take returns one that is due now, which then is not; nil: there is none for so long.
func (w *watch) take(now time.Time) (*watched, time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		return nil, watchNever
	}
	x := w.queue[0]
	if wait := x.due.Sub(now); wait > 0 {
		return nil, wait
	}
	x.due = now.Add(watchNever)
	heap.Fix(&w.queue, 0)
	return x, 0
}

// shared is the first of the moments that all share that is not before at.
func shared(began, at time.Time) time.Time {
	return began.Add((at.Sub(began) + pingTick - 1).Truncate(pingTick))
}

// watchQueue is a heap by due.
type watchQueue []*watched

func (q watchQueue) Len() int           { return len(q) }
func (q watchQueue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }

func (q watchQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].at, q[j].at = i+1, j+1
}

// Push is for package heap.
func (q *watchQueue) Push(x any) {
	*q = append(*q, x.(*watched))
	x.(*watched).at = len(*q)
}

// Pop is for package heap.
func (q *watchQueue) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	(*q)[last] = nil
	*q, x.at = (*q)[:last], 0
	return x
}
