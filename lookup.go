package vias

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/viasnet/vias/overlay"
)

// lookup asks the directory, and takes its answer.
func (f *finder) lookup(ctx context.Context, t target) {
	one, cancel := context.WithTimeout(ctx, lookupTimeout)
	claims, err := f.directory.Lookup(one, t.key())
	cancel()
	now := time.Now()
	if ctx.Err() == nil {
		f.network.directoryAnswered(err, now)
	}
	if err != nil {
		f.failed(t, now)
		f.poke()
		return
	}
	e, ok := f.network.pick(f.verify(t, claims, now), now)
	f.mu.Lock()
	f.asking--
	if s := f.searches[t]; s != nil {
		s.take(e, ok, now)
	}
	if ok {
		f.knowLocked(t, answer{e, true, now.Add(hitTime)}, now)
	}
	f.mu.Unlock()
	f.hold(t, e.Peer)
	f.poke()
}

// failed has a look-up repeated that the directory did not answer.
func (f *finder) failed(t target, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asking--
	if s := f.searches[t]; s != nil {
		s.asking = false
		s.failures++
		s.due = now.Add(retryAfter(s.failures - 1))
	}
}

// verify opens the claims to t and leaves out what is not good. Those that are left are in their
// order.
func (f *finder) verify(t target, claims []overlay.Claim, now time.Time) (list []overlay.Entry) {
	slices.SortStableFunc(claims, func(a, b overlay.Claim) int { return cmp.Compare(a.Order, b.Order) })
	for _, c := range claims[:min(len(claims), overlay.MaxClaims)] {
		r, err := overlay.OpenEntry(f.network.config.Name, c.Signed)
		if err != nil || !t.of(r.Entry) || r.CheckTime(now) != nil || !f.newest(r.Entry) {
			continue
		}
		list = append(list, r.Entry)
	}
	return list
}

// newest tells whether an entry is not older than one that was seen before.
func (f *finder) newest(e overlay.Entry) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	who := claimant{e.Peer, e.MAC}
	if e.Sequence < f.seen[who] {
		return false
	}
	if len(f.seen) >= maxKnown {
		clear(f.seen)
	}
	f.seen[who] = e.Sequence
	return true
}

// pick is the first entry whose node is not known to be unreachable; if all are, the first. What
// we published ourselves is of no use: what is attached here is known.
func (n *Network) pick(list []overlay.Entry, now time.Time) (first overlay.Entry, ok bool) {
	for _, e := range list {
		switch {
		case e.Peer == n.self:
		case !n.unreachable(e.Peer, now):
			return e, true
		case !ok:
			first, ok = e, true
		}
	}
	return first, ok
}

// unreachable tells whether a peer has no link, and dialling it failed lately.
func (n *Network) unreachable(id overlay.PeerID, now time.Time) bool {
	n.mu.Lock()
	p := n.peers[id]
	n.mu.Unlock()
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn == nil && !p.failed.IsZero() && now.Sub(p.failed) < unreachableFor
}
