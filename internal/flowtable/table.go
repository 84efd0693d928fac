// Package flowtable tracks the flows that the overlay carries, and those that left
// it for a bypass: counters, state, the policy's verdict, and SYNs held back while
// a bypass is set up.
//
// The table is bounded. A flow that falls out of it goes on being forwarded; only
// its history is lost.
package flowtable

import (
	"sync/atomic"
	"time"

	"github.com/viasnet/vias/bypass"
)

// DefaultLimit is how many flows are tracked by default.
const DefaultLimit = 65536

// Times after which flows that the overlay carries are forgotten.
const (
	IdleTime   = 5 * time.Minute
	ClosedTime = 30 * time.Second // after a FIN or RST
	// UDPTime is short: UDP does not say when it ends, and mostly that is soon.
	UDPTime = 30 * time.Second
)

const (
	shardBits = 6
	shards    = 1 << shardBits
)

// Table is the set of flows. All methods may be called by several goroutines.
type Table struct {
	seed      seed
	limit     int // of one shard
	evicted   atomic.Uint64
	untracked atomic.Uint64
	shards    [shards]shard
}

// New makes a table for at most limit flows (rounded up to a multiple of 64);
// 0 = DefaultLimit.
func New(limit int) *Table {
	if limit <= 0 {
		limit = DefaultLimit
	}
	return &Table{seed: newSeed(), limit: (limit + shards - 1) / shards}
}

// shard is k's, and k's hash. The shard goes by the hash's upper bits, the slot in it by
// the lower.
func (t *Table) shard(k *tuple) (*shard, uint64) {
	hash := k.hash(&t.seed)
	return &t.shards[hash>>(64-shardBits)], hash
}

// Get is the flow's entry, or nil.
func (t *Table) Get(f bypass.Flow) *Entry {
	k, ok := tupleOf(f)
	if !ok {
		return nil
	}
	s, hash := t.shard(&k)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.findLocked(&k, hash)
}

// Track is the flow's entry; a new one if there was none. nil: the table is full of
// flows that must stay, or the flow is none that a Classifier gives.
func (t *Table) Track(f bypass.Flow, now time.Time) (e *Entry, fresh bool) {
	k, ok := tupleOf(f)
	if !ok {
		return nil, false
	}
	s, hash := t.shard(&k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e = s.findLocked(&k, hash); e != nil {
		return e, false
	}
	if s.n >= t.limit {
		if !s.evictLocked(f.Proto) {
			t.untracked.Add(1)
			return nil, false
		}
		t.evicted.Add(1)
	}
	e = &Entry{flow: k, since: now.UnixNano()}
	e.seen.Store(now.UnixNano())
	s.insertLocked(e, hash)
	return e, true
}

// silent tells whether e's flow is to be forgotten.
func (e *Entry) silent(now int64) bool {
	silence := time.Duration(now - e.seen.Load())
	switch {
	case e.pinned():
		return false
	case e.flow.proto == bypass.UDP:
		return silence >= UDPTime
	case e.closed.Load():
		return silence >= ClosedTime
	}
	return silence >= IdleTime
}

// Sweep forgets flows on the overlay that were silent for IdleTime, UDP for UDPTime, or closed
// for ClosedTime.
func (t *Table) Sweep(now time.Time) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for k := 0; k < len(s.slots); k++ {
			// Another entry may come into an emptied slot.
			for s.slots[k].entry != nil && s.slots[k].entry.silent(now.UnixNano()) {
				s.removeLocked(k)
			}
		}
		s.mu.Unlock()
	}
}

// Each calls yield for a snapshot of the entries, without a lock held, until it
// returns false.
func (t *Table) Each(yield func(*Entry) bool) {
	var list []*Entry
	for i := range t.shards {
		s := &t.shards[i]
		list = list[:0]
		s.mu.Lock()
		for _, x := range s.slots {
			if x.entry != nil {
				list = append(list, x.entry)
			}
		}
		s.mu.Unlock()
		for _, e := range list {
			if !yield(e) {
				return
			}
		}
	}
}

// Len is how many flows are tracked.
func (t *Table) Len() int {
	n := 0
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		n += s.n
		s.mu.Unlock()
	}
	return n
}

// Evicted counts flows that were forgotten to make room, Untracked those that
// found none.
func (t *Table) Evicted() uint64 { return t.evicted.Load() }

// Untracked counts flows that found no room.
func (t *Table) Untracked() uint64 { return t.untracked.Load() }
