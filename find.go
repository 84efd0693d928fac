package vias

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/viasnet/vias/internal/l2"
	"github.com/viasnet/vias/internal/pump"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// finder finds in the directory what frames and questions are to, and has its node dialled. It
// also holds what peers announce against the directory. See docs/directory.md.
type finder struct {
	network *Network
	out     atomic.Pointer[pump.Out] // of the device's first queue
	asks    *pump.Opens              // how many addresses an endpoint may ask for
	wake    chan struct{}
	// directory is set before anything else is used.
	directory overlay.Directory

	mu       sync.Mutex // guards everything below
	searches map[target]*search
	bytes    int // of frames that wait
	asking   int // look-ups under way
	known    map[target]answer
	seen     map[claimant]uint64 // sequence numbers
	disputes map[target]*dispute
	// confirmed are the addresses of linked peers that the directory said are theirs.
	confirmed map[target]overlay.PeerID
	checks    []target // are to be looked up, when there is time
	lookups   bucket
}

type claimant struct {
	peer overlay.PeerID
	mac  tap.MAC
}

func newFinder(n *Network) *finder {
	return &finder{
		network: n, asks: pump.NewOpens(askRate), wake: make(chan struct{}, 1),
		searches: map[target]*search{}, known: map[target]answer{}, seen: map[claimant]uint64{},
		disputes: map[target]*dispute{}, confirmed: map[target]overlay.PeerID{}, lookups: bucket{rate: lookupRate},
	}
}

// poke has the searches looked at. It does not block; a nil finder has none.
func (f *finder) poke() {
	if f == nil {
		return
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Wait is pump.Finder's.
func (f *finder) Wait(frame []byte, o tap.Offload, from, to tap.MAC) {
	now := time.Now()
	t := target{mac: to}
	f.mu.Lock()
	known := f.searches[t] != nil // then what releases its frames wakes us
	cause, ok := f.waitLocked(frame, o, from, t, now)
	f.mu.Unlock()
	switch {
	case !ok:
		f.network.shared.Counters.Drop(cause)
	case !known:
		f.poke()
	}
}

func (f *finder) waitLocked(frame []byte, o tap.Offload, from tap.MAC, t target, now time.Time) (cause pump.Drop, ok bool) {
	if s := f.searches[t]; s != nil && (len(s.frames) == maxFramesOne || s.bytes+len(frame) > maxWaitingOne) || f.bytes+len(frame) > maxWaiting {
		return pump.OutCrowded, false
	}
	s, cause := f.searchLocked(t, from, now)
	if s == nil {
		return cause, false
	}
	s.frames = append(s.frames, waiting{slices.Clone(frame), o})
	s.bytes += len(frame)
	f.bytes += len(frame)
	return 0, true
}

// Ask is pump.Finder's.
func (f *finder) Ask(q pump.Question) {
	t, now := target{ip: q.Target}, time.Now()
	f.mu.Lock()
	s, cause := f.searchLocked(t, q.Asker, now)
	fresh := s != nil && len(s.questions) < maxQuestions && !slices.Contains(s.questions, q)
	if fresh {
		s.questions = append(s.questions, q)
	}
	f.mu.Unlock()
	switch {
	case fresh:
		f.poke()
	case s == nil && cause == pump.OutLookups:
		f.network.shared.Counters.Drop(cause)
	}
}

// searchLocked is the search for t, a new one if need be; nil and a cause if there may be none.
func (f *finder) searchLocked(t target, from tap.MAC, now time.Time) (*search, pump.Drop) {
	if s := f.searches[t]; s != nil {
		if len(s.frames)+len(s.questions) == 0 { // it was a check's
			s.until = now.Add(searchTime)
		}
		return s, 0
	}
	a, fresh := f.known[t]
	fresh = fresh && now.Before(a.until)
	if fresh && !a.ok {
		return nil, pump.OutUnresolved
	}
	if len(f.searches) >= maxSearches {
		return nil, pump.OutLookups
	}
	s := &search{target: t, until: now.Add(searchTime)}
	if fresh {
		s.done, s.ok, s.found = true, true, a.found
	} else if ok, _ := f.asks.Allow(from, now); !ok {
		return nil, pump.OutLookups
	}
	f.searches[t] = s
	return s, 0
}

// changed may be called by the directory at any time: a search's address is another's.
func (f *finder) changed(t target) {
	f.mu.Lock()
	if s := f.searches[t]; s != nil {
		s.changed, s.due = true, time.Time{}
	}
	f.mu.Unlock()
	f.poke()
}

// turn is what one look at the searches says is to be done.
type turn struct {
	lookups  []target
	demands  []overlay.PeerID
	released []waiting
	flush    []overlay.PeerID // whose the released frames are
	answers  []answered
	watches  []target
	dropped  int
	stops    []func() // of watches
	next     time.Time
}

type answered struct {
	pump.Question
	owner tap.MAC
}

// find works until ctx ends.
func (f *finder) find(ctx context.Context, r *running) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	reply := tap.NewBatch(1, pump.MaxAnswer)
	for {
		w := f.look(time.Now())
		f.do(&w, r, reply)
		for _, at := range w.lookups {
			wg.Go(func() { f.lookup(ctx, at) })
		}
		t.Reset(timeTo(w.next))
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		case <-t.C:
		}
	}
}

// do does what w says, but for the look-ups.
func (f *finder) do(w *turn, r *running, reply *tap.Batch) {
	n := f.network
	for _, stop := range w.stops {
		stop()
	}
	n.shared.Counters.DropN(pump.OutUnresolved, w.dropped)
	for _, at := range w.watches {
		stop := f.directory.Watch(at.key(), func() { f.changed(at) })
		f.mu.Lock()
		if s := f.searches[at]; s != nil && s.stop == nil {
			s.stop, stop = stop, nil
		}
		f.mu.Unlock()
		if stop != nil {
			stop()
		}
	}
	for _, a := range w.answers {
		if a.owner != a.Asker {
			a.Answer(reply, a.owner)
			r.writers[0].Write(reply)
			n.shared.Counters.Answered.Add(1)
		}
	}
	for _, id := range w.demands {
		n.demand(id)
	}
	if len(w.released) == 0 {
		return
	}
	for _, id := range w.flush { // the peer must know first whose frames these are
		if c := n.connOf(id); c != nil {
			_ = c.flush() // the link may be gone, and the frames with it
		}
	}
	if out := f.out.Load(); out != nil {
		out.Release(framesOf(w.released))
	} else {
		n.shared.Counters.DropN(pump.OutUnresolved, len(w.released))
	}
}

// look decides what is to be done now.
func (f *finder) look(now time.Time) (w turn) {
	view := f.network.shared.Stations.View()
	f.mu.Lock()
	defer f.mu.Unlock()
	w.next = now.Add(time.Hour)
	for t, d := range f.disputes {
		if !now.Before(d.due) {
			d.due = now.Add(disputeTime)
			f.checks = append(f.checks, t)
		}
		w.next = earlier(w.next, d.due)
	}
	f.takeChecksLocked(now)
	for t, s := range f.searches {
		if f.stepLocked(s, view, now, &w); !s.wanted() && !s.asking {
			delete(f.searches, t)
			if s.stop != nil {
				w.stops = append(w.stops, s.stop)
			}
		}
	}
	return w
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// stepLocked moves one search on.
func (f *finder) stepLocked(s *search, view *l2.View, now time.Time, w *turn) {
	owner := f.releaseLocked(s, view, w)
	if s.ok && len(s.questions) > 0 {
		for _, q := range s.questions {
			w.answers = append(w.answers, answered{q, s.found.MAC})
		}
		s.questions = nil
	}
	if !s.wanted() {
		return
	}
	if !now.Before(s.until) {
		f.giveUpLocked(s, now, w)
		return
	}
	w.next = earlier(w.next, s.until)
	if !s.asking && (!s.done || !s.ok || s.changed || f.doubtful(s, view, now)) {
		f.askLocked(s, now, w)
	}
	switch {
	case s.ok:
		owner = s.found.Peer
	case !s.done && s.failures == 0:
		return // the directory knows better than what was announced long ago
	}
	if len(s.frames) > 0 && !owner.IsZero() {
		if !now.Before(s.dial) {
			s.dial = now.Add(demandEvery)
			w.demands = append(w.demands, owner)
		}
		w.next = earlier(w.next, s.dial)
	}
}

// releaseLocked lets frames go for which there is a link. owner is whose the station is that
// they are to, as far as peers announced that.
func (f *finder) releaseLocked(s *search, view *l2.View, w *turn) (owner overlay.PeerID) {
	if len(s.frames) == 0 {
		return owner
	}
	st := view.MAC(s.mac)
	if st == nil {
		return owner
	}
	if st.Local() || f.network.shared.Ports.Get(st.Peer) != nil {
		w.released = append(w.released, s.frames...)
		f.bytes -= s.bytes
		s.frames, s.bytes = nil, 0
		w.flush = append(w.flush, st.Peer)
	}
	return st.Peer
}

// doubtful tells whether who was found may not be the one any more.
func (f *finder) doubtful(s *search, view *l2.View, now time.Time) bool {
	if len(s.frames) == 0 {
		return false
	}
	if f.network.unreachable(s.found.Peer, now) {
		return true
	}
	return f.network.shared.Ports.Get(s.found.Peer) != nil && view.MAC(s.mac) == nil
}

// askLocked has the address looked up when that is due, and may be.
func (f *finder) askLocked(s *search, now time.Time, w *turn) {
	switch {
	case now.Before(s.due):
	case f.asking >= lookupsAtOnce || !f.lookups.take(now):
		s.due = now.Add(50 * time.Millisecond)
	default:
		s.asking, s.changed = true, false
		f.asking++
		w.lookups = append(w.lookups, s.target)
		if s.done && s.stop == nil { // it was asked before: what changes from here on matters
			w.watches = append(w.watches, s.target)
		}
		return
	}
	w.next = earlier(w.next, s.due)
}

func (f *finder) giveUpLocked(s *search, now time.Time, w *turn) {
	w.dropped += len(s.frames)
	f.bytes -= s.bytes
	s.frames, s.bytes, s.questions, s.check = nil, 0, nil, false
	if s.done && !s.ok {
		f.knowLocked(s.target, answer{until: now.Add(missTime)}, now)
	}
}

// knowLocked remembers an answer.
func (f *finder) knowLocked(t target, a answer, now time.Time) {
	if len(f.known) >= maxKnown {
		maps.DeleteFunc(f.known, func(_ target, a answer) bool { return !now.Before(a.until) })
		if len(f.known) >= maxKnown {
			clear(f.known)
		}
	}
	f.known[t] = a
}

// giveUp counts what still waited when Run ended. A nil finder has nothing.
func (f *finder) giveUp() {
	if f == nil {
		return
	}
	var w turn
	f.mu.Lock()
	for _, s := range f.searches {
		f.giveUpLocked(s, time.Now(), &w)
		w.stops = append(w.stops, s.stop)
	}
	for _, d := range f.disputes {
		w.stops = append(w.stops, d.stop)
	}
	clear(f.searches)
	clear(f.disputes)
	f.checks = nil
	f.mu.Unlock()
	for _, stop := range w.stops {
		if stop != nil {
			stop()
		}
	}
	f.network.shared.Counters.DropN(pump.OutUnresolved, w.dropped)
}
