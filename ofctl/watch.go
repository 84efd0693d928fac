package ofctl

import (
	"context"
	"sync"
)

// watcher is the queue of one Watch.
type watcher struct {
	limit int // of packet-ins

	mu        sync.Mutex
	queue     []Event
	packetIns int
	over      bool
	more      chan struct{} // has one token when queue or over changed
}

// put queues e; it reports whether e had to be dropped.
func (w *watcher) put(e Event) (dropped bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := e.(PacketIn); ok {
		if w.packetIns >= w.limit {
			return true
		}
		w.packetIns++
	}
	w.queue = append(w.queue, e)
	w.wakeLocked()
	return false
}

func (w *watcher) wakeLocked() {
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// take swaps the queue for the empty one in spare.
func (w *watcher) take(spare []Event) (events []Event, over bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	events, w.queue, w.packetIns = w.queue, spare, 0
	return events, w.over
}

func (w *watcher) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.wakeLocked()
}

// publish queues e for every watcher.
func (c *Conn) publish(e Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.watchers {
		if w.put(e) {
			c.dropped.Add(1)
		}
	}
}

// endWatchers lets every watcher see what came before the connection was lost, and
// end then.
func (c *Conn) endWatchers() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.watchers {
		w.end()
	}
}

// Watch implements Switch. What came before the call is not seen. Frames of packet-ins are the watchers' to keep, but not
// to change: several watchers see the same bytes.
func (c *Conn) Watch(ctx context.Context, f func(Event)) error {
	w := &watcher{limit: c.cfg.PacketIns, more: make(chan struct{}, 1)}
	c.mu.Lock()
	if c.over {
		defer c.mu.Unlock()
		return c.cause
	}
	c.watchers[w] = struct{}{}
	c.mu.Unlock()
	defer c.unwatch(w)
	var spare []Event
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.more:
		}
		events, over := w.take(spare[:0])
		for i, e := range events {
			if ctx.Err() != nil {
				return nil
			}
			f(e)
			events[i] = nil
		}
		spare = events
		if over {
			return c.cause
		}
	}
}

func (c *Conn) unwatch(w *watcher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.watchers, w)
}
