package bypass

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/viasnet/vias/overlay"
)

// Two hosts may have two paths, one for each family, of which each is proven, watched and
// lost by itself: what is a peer elsewhere in this package is a peer's path of one family.
// The link, the peer's run and its being removed are common to both.
//
// A host without IPv6 pays nothing for it: its IPv6 path exists only once it has an
// address and a workload for it, or a peer or a flow asks.

// families in the order in which things happen to both.
var families = [...]Family{IPv4, IPv6}

// home is where the host can be reached by one family.
type home struct {
	addr netip.Addr // ours, offered to peers; invalid = none
	why  Reason     // there is none; ReasonNone = it is not known yet
}

// home is our address of one family.
func (l *loop) home(f Family) *home {
	if f == IPv6 {
		return &l.homes[1]
	}
	return &l.homes[0]
}

func (p *peer) key() peerKey { return peerKey{p.member, p.id, p.family} }

// paths are those to a peer that exist.
func (l *loop) paths(m *Member, id overlay.PeerID) []*peer {
	out := make([]*peer, 0, len(families))
	for _, f := range families {
		if p := l.peers[peerKey{m, id, f}]; p != nil {
			out = append(out, p)
		}
	}
	return out
}

// other is the path of the other family to the same peer; nil = there is none.
func (l *loop) other(p *peer) *peer {
	return l.peers[peerKey{p.member, p.id, IPv4 + IPv6 - p.family}]
}

// crowded tells whether p's peer has as many flows as one may have, by both paths.
func (l *loop) crowded(p *peer) bool {
	n := len(p.flows)
	if o := l.other(p); o != nil {
		n += len(o.flows)
	}
	return n >= maxPeerFlows
}

// sortedPeers lists all paths in the order of their coming, so that what happens does not
// depend on chance, and so that they may change while it is walked.
func (l *loop) sortedPeers() []*peer {
	return slices.SortedFunc(maps.Values(l.peers), func(x, y *peer) int { return cmp.Compare(x.number, y.number) })
}

// wants tells whether a Network has a use for paths of a family.
func (l *loop) wants(m *Member, f Family) bool {
	if f == IPv4 {
		return true
	}
	if !l.home(f).addr.IsValid() {
		return false
	}
	for _, w := range l.base.workloads {
		if w.member == m && w.speaks(f) {
			return true
		}
	}
	return false
}

// speaks tells whether flows of a family can come from the workload.
func (w *Workload) speaks(f Family) bool {
	return slices.ContainsFunc(w.IPs, func(a netip.Addr) bool { return FamilyOf(a) == f && unicast(a) })
}

// wake makes, for each linked peer of a Network, the paths for which there is a use now,
// and begins to prove them.
func (l *loop) wake(m *Member, now time.Time) {
	if !l.wants(m, IPv6) {
		return
	}
	for _, p := range l.sortedPeers() {
		if p.member == m && p.family == IPv4 && p.linked {
			l.kick(l.peer(m, p.id, IPv6), now)
		}
	}
}

// runs: messages come from another run of a peer than before.
func (l *loop) runs(m *Member, id overlay.PeerID, epoch uint64, now time.Time) {
	for _, p := range l.paths(m, id) {
		if p.epoch != epoch {
			l.reset(p, epoch, now)
		}
	}
}

// homeIs notes our address of a family. What failed for want of one is tried again.
func (l *loop) homeIs(f Family, is home, now time.Time) {
	h := l.home(f)
	found := is.addr.IsValid() && !h.addr.IsValid()
	*h = is
	for _, p := range l.sortedPeers() {
		if p.family != f {
			continue
		}
		if found {
			p.proof.again(now)
		}
		l.recheckRoute(p)
	}
	if found {
		for m := range l.members {
			l.wake(m, now)
		}
	}
}
