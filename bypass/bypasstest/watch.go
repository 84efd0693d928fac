package bypasstest

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/viasnet/vias/bypass"
)

// Watch returns nil when ctx ends and an error that is net.ErrClosed when the
// Datapath is closed.
func (c *conn) Watch(ctx context.Context, f func(bypass.Event)) error {
	w := &watcher{more: make(chan struct{}, 1)}
	c.s.mu.Lock()
	if c.closed {
		c.s.mu.Unlock()
		return errClosed()
	}
	c.watchers[w] = true
	if !c.s.down {
		w.push(bypass.DatapathUp{Fresh: true})
	}
	c.s.mu.Unlock()
	defer func() {
		c.s.mu.Lock()
		defer c.s.mu.Unlock()
		delete(c.watchers, w)
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.done:
			return errClosed()
		case <-w.more:
		}
		c.s.mu.Lock()
		events := w.queue
		w.queue = nil
		c.s.mu.Unlock()
		for _, e := range events {
			if ctx.Err() != nil {
				return nil
			}
			f(e)
		}
	}
}

// push queues e. The first event of a watcher must be DatapathUp: what comes before
// it is dropped.
func (w *watcher) push(e bypass.Event) {
	w.queue = append(w.queue, e)
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// emitLocked tells all connections, each watcher with a frame of its own.
func (s *Switch) emitLocked(e bypass.Event) {
	for c := range s.conns {
		c.emitLocked(e)
	}
}

// emitEpochLocked tells the connections whose epoch it is.
func (s *Switch) emitEpochLocked(epoch uint16, e bypass.Event) {
	for c := range s.conns {
		switch {
		case !c.set || c.epoch != epoch:
		case s.down:
			c.missed = append(c.missed, lostFor(e)...)
		default:
			c.emitLocked(e)
		}
	}
}

// lostFor is what a connection that comes back finds of e: a rule is gone.
func lostFor(e bypass.Event) []bypass.RuleLost {
	switch e := e.(type) {
	case bypass.RuleLost:
		return []bypass.RuleLost{e}
	case bypass.RuleIdle:
		return []bypass.RuleLost{{ID: e.ID, Direction: bypass.Outbound}}
	}
	return nil
}

func (c *conn) emitLocked(e bypass.Event) {
	switch e.(type) {
	case bypass.DatapathUp, bypass.DatapathDown:
	default:
		if c.s.down {
			return // nobody to tell, and nobody tells it later
		}
	}
	for w := range c.watchers {
		if in, ok := e.(bypass.PacketIn); ok {
			in.Frame = bytes.Clone(in.Frame)
			e = in
		}
		w.push(e)
	}
}

// armLocked starts the timer that ends r when its time is over.
func (s *Switch) armLocked(r *rule) {
	if d, ok := r.left(time.Now()); ok {
		r.timer = time.AfterFunc(d, func() { s.expire(r) })
	}
}

// left is how long r has still to live if it is not hit; false = for ever.
func (r *rule) left(now time.Time) (d time.Duration, ok bool) {
	if r.Idle > 0 {
		d, ok = r.lastHit.Add(r.Idle).Sub(now), true
	}
	if hard := r.hardEnd.Sub(now); !r.hardEnd.IsZero() && (!ok || hard < d) {
		d, ok = hard, true
	}
	return d, ok
}

// expire ends r if its time is over, or looks again when it may be.
func (s *Switch) expire(r *rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rules[r.key()] != r {
		return
	}
	if d, _ := r.left(time.Now()); d > 0 {
		r.timer = time.AfterFunc(d, func() { s.expire(r) })
		return
	}
	s.tables.drop(r)
	s.changedLocked()
	if r.Direction == bypass.Outbound {
		s.emitEpochLocked(r.epoch, bypass.RuleIdle{ID: r.ID, Packets: r.packets, Bytes: r.bytes})
	}
}

// tetherLocked notes how long lease l holds its peer's rules. A lease that ends with
// 0 takes them along without a word, if it was the last.
func (s *Switch) tetherLocked(now time.Time, k peerKey, l bypass.Lease) {
	t := s.tethers[k]
	if t == nil {
		if max(l.Outbound, l.Inbound) <= 0 {
			return
		}
		t = &tether{ends: map[kind]time.Time{}}
		t.timer = time.AfterFunc(max(l.Outbound, l.Inbound), func() { s.untether(k, t) })
		s.tethers[k] = t
	}
	t.ends[kindOf(l)] = now.Add(max(l.Outbound, l.Inbound))
	if left := t.left(now); left > 0 {
		t.timer.Reset(left)
		return
	}
	t.timer.Stop()
	delete(s.tethers, k)
	for _, r := range s.sortedRules() {
		if r.on(k) {
			s.tables.drop(r)
		}
	}
}

// untether is called when t may hold no longer.
func (s *Switch) untether(k peerKey, t *tether) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tethers[k] != t {
		return
	}
	if left := t.left(time.Now()); left > 0 {
		t.timer.Reset(left)
		return
	}
	delete(s.tethers, k)
	for _, r := range s.sortedRules() {
		if r.on(k) {
			s.lostLocked(r)
		}
	}
}

// on tells whether r depends on k's leases.
func (r *rule) on(k peerKey) bool {
	return r.Direction != bypass.Listen && r.epoch == k.epoch && r.Peer == k.peer
}

// sortedRules lists the rules in a fixed order, so that events come in one.
func (t *tables) sortedRules() []*rule {
	list := make([]*rule, 0, len(t.rules))
	for _, r := range t.rules {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b *rule) int {
		return cmp.Or(cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.ID, b.ID))
	})
	return list
}
