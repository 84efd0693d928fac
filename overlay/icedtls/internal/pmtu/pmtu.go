// Package pmtu finds how long datagrams may be that a path carries: packetization layer path
// MTU discovery for datagrams (RFC 8899), as a state machine without I/O.
//
// A [Search] is about one path, in one direction, and belongs to the end that sends. It begins
// with a size that works everywhere and asks for more by probes: padded datagrams, which the
// peer's reports confirm one by one. The longest that may work goes first and alone, for it is
// nearly always right; then a volley of what is common on the Internet; then volleys that divide
// what is left.
//
//	           probe answered: the size is raised at once
//	          ┌────────────┐
//	          ▼            │
//	base ─► searching ─────┴─► complete ── raise time ──► searching
//	          ▲                   │ ▲
//	          │                   ▼ │ confirmed
//	          └─── a lower ◄─── doubt
//	               size
//
// While datagrams longer than the base are sent, the peer is asked every [ConfirmTime] what the
// longest is that it has got: as long as that is one of those, nothing more is needed. If not, the
// size is in doubt: it is probed again, with all that is common below it. What got no answer
// three times, while something shorter did, does not get through any more. A path over which
// nothing comes back is no matter of sizes.
//
// What routers or the kernel say is a hint of what to probe, and no more (RFC 8899, section 4.6).
package pmtu

import (
	"slices"
	"time"
)

const (
	// ConfirmTime is how often the size is confirmed while it is used.
	ConfirmTime = 250 * time.Millisecond
	// maxTries is MAX_PROBES (RFC 8899, section 5.1.2): a size that got no answer so often
	// does not get through.
	maxTries = 3
	// gap is how near the size comes to what does not get through.
	gap = 8
	// firstRaise is when more is asked for again at first; then twice as late each time, up
	// to Config.Raise.
	firstRaise = 5 * time.Second
	// deadTime is the pause when nothing at all comes back.
	deadTime = time.Second
	// spread is how many sizes a volley has that divides what is left.
	spread = 7
	// remembered probes, of several volleys: what is answered later does not count.
	remembered = 64
	// Small is the size of a probe without padding.
	Small = 0
	// DefaultRaise is PMTU_RAISE_TIMER (RFC 8899, section 5.1.1).
	DefaultRaise = 10 * time.Minute
)

// plateaus are path MTUs that are common: tunnels, PPPoE, clouds, Ethernet, jumbo frames.
var plateaus = [...]int{1280, 1360, 1400, 1420, 1440, 1450, 1460, 1480, 1492, 1500, 4096}

// Config describes a path. Sizes are of datagrams, in bytes.
type Config struct {
	// Base works on any path; Max is the longest that may be sent.
	Base, Max int
	// Header is what a datagram gains on its way to being a packet.
	Header int
	// Hint, if set, is asked for a size that may be right; 0 = no idea. It should not wait.
	Hint func() int
	// Raise is how often more is asked for where Max did not get through. 0 = DefaultRaise.
	Raise time.Duration
	// First is the number of the first probe.
	First uint32
}

// Probe is a datagram to send: of Size bytes, or Small.
type Probe struct {
	Number uint32
	Size   int
}

// remember is a Probe, of which each path has many: a datagram's size fits.
type remember struct {
	number uint32
	size   uint16
}

// Search finds the size of one path. Its methods may not be called at once.
type Search struct {
	c         Config
	size      int // the longest that is known to get through
	high      int // the shortest that is known not to, above size; Max+1: none is
	next      uint32
	falls     uint64
	raise     time.Time // zero: not complete
	raiseWait time.Duration

	// The volley that is on its way; none: it has no sizes.
	volley []int // sizes, the longest first
	tries  int
	until  time.Time
	first  bool // it asks for the longest alone
	common bool // the common sizes had their turn

	probes [remembered]remember // by number; also those that were given up
	valid  uint32               // answers to earlier ones count no more

	// doubt: the volley asks whether size still gets through.
	doubt bool
	best  int  // what got through meanwhile
	heard bool // something did

	want   int       // the longest that was sent, of which it is not known whether it got through
	asked  time.Time // the last question about it
	query  uint32    // its number
	asking int       // what want was then; 0 = it was answered
}

// New begins.
func New(c Config) *Search {
	c.Max = max(c.Max, c.Base)
	if c.Raise <= 0 {
		c.Raise = DefaultRaise
	}
	s := &Search{c: c, size: c.Base, next: c.First, valid: c.First}
	s.raiseWait = min(firstRaise, c.Raise)
	s.Again()
	return s
}

// Size is how long datagrams may be now.
func (s *Search) Size() int { return s.size }

// Next is the number of the next probe.
func (s *Search) Next() uint32 { return s.next }

// Falls is how often the path was found to take less than before.
func (s *Search) Falls() uint64 { return s.falls }

// Complete tells whether all is known that can be found out now.
func (s *Search) Complete() bool { return !s.doubt && len(s.volley) == 0 && s.high-s.size <= gap }

// Again begins the search for more anew, as after a change that may have been one of the path.
func (s *Search) Again() {
	if s.doubt {
		return
	}
	s.high, s.raise = s.c.Max+1, time.Time{}
	s.first, s.common = true, false
	s.volley = s.volley[:0]
}

// Step says what to send now. It is called every now and then; sent is the longest datagram
// that was sent since the last call, patience how long an answer may take.
func (s *Search) Step(now time.Time, sent int, patience time.Duration) []Probe {
	if sent = min(sent, s.size); sent > s.c.Base {
		s.want = max(s.want, sent)
	}
	var out []Probe
	if len(s.volley) > 0 && !now.Before(s.until) {
		out = s.judge(now, patience)
	}
	if len(s.volley) == 0 && s.begin(now) {
		out = s.send(now, patience)
	}
	if s.want > 0 && !s.doubt && now.Sub(s.asked) >= ConfirmTime && (s.asking == 0 || now.Sub(s.asked) >= patience) {
		s.asked, s.asking, s.query = now, s.want, s.next
		out = append(out, s.probe(Small))
	}
	return out
}

// begin readies the next volley; false: there is nothing to ask for.
func (s *Search) begin(now time.Time) bool {
	s.tries = 0
	switch {
	case s.doubt:
		if now.Before(s.until) {
			return false
		}
		s.fillDoubt()
		return true
	case !s.raise.IsZero() && !now.Before(s.raise):
		s.raiseWait = min(2*s.raiseWait, s.c.Raise)
		s.Again()
	}
	if s.high-s.size <= gap && s.high <= s.c.Max || s.size == s.c.Max {
		if s.raise.IsZero() && s.size < s.c.Max {
			s.raise = now.Add(s.raiseWait)
		}
		return false
	}
	s.fill()
	return len(s.volley) > 0
}

// fill is a volley between size and high.
func (s *Search) fill() {
	switch {
	case s.first:
		s.ask(s.c.Max)
		if s.c.Hint != nil {
			s.ask(s.c.Hint())
		}
	case !s.common:
		s.common = true
		s.ask(s.high - 1)
		for _, p := range plateaus {
			s.ask(p - s.c.Header)
		}
	}
	if len(s.volley) == 0 {
		for i := 1; i <= spread; i++ {
			s.ask(s.size + (s.high-s.size)*i/(spread+1))
		}
	}
	s.sort()
}

// ask adds a size to a volley that looks for more.
func (s *Search) ask(size int) {
	if size > s.size && size < s.high {
		s.volley = append(s.volley, size)
	}
}

func (s *Search) sort() {
	slices.Sort(s.volley)
	s.volley = slices.Compact(s.volley)
	slices.Reverse(s.volley)
}

// fillDoubt is a volley of the size itself, and of what it may be instead.
func (s *Search) fillDoubt() {
	s.best, s.heard = 0, false
	s.volley = append(s.volley[:0], s.size, s.c.Base)
	instead := func(size int) {
		if size > s.c.Base && size < s.size {
			s.volley = append(s.volley, size)
		}
	}
	if s.c.Hint != nil {
		instead(s.c.Hint())
	}
	for _, p := range plateaus {
		instead(p - s.c.Header)
	}
	s.sort()
	s.volley = append(s.volley, Small)
}

// send is all of the volley.
func (s *Search) send(now time.Time, patience time.Duration) []Probe {
	s.tries++
	s.until = now.Add(patience)
	out := make([]Probe, 0, len(s.volley)+1)
	for _, size := range s.volley {
		out = append(out, s.probe(size))
	}
	return out
}

func (s *Search) probe(size int) Probe {
	p := Probe{s.next, size}
	s.probes[p.Number%remembered] = remember{p.Number, uint16(p.Size)}
	s.next++
	return p
}

// judge is for a volley that had its time: it goes again, or is over.
func (s *Search) judge(now time.Time, patience time.Duration) []Probe {
	if s.doubt {
		s.volley = slices.DeleteFunc(s.volley, func(n int) bool { return n != Small && n <= s.best || n == Small && s.heard })
		if s.tries < maxTries {
			return s.send(now, patience)
		}
		s.fall(now)
		return nil
	}
	s.volley = slices.DeleteFunc(s.volley, func(n int) bool { return n <= s.size })
	switch {
	case len(s.volley) == 0:
	case s.first:
		s.first = false
		s.volley = s.volley[:0]
	case s.tries < maxTries:
		return s.send(now, patience)
	default:
		s.high = s.volley[len(s.volley)-1]
		s.volley = s.volley[:0]
	}
	return nil
}

// fall takes the size back to what got through, if anything did.
func (s *Search) fall(now time.Time) {
	s.volley = s.volley[:0]
	if s.best == 0 && !s.heard {
		s.until = now.Add(deadTime) // still in doubt
		return
	}
	s.doubt = false
	s.want, s.asking = 0, 0
	if s.size == s.c.Base {
		return
	}
	s.falls++
	s.high, s.size = s.size, max(s.best, s.c.Base)
	s.first, s.common = false, true
	s.raise, s.raiseWait = time.Time{}, min(firstRaise, s.c.Raise)
}

// Report takes the peer's, and tells whether there may be something to send at once.
func (s *Search) Report(r Report) bool {
	if r.Number-s.valid >= s.next-s.valid {
		return false // of another path, or of nothing that we sent
	}
	size, doubt := s.size, s.doubt
	if p := s.probes[r.Number%remembered]; p.number == r.Number {
		s.answered(int(p.size))
	}
	switch question := s.asking > 0 && r.Number == s.query; {
	case s.doubt && r.Longest >= s.size, question && r.Longest >= s.asking:
		s.settle(r.Longest)
	case question && !s.doubt:
		s.suspect()
	}
	return s.size != size || s.doubt != doubt
}

// answered takes note of a size that got through.
func (s *Search) answered(size int) {
	switch {
	case !s.doubt:
		if s.size = max(s.size, size); s.size >= s.high { // it was slow, or lost thrice by chance
			s.high = s.c.Max + 1
		}
		if len(s.volley) > 0 && s.volley[0] <= s.size {
			s.first = false
			s.volley = s.volley[:0]
		}
	case size >= s.size:
		s.settle(size)
	default:
		s.heard = true
		s.best = max(s.best, size)
	}
}

// settle is for what is known to have got through.
func (s *Search) settle(longest int) {
	s.asking = 0
	if longest >= s.want {
		s.want = 0
	}
	if s.doubt {
		s.doubt = false
		s.volley = s.volley[:0]
	}
}

// suspect is for a peer that did not get what we sent.
func (s *Search) suspect() {
	s.doubt = true
	s.asking = 0
	s.valid = s.next // what got through before says nothing
	s.volley = s.volley[:0]
	s.until = time.Time{}
}

// Refused is for a probe that the kernel did not take since it is too long for the interface.
func (s *Search) Refused(size int) {
	if s.doubt || size <= s.size {
		return // the others of the volley will show it
	}
	s.high = min(s.high, size)
	s.volley = slices.DeleteFunc(s.volley, func(n int) bool { return n >= s.high })
	s.first = s.first && len(s.volley) > 0
}
