// Package flowtable tracks the flows that the overlay carries, and those that left
// it for a bypass: counters, state, the policy's verdict, and SYNs held back while
// a bypass is set up.
//
// The table is bounded. A flow that falls out of it goes on being forwarded; only
// its history is lost.
package flowtable

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/overlay"
)

// DefaultLimit is how many flows are tracked by default.
const DefaultLimit = 65536

// Times after which flows that the overlay carries are forgotten.
const (
	IdleTime   = 5 * time.Minute
	ClosedTime = 30 * time.Second // after a FIN or RST
)

const (
	shards = 64
	// samples is how many flows eviction looks at: the oldest of a few is old
	// enough, and the cost does not grow with the table.
	samples = 16
)

// Opened says who opened a flow.
type Opened uint32

// Openers. OpenedUnknown: its SYN was not seen.
const (
	OpenedUnknown Opened = iota
	OpenedHere
	OpenedThere
)

// Entry is one flow. Its counters may be used by any goroutine. A table has very many
// entries, so they are kept small.
type Entry struct {
	Out, In Counter
	seen    atomic.Int64 // Unix ns
	peer    atomic.Pointer[overlay.PeerID]

	// Ask belongs to the goroutine that sends the device's frames.
	Ask Ask

	opened atomic.Uint32
	state  atomic.Uint32
	closed atomic.Bool
	flow   tuple // src is the local side

	mu sync.Mutex // guards what follows
	// What the Member told last, without what stands above.
	told           bool
	wire           tuple // on the underlay; zero = none
	since, retryAt int64 // Unix ns; retryAt 0 = none
}

// Flow as the local side sends it.
func (e *Entry) Flow() bypass.Flow { return e.flow.flow() }

// Ask is what the sending goroutine remembers of a flow between packets.
type Ask struct {
	Verdict    bypass.Verdict
	Generation uint64              // of the policy that gave Verdict; 0 = none did
	Ends       unique.Handle[Ends] // for which it gave it

	Base      int64 // bytes before the connection now under way (a reused five-tuple)
	Next      int64 // Unix ns
	NextBytes int64
}

// Ends is what of a flow's ends a policy goes by.
type Ends struct {
	Peer              overlay.PeerID
	LocalTag, PeerTag string
}

// Counter counts frames and their bytes as they were on the device.
type Counter struct{ packets, bytes atomic.Uint64 }

// Add counts one frame.
func (c *Counter) Add(bytes int) {
	c.packets.Add(1)
	c.bytes.Add(uint64(bytes))
}

// Packets and Bytes are snapshots.
func (c *Counter) Packets() uint64 { return c.packets.Load() }

// Bytes is a snapshot.
func (c *Counter) Bytes() uint64 { return c.bytes.Load() }

// Total is the bytes of both directions.
func (e *Entry) Total() int64 { return int64(e.Out.Bytes() + e.In.Bytes()) }

// opening is OpenedHere before the flow got through.
const opening = uint32(OpenedHere) | 1<<8

// Opened tells who sent the SYN.
func (e *Entry) Opened() Opened { return Opened(e.opened.Load() & 0xff) }

// SetOpened notes a SYN; the flow is open (again).
func (e *Entry) SetOpened(o Opened) {
	v := uint32(o)
	if o == OpenedHere {
		v = opening
	}
	e.opened.Store(v)
	e.closed.Store(false)
}

// Through notes that a flow that was opened here got through to the other end; true:
// that is news.
func (e *Entry) Through() bool {
	return e.opened.Load() == opening && e.opened.CompareAndSwap(opening, uint32(OpenedHere))
}

// SetClosed notes a FIN or RST.
func (e *Entry) SetClosed() { e.closed.Store(true) }

// Seen notes when the last frame came.
func (e *Entry) Seen(now time.Time) { e.seen.Store(now.UnixNano()) }

// State is where the flow is, and why.
func (e *Entry) State() (bypass.State, bypass.Reason) {
	v := e.state.Load()
	return bypass.State(v >> 8), bypass.Reason(v)
}

// Peer is who speaks for the remote side; zero = nobody yet.
func (e *Entry) Peer() overlay.PeerID {
	if p := e.peer.Load(); p != nil {
		return *p
	}
	return overlay.PeerID{}
}

// SetPeer notes it. id must stay unchanged.
func (e *Entry) SetPeer(id *overlay.PeerID) {
	if p := e.peer.Load(); p != id {
		e.peer.Store(id)
	}
}

// SetReason says why a flow that no bypass transaction knows stays on the overlay.
func (e *Entry) SetReason(r bypass.Reason) {
	if e.state.Load() == uint32(r) { // OnOverlay is 0
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if bypass.State(e.state.Load()>>8) == bypass.OnOverlay {
		e.state.Store(uint32(r))
	}
}

// SetStatus takes what the Member told. Its Flow is e's, and its Peer is SetPeer's.
func (e *Entry) SetStatus(s bypass.Status) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.told, e.since, e.retryAt, e.wire = true, s.Since.UnixNano(), 0, tuple{}
	if !s.RetryAt.IsZero() {
		e.retryAt = s.RetryAt.UnixNano()
	}
	if wire, ok := tupleOf(bypass.Flow{Proto: e.flow.proto, Src: s.Local, Dst: s.Remote}); ok {
		e.wire = wire
	}
	e.state.Store(uint32(s.State)<<8 | uint32(s.Reason))
}

// Status is what the Member told last; false: nothing. Since is when the flow was
// seen first in that case.
func (e *Entry) Status() (s bypass.Status, told bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s = bypass.Status{Flow: e.Flow(), Peer: e.Peer(), Since: time.Unix(0, e.since)}
	if !e.told {
		return s, false
	}
	s.State, s.Reason = e.State()
	if e.retryAt != 0 {
		s.RetryAt = time.Unix(0, e.retryAt)
	}
	if e.wire != (tuple{}) {
		wire := e.wire.flow()
		s.Local, s.Remote = wire.Src, wire.Dst
	}
	return s, true
}

// pinned flows are not forgotten: the switch forwards them, or is about to.
func (e *Entry) pinned() bool { return bypass.State(e.state.Load()>>8) != bypass.OnOverlay }

// Table is the set of flows. All methods may be called by several goroutines.
type Table struct {
	seed      uint64
	limit     int // of one shard
	evicted   atomic.Uint64
	untracked atomic.Uint64
	shards    [shards]shard
}

type shard struct {
	mu    sync.Mutex
	flows map[tuple]*Entry
	_     [40]byte // a cache line each
}

// New makes a table for at most limit flows (rounded up to a multiple of 64);
// 0 = DefaultLimit.
func New(limit int) *Table {
	if limit <= 0 {
		limit = DefaultLimit
	}
	t := &Table{seed: rand.Uint64() | 1, limit: (limit + shards - 1) / shards}
	for i := range t.shards {
		t.shards[i].flows = map[tuple]*Entry{}
	}
	return t
}

// tuple is a Flow in a fifth of the bytes, and quicker to hash. It knows IPv4 only, as
// the Classifier does.
type tuple struct {
	src, dst [4]byte
	sp, dp   uint16
	proto    bypass.Proto
}

// tupleOf is f in short; false if it is not IPv4's.
func tupleOf(f bypass.Flow) (tuple, bool) {
	src, dst := f.Src.Addr(), f.Dst.Addr()
	if !src.Is4() || !dst.Is4() {
		return tuple{}, false
	}
	return tuple{src.As4(), dst.As4(), f.Src.Port(), f.Dst.Port(), f.Proto}, true
}

func (k *tuple) flow() bypass.Flow {
	return bypass.Flow{Proto: k.proto, Src: netip.AddrPortFrom(netip.AddrFrom4(k.src), k.sp), Dst: netip.AddrPortFrom(netip.AddrFrom4(k.dst), k.dp)}
}

func (t *Table) shard(k *tuple) *shard {
	x := uint64(binary.LittleEndian.Uint32(k.src[:]))<<32 | uint64(binary.LittleEndian.Uint32(k.dst[:]))
	x *= t.seed
	x = (x ^ uint64(k.sp)<<16 ^ uint64(k.dp) ^ uint64(k.proto)<<40) * t.seed
	x ^= x >> 29
	return &t.shards[x*0x9e3779b97f4a7c15>>58]
}

// Get is the flow's entry, or nil.
func (t *Table) Get(f bypass.Flow) *Entry {
	k, ok := tupleOf(f)
	if !ok {
		return nil
	}
	s := t.shard(&k)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flows[k]
}

// Track is the flow's entry; a new one if there was none. nil: the table is full of
// flows that must stay, or the flow is not IPv4's.
func (t *Table) Track(f bypass.Flow, now time.Time) (e *Entry, fresh bool) {
	k, ok := tupleOf(f)
	if !ok {
		return nil, false
	}
	s := t.shard(&k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e = s.flows[k]; e != nil {
		return e, false
	}
	if len(s.flows) >= t.limit && !t.evictLocked(s) {
		t.untracked.Add(1)
		return nil, false
	}
	e = &Entry{flow: k, since: now.UnixNano()}
	e.seen.Store(now.UnixNano())
	s.flows[k] = e
	return e, true
}

// evictLocked drops the flow that was silent longest among a few, or among all if
// those few are pinned.
func (t *Table) evictLocked(s *shard) bool {
	var oldest *Entry
	n := 0
	for _, e := range s.flows { // in random order
		if n++; n > samples && oldest != nil {
			break
		}
		if !e.pinned() && (oldest == nil || e.seen.Load() < oldest.seen.Load()) {
			oldest = e
		}
	}
	if oldest == nil {
		return false
	}
	delete(s.flows, oldest.flow)
	t.evicted.Add(1)
	return true
}

// Sweep forgets flows on the overlay that were silent for IdleTime, or closed for
// ClosedTime.
func (t *Table) Sweep(now time.Time) {
	idle, closed := now.Add(-IdleTime).UnixNano(), now.Add(-ClosedTime).UnixNano()
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for f, e := range s.flows {
			last := e.seen.Load()
			if !e.pinned() && (last <= idle || e.closed.Load() && last <= closed) {
				delete(s.flows, f)
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
		for _, e := range s.flows {
			list = append(list, e)
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
		n += len(s.flows)
		s.mu.Unlock()
	}
	return n
}

// Evicted counts flows that were forgotten to make room, Untracked those that
// found none.
func (t *Table) Evicted() uint64 { return t.evicted.Load() }

// Untracked counts flows that found no room.
func (t *Table) Untracked() uint64 { return t.untracked.Load() }
