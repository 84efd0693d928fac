package vias

import (
	"net/netip"
	"slices"
	"time"

	"github.com/viasnet/vias/internal/pump"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// Bounds of what waits for an address.
const (
	// searchTime is how long frames and questions wait for an address to be found and its
	// node to be linked.
	searchTime = 3 * time.Second
	// missTime is how long an address that nobody has is not looked up again, unless the
	// directory says that it changed; hitTime how long one that was found is not.
	missTime = time.Second
	hitTime  = 5 * time.Second
	// againTime is after what time a node is doubted that was found, but is unreachable, or is
	// linked and does not announce the address.
	againTime = 500 * time.Millisecond

	maxSearches    = 2048
	maxKnown       = 8192    // answers, and sequence numbers, that are remembered
	maxWaiting     = 4 << 20 // bytes of frames
	maxWaitingOne  = 256 << 10
	maxFramesOne   = 256
	maxQuestions   = 16
	maxChecks      = 1 << 17 // addresses that peers announced and that are to be looked up
	checksAtOnce   = 32
	lookupTimeout  = 2 * time.Second
	lookupsAtOnce  = 64
	lookupRate     = 500 // a second, of the node; twice as many at once
	askRate        = 50  // a second, of one local endpoint; twice as many at once
	demandEvery    = 200 * time.Millisecond
	unreachableFor = 30 * time.Second
)

// target is what is looked up: a MAC address, or an IP address if that is valid, or a name if there
// is one.
type target struct {
	mac  tap.MAC
	ip   netip.Addr
	name string
}

func (t target) key() overlay.DirectoryKey {
	switch {
	case t.ip.IsValid():
		return overlay.KeyIP(t.ip)
	case t.name != "":
		return overlay.KeyName(t.name)
	}
	return overlay.KeyMAC(t.mac)
}

// of tells whether an entry has the address: a directory may show any.
func (t target) of(e overlay.Entry) bool {
	switch {
	case t.ip.IsValid():
		return slices.Contains(e.IPs, t.ip)
	case t.name != "":
		return overlay.KeyName(e.Name) == overlay.KeyName(t.name)
	}
	return e.MAC == t.mac
}

// search is for one address. It is guarded by finder.mu.
//
//	look up ─ nobody has it ─→ watch, look up when told ──┐
//	   │  └─── error: again, ever later ─────┐            ├─ searchTime is over → drop
//	   ↓                                     ↓            │
//	found: answer questions; dial its node ─ linked → release frames
type search struct {
	target
	frames    []waiting
	bytes     int
	questions []pump.Question
	until     time.Time // when it is given up
	check     bool      // a peer announced the address: is it the peer's?

	asking   bool // a look-up is under way
	changed  bool // the directory says that it changed while asking
	due      time.Time
	failures int
	stop     func() // ends watching; nil: not watched

	done  bool // it was answered, if only by "nobody"
	found overlay.Entry
	ok    bool      // somebody has it
	dial  time.Time // when its node is asked for next
}

// waiting is a frame that waits.
type waiting struct {
	data    []byte
	offload tap.Offload
}

// wanted tells whether anything still waits for the answer.
func (s *search) wanted() bool { return len(s.frames)+len(s.questions) > 0 || s.check && !s.done }

// take takes what a look-up found. The next is due: if nobody has the address, at once and
// with a watch, since it may have been published meanwhile, then when the watch says so.
func (s *search) take(e overlay.Entry, ok bool, now time.Time) {
	s.asking, s.done, s.failures, s.found, s.ok = false, true, 0, e, ok
	switch {
	case s.changed:
	case ok:
		s.due = now.Add(againTime)
	case s.stop != nil:
		s.due = s.until
	default:
		s.due = now
	}
}

// retryAfter is when to look up again after so many failures.
func retryAfter(failures int) time.Duration {
	return min(firstRetry<<min(failures, 10), time.Second)
}

// framesOf makes a batch of what waited.
func framesOf(list []waiting) *tap.Batch {
	bytes := 0
	for _, w := range list {
		bytes += len(w.data)
	}
	b := tap.NewBatch(len(list), bytes)
	for _, w := range list {
		b.Append(w.data, w.offload)
	}
	return b
}

// answer is what is known of an address.
type answer struct {
	found overlay.Entry
	ok    bool
	until time.Time
}

// bucket bounds how often something is done. It is guarded by its owner's lock.
type bucket struct {
	rate float64 // a second; twice as many at once
	left float64
	at   time.Time
}

func (b *bucket) take(now time.Time) bool {
	if b.at.IsZero() {
		b.left = 2 * b.rate
	} else {
		b.left = min(2*b.rate, b.left+max(0, now.Sub(b.at).Seconds())*b.rate)
	}
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}
