package flowtable

import (
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/overlay"
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

// Proto is its protocol.
func (e *Entry) Proto() bypass.Proto { return e.flow.proto }

// Ask is what the sending goroutine remembers of a flow between packets.
type Ask struct {
	// Answer is the policy's, and what it was asked for. Very many flows have the same one, which
	// is kept once. The zero Handle: it was not asked.
	Answer unique.Handle[Answer]

	Base      int64 // bytes before the connection now under way (a reused five-tuple)
	Next      int64 // Unix ns
	NextBytes int64
}

// Answer is what a policy said for the flows between two ends.
type Answer struct {
	Ends
	Generation uint64 // of the policy
	Verdict    bypass.Verdict
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

// AddN counts several.
func (c *Counter) AddN(frames, bytes int) {
	c.packets.Add(uint64(frames))
	c.bytes.Add(uint64(bytes))
}

// Packets and Bytes are snapshots.
func (c *Counter) Packets() uint64 { return c.packets.Load() }

// Bytes is a snapshot.
func (c *Counter) Bytes() uint64 { return c.bytes.Load() }

// Total is the bytes of both directions.
func (e *Entry) Total() int64 { return int64(e.Out.Bytes() + e.In.Bytes()) }

// Packets is the frames of both directions.
func (e *Entry) Packets() int64 { return int64(e.Out.Packets() + e.In.Packets()) }

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
	if e.pinned() && s.State == bypass.OnOverlay {
		// Its packets were not seen here meanwhile: that must not be taken for silence.
		e.seen.Store(max(e.seen.Load(), e.since))
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

// brief tells whether e is one of the many UDP flows that are a few packets, as a DNS
// query and its answer are.
func (e *Entry) brief() bool {
	return e.flow.proto == bypass.UDP && !e.pinned() && e.Packets() < bypass.DefaultUDPPackets
}
