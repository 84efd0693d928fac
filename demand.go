package vias

import (
	"context"
	"errors"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/flowtable"
	"github.com/viasnet/vias/overlay"
)

// DefaultIdleLink is Config.IdleLink's default.
const DefaultIdleLink = 10 * time.Minute

// demandTime is how long a wish for a link lasts that nobody repeats.
const demandTime = time.Second

// errIdle ends a link that nobody uses.
var errIdle = errors.New("nobody used the link")

// demand says that traffic wants a link to a peer now. It does not block.
func (n *Network) demand(id overlay.PeerID) {
	n.mu.Lock()
	p := n.peers[id]
	if n.phase == stopping || id == n.self || id.IsZero() || (p == nil || p.removed()) && len(n.peers) >= maxGuests {
		n.mu.Unlock()
		return
	}
	if p == nil || p.removed() {
		p = n.newPeerLocked(id, p)
	}
	n.mu.Unlock()
	p.mu.Lock()
	p.asked = time.Now()
	p.mu.Unlock()
	select {
	case p.ask <- struct{}{}:
	default:
	}
}

// await returns a link that the peer made, or that we dialled because traffic asked for it;
// nil: dialling failed, or ctx ended. It is for peers that were not added.
func (p *peer) await(ctx context.Context, r *running, retry *backoff) overlay.Link {
	var due <-chan time.Time
	for {
		select {
		case link := <-p.offered:
			return link
		case <-ctx.Done():
			return nil
		case <-p.nudge:
			return p.dial(ctx, r, retry) // it was added
		case <-p.ask:
			if due == nil {
				t := time.NewTimer(timeTo(retry.due))
				defer t.Stop()
				due = t.C
			}
		case now := <-due:
			if due = nil; p.stillAsked(now) {
				return p.dial(ctx, r, retry)
			}
		}
	}
}

func (p *peer) stillAsked(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return now.Sub(p.asked) < demandTime
}

// failedNow notes that the peer could not be linked; zero: that it could.
func (p *peer) failedNow(at time.Time) {
	p.mu.Lock()
	p.failed = at
	p.mu.Unlock()
	p.network.finder.poke()
}

// idle is what watchLinks knows of a link's use.
type idle struct {
	frames uint64
	since  time.Time
}

// checkIdle ends a link that we dialled, of a peer that was not added, if no frame to one station went
// by it for Config.IdleLink, and no flow with the peer is bypassed. Who was dialled does not
// know whether the other end wants the link to stay.
func (c *conn) checkIdle(now time.Time) error {
	n := c.network
	if n.finder == nil || n.config.IdleLink < 0 || !c.ours {
		return nil
	}
	if used := c.port.Unicast(); used != c.idle.frames || c.idle.since.IsZero() {
		c.idle = idle{used, now}
		return nil
	}
	if now.Sub(c.idle.since) < n.config.IdleLink || c.peer.wanted() {
		return nil
	}
	if n.bypasses(c.peer.id) {
		c.idle.since = now
		return nil
	}
	return errIdle
}

// bypasses tells whether a flow with the peer has left the overlay, or is about to.
func (n *Network) bypasses(id overlay.PeerID) (some bool) {
	if n.config.Bypass == nil {
		return false
	}
	n.shared.Flows.Each(func(e *flowtable.Entry) bool {
		state, _ := e.State()
		some = state != bypass.OnOverlay && e.Peer() == id
		return !some
	})
	return some
}
