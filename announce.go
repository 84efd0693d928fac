package vias

import (
	"context"
	"slices"
	"sync"

	"github.com/viasnet/vias/internal/control"
	"github.com/viasnet/vias/internal/l2"
	"github.com/viasnet/vias/tap"
)

// announcer keeps every linked peer's picture of our endpoints. On each session
// the first message says all (its base is 0), those that follow what changed.
type announcer struct {
	dirty chan struct{} // our endpoints may have changed
	also  func()        // has to know, too; it does not block

	mu   sync.Mutex // guards what follows and serialises announcements
	list map[tap.MAC]l2.Endpoint
}

func (a *announcer) init() {
	a.dirty, a.list = make(chan struct{}, 1), map[tap.MAC]l2.Endpoint{}
}

// changed says that our endpoints may have changed. It does not block.
func (a *announcer) changed() {
	select {
	case a.dirty <- struct{}{}:
	default:
	}
	if a.also != nil {
		a.also()
	}
}

// announceChanges tells all linked peers what changed. Changes that come while it
// works are told together.
func (n *Network) announceChanges(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.told.dirty:
		}
		n.announceDelta()
	}
}

func (n *Network) announceDelta() {
	a := &n.told
	a.mu.Lock()
	defer a.mu.Unlock()
	conns := n.conns() // no earlier: who comes up meanwhile is told of the list as it was, and of the change by nobody
	var add []l2.Endpoint
	var remove []tap.MAC
	next := map[tap.MAC]l2.Endpoint{}
	for _, e := range n.shared.Stations.Locals() {
		next[e.MAC] = e
		if old, ok := a.list[e.MAC]; !ok || !old.Equal(e) {
			add = append(add, e)
		}
	}
	for m := range a.list {
		if _, ok := next[m]; !ok {
			remove = append(remove, m)
		}
	}
	a.list = next
	if len(add)+len(remove) == 0 {
		return
	}
	for _, c := range conns {
		if c.announced != 0 { // else announceAll is about to tell it all
			c.tell(c.announced, add, remove)
		}
	}
}

// announceAll tells a new session everything.
func (n *Network) announceAll(c *conn) {
	a := &n.told
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]l2.Endpoint, 0, len(a.list))
	for _, e := range a.list {
		list = append(list, e)
	}
	c.tell(0, list, nil)
}

// withdraw tells all linked peers that we have no endpoints, for what it is worth:
// the links are about to be closed.
func (n *Network) withdraw() {
	n.told.mu.Lock()
	defer n.told.mu.Unlock()
	n.told.list = map[tap.MAC]l2.Endpoint{}
	for _, c := range n.conns() {
		c.tell(0, nil, nil)
		_ = c.flush() // the link may be gone, and that is fine
	}
}

// tell queues announcements, in chunks that fit a message. A session that takes no
// more is ended: the next one begins with everything. The announcer's mu is held.
func (c *conn) tell(base uint64, add []l2.Endpoint, remove []tap.MAC) {
	for first := true; first || len(add)+len(remove) > 0; first = false {
		k, j := min(len(add), control.AnnounceChunk), min(len(remove), l2.MaxAnnounced)
		if k > 0 && j > control.AnnounceChunk {
			j = control.AnnounceChunk // so that both fit
		}
		c.announced++
		b, err := control.EncodeAnnouncement(l2.Announcement{Version: c.announced, Base: base, Add: add[:k], Remove: remove[:j]})
		if err != nil || !c.queue(control.ChannelAnnounce, b) {
			c.network.log.Warn("announcing failed; the link starts anew", "peer", c.peer.id.Short(), "err", err)
			c.close()
			return
		}
		base, add, remove = c.announced, add[k:], remove[j:]
	}
}

// conns lists the links whose session is up.
func (n *Network) conns() []*conn {
	n.mu.Lock()
	peers := make([]*peer, 0, len(n.peers))
	for _, p := range n.peers {
		peers = append(peers, p)
	}
	n.mu.Unlock()
	var list []*conn
	for _, p := range peers {
		p.mu.Lock()
		c := p.conn
		p.mu.Unlock()
		if c != nil && c.isUp() {
			list = append(list, c)
		}
	}
	return list
}

// stationsChanged tells everybody who has to know.
func (n *Network) stationsChanged(c l2.Change) {
	if c.Empty() {
		return
	}
	n.finder.forget(c.Down)
	n.finder.poke()
	local := false
	for _, s := range c.Down {
		local = local || s.Local()
		if !s.Local() && !slices.ContainsFunc(c.Up, func(u *l2.Station) bool { return u.MAC == s.MAC && u.Peer == s.Peer }) {
			n.hub.emit(EndpointDown{s.Peer, s.Name, s.MAC})
		}
	}
	for _, s := range c.Up {
		local = local || s.Local()
		if !s.Local() {
			n.hub.emit(EndpointUp{s.Peer, s.Name, s.MAC})
		}
	}
	for _, x := range c.Conflicts {
		n.hub.emit(Conflict{x.Claimer, x.Holder, x.MAC, x.IP})
		n.log.Warn("an announced address is somebody else's", "claimer", x.Claimer.Short(), "holder", x.Holder.Short(), "mac", x.MAC, "ip", x.IP)
	}
	for _, s := range c.Freed {
		if !s.Learned {
			n.intros.add(s.Name)
		}
	}
	if local {
		n.told.changed()
	}
	if r := n.running.Load(); r != nil && r.member != nil {
		r.member.Recheck()
	}
}
