package bypass

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/viasnet/vias/tap"
)

// baseState is the slow half: what setBase tells the switch.
type baseState struct {
	workloads map[uint32]ownedWorkload // by ofport
	hops      map[netip.Addr]Hop       // by next hop
	lastHop   uint32
	lastPeer  uint32       // number of the last lease
	guarded   []netip.Addr // as last told to the host's guard
	guardErr  error        // what it said to that
	late      map[AddrPair]time.Time
	owing     map[AddrPair]time.Time // those of late that had rules when their member left
	queued    bool
	version   int // of workloads, to tell waiters
	waiters   []baseWaiter
}

type ownedWorkload struct {
	Workload
	member *Member
	begun  *pace // of its flows
}

type baseWaiter struct {
	version int
	done    chan struct{}
}

func (b *baseState) init() {
	b.late, b.owing = make(map[AddrPair]time.Time), make(map[AddrPair]time.Time)
	b.workloads, b.hops = make(map[uint32]ownedWorkload), make(map[netip.Addr]Hop)
}

// hopFor is the hop to use for a route, made or updated as need be.
func (l *loop) hopFor(r Route) uint32 {
	h, known := l.base.hops[r.Via]
	if !known {
		l.base.lastHop++
		h.ID = l.base.lastHop
	}
	if h.Src != r.Src || h.Dst != r.NextHop {
		h.Src, h.Dst = r.Src, r.NextHop
		l.base.hops[r.Via] = h
		l.setBase(nil)
	}
	return h.ID
}

// setBase has the switch hold the slow half as it is now. done, if not nil, is
// closed when a Set that includes it has succeeded; failures are tried again with
// the next renewal or when the switch is back.
func (l *loop) setBase(done chan struct{}) {
	b := &l.base
	b.version++
	if done != nil {
		b.waiters = append(b.waiters, baseWaiter{b.version, done})
	}
	if b.queued { // the queued one is built when its turn comes
		return
	}
	b.queued = true
	l.box.post(l.flushBase)
}

// flushBase builds and queues the Set that is due, if any. Whoever queues a change
// that relies on the slow half as it is now calls it first.
func (l *loop) flushBase() {
	if !l.base.queued {
		return
	}
	l.base.queued = false
	l.setGuard()
	if !l.up || !l.cleared && !l.ended { // what an earlier run guards stays until we know what to guard
		return
	}
	base, version := l.buildBase(), l.base.version
	l.change.post(pending{call: func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, applyTimeout)
		err := l.dp.Set(ctx, base)
		cancel()
		l.box.post(func() { l.baseSet(version, err) })
	}})
}

func (l *loop) baseSet(version int, err error) {
	if err != nil {
		if !errors.Is(err, ErrSwitchDown) {
			l.log.Error("bypass: the switch refused the base rules", "err", err)
		}
		return
	}
	l.base.waiters = slices.DeleteFunc(l.base.waiters, func(w baseWaiter) bool {
		if w.version <= version {
			close(w.done)
		}
		return w.version <= version
	})
}

func (l *loop) buildBase() Base {
	b := Base{Epoch: uint16(l.epoch), Ports: l.cfg.Ports, Lease: l.cfg.Lease}
	if l.ended {
		if b.Guard = l.guards(); len(b.Guard) == 0 {
			b.Lease = 0
		}
		return b
	}
	for _, w := range l.base.workloads {
		b.Workloads = append(b.Workloads, w.Workload)
	}
	slices.SortFunc(b.Workloads, func(x, y Workload) int { return int(x.Ofport) - int(y.Ofport) })
	for _, h := range l.base.hops {
		b.Hops = append(b.Hops, h)
	}
	slices.SortFunc(b.Hops, func(x, y Hop) int { return int(x.ID) - int(y.ID) })
	b.Guard = l.guards()
	return b
}

// guards lists the pairs of all peers, and, for a lease, those of peers that are no
// more: they may not know it yet.
func (l *loop) guards() []AddrPair {
	var pairs []AddrPair
	for _, p := range l.peers {
		if pair, ok := p.guard(); ok {
			pairs = append(pairs, pair)
		}
	}
	for pair, until := range l.base.late {
		if time.Now().Before(until) {
			pairs = append(pairs, pair)
		} else {
			delete(l.base.late, pair)
		}
	}
	slices.SortFunc(pairs, func(x, y AddrPair) int {
		return cmp.Or(x.Remote.Compare(y.Remote), x.Local.Compare(y.Local))
	})
	return slices.Compact(pairs)
}

// setGuard tells the host's guard when the list of peers changed, or when it failed
// last time. Without it nothing is proven: the host's stack would answer for guests. At the
// end it goes: unlike the switch's, it would not end by itself.
func (l *loop) setGuard() {
	var peers []netip.Addr
	for _, pair := range l.guards() {
		if !l.ended {
			peers = append(peers, pair.Remote)
		}
	}
	peers = slices.Compact(peers) // in order already
	if slices.Equal(peers, l.base.guarded) && l.base.guardErr == nil {
		return
	}
	l.base.guarded = peers
	l.guard.post(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, applyTimeout)
		err := l.cfg.Underlay.Guard(ctx, l.cfg.Ports, peers)
		cancel()
		l.box.post(func() { l.guardSet(err) })
	})
}

func (l *loop) guardSet(err error) {
	l.base.guardErr = err
	if err == nil {
		return
	}
	l.log.Error("bypass: the host's guard against resets could not be set; flows stay on the overlay", "err", err)
	for _, p := range l.sortedPeers() {
		switch p.proof.phase {
		case proofListening, proofProbing, proofFresh:
			l.prove(p, func() []proofAction { return p.proof.fail(ReasonGuard, time.Now()) })
		}
	}
}

// guardStands calls then in the loop when all that was asked of the guard so far
// is done, one way or the other.
func (l *loop) guardStands(then func(err error)) {
	l.guard.post(func(context.Context) { l.box.post(func() { then(l.base.guardErr) }) })
}

// underlayChanged asks anew for our addresses and the routes in use.
func (l *loop) underlayChanged() {
	l.look.post(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		addrs, err := l.cfg.Underlay.Addrs(ctx)
		cancel()
		if err != nil {
			addrs = nil
		}
		l.box.post(func() {
			for _, f := range families {
				l.homeIs(f, l.cfg.Trust.home(addrs, f), time.Now())
			}
		})
	})
}

// routeTo looks up the way to remote and calls then in the loop.
func (l *loop) routeTo(remote netip.Addr, then func(Route, error)) {
	l.look.post(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		r, err := l.cfg.Underlay.Route(ctx, remote)
		cancel()
		if r.OnLink {
			r.Via = remote
		}
		if err == nil && (r.NextHop == tap.MAC{} || !r.Local.IsValid() || !r.Via.IsValid()) {
			err = errNoNextHop
		}
		l.box.post(func() { then(r, err) })
	})
}

var errNoNextHop = errors.New("bypass: the underlay told no next hop")

// detaching is a call of Detach that waits until nothing leads to its port.
type detaching struct {
	member *Member
	ofport uint32
	done   chan struct{}
}

// detached lets go those whose port no rule names any more.
func (l *loop) detached() {
	l.releasing = false
	l.detaching = slices.DeleteFunc(l.detaching, func(d detaching) bool {
		for _, e := range d.member.flows {
			if e.t.phase != phaseOverlay && !e.t.bare && e.t.ends.Ofport == d.ofport {
				return false
			}
		}
		l.setBase(d.done)
		return true
	})
}

// attached tells whether the workload at ofport is m's, and there to stay.
func (l *loop) attached(m *Member, ofport uint32) bool {
	w, ok := l.base.workloads[ofport]
	return ok && w.member == m
}

// restoreAfter gathers what vanishes at once, and bounds what somebody costs us who
// deletes our rules again and again. Flows wait longer before they start again.
const restoreAfter = 200 * time.Millisecond

// restore writes all that is wanted anew, now that rules of ours have vanished: who
// deleted them may have deleted the rest too, of which no switch tells. Until the next
// renewal, flows would start again on a switch without gates.
func (l *loop) restore(now time.Time) {
	if l.lost {
		return
	}
	l.lost = true
	l.timers.add(now.Add(restoreAfter), func() {
		l.lost = false
		l.setBase(nil)
		l.flushBase()
		for _, p := range l.sortedPeers() {
			clear(p.gates)
			l.renewPeer(p, time.Now())
		}
	})
}
