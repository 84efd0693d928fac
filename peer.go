package vias

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/viasnet/vias/internal/control"
	"github.com/viasnet/vias/overlay"
)

// Times of peer management.
const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = 10 * time.Second
	// stableTime is how long a link must have lasted for the next dial to come at once.
	stableTime = 10 * time.Second
	// patience is how long the higher PeerID waits for the lower one to dial. It
	// dials then: the lower one may admit us without having added us.
	patience  = 5 * time.Second
	guestTime = time.Minute // how long an admitted, not added peer is remembered without a link
	maxGuests = 4096
)

// peer is somebody we link to. Its goroutine is run.
type peer struct {
	network *Network
	id      overlay.PeerID
	offered chan overlay.Link // links that the peer made, newest only
	life    context.Context   // ended by halt; a field since there may be no goroutine yet
	cancel  context.CancelFunc
	gone    atomic.Bool   // it was removed
	ended   chan struct{} // closed when run is over
	nudge   chan struct{} // dial now
	ask     chan struct{} // traffic wants a link
	ours    bool          // it was we who dialled the link; run's own
	before  *peer         // an earlier peer of this ID, removed, whose run may not be over

	// Guarded by Network.mu.
	added, started bool

	met atomic.Bool // it was linked: there may be stations and bypassed flows of it

	mu     sync.Mutex // guards what follows
	state  PeerState
	since  time.Time
	err    error
	retry  time.Time
	conn   *conn     // while linked
	asked  time.Time // when traffic wanted a link last
	failed time.Time // when it could not be linked; zero: it could, the last time
	closed bool      // no more offers
}

func (n *Network) newPeerLocked(id overlay.PeerID, before *peer) *peer {
	if before != nil && !before.started {
		before = before.before
	}
	p := &peer{network: n, id: id, offered: make(chan overlay.Link, 1),
		nudge: make(chan struct{}, 1), ask: make(chan struct{}, 1), ended: make(chan struct{}), before: before, since: time.Now()}
	p.life, p.cancel = context.WithCancel(context.Background())
	n.peers[id] = p
	select {
	case n.wake <- struct{}{}:
	default:
	}
	return p
}

// AddPeer says that this node shall be linked to a peer, which is so admitted unless
// there is a Config.Admission to ask. It is intent: it returns at once, and is legal
// before Run. Adding a peer again changes nothing.
func (n *Network) AddPeer(id overlay.PeerID) error {
	var err error
	n.mu.Lock()
	defer n.mu.Unlock()
	switch p := n.peers[id]; {
	case id.IsZero():
		err = fmt.Errorf("%w: the zero peer ID", ErrInvalid)
	case id == n.self:
		err = fmt.Errorf("%w: it is our own ID", ErrInvalid)
	case n.phase == stopping:
		err = ErrClosed
	case p == nil:
		n.newPeerLocked(id, nil).added = true
	case p.removed():
		n.newPeerLocked(id, p).added = true
	case !p.added:
		p.added = true
		p.nudge <- struct{}{} // there is room: it happens once
	}
	if err != nil {
		return &OpError{"add peer", n.config.Name, err}
	}
	return nil
}

// RemovePeer undoes AddPeer: the link is closed when it returns; bypassed flows to
// the peer are taken down, and what it announced is forgotten, soon after. A peer
// that Config.Admission lets in may come back by itself.
func (n *Network) RemovePeer(id overlay.PeerID) {
	n.mu.Lock()
	p := n.peers[id]
	if p == nil || p.removed() {
		n.mu.Unlock()
		return
	}
	p.gone.Store(true)
	if !p.started && p.before == nil {
		delete(n.peers, id)
	}
	n.mu.Unlock()
	if c := p.halt(); c != nil {
		n.shared.Ports.Remove(c.port)
		c.close()
	}
}

func (p *peer) removed() bool { return p.gone.Load() }

// halt ends the peer's goroutine, now or when there is one, once its link, whose conn it returns, is
// closed.
func (p *peer) halt() *conn {
	p.cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn
}

// runPeers starts the goroutine of every peer.
func (n *Network) runPeers(ctx context.Context, r *running) error {
	var wg sync.WaitGroup
	for {
		n.mu.Lock()
		for _, p := range n.peers {
			if !p.started && !p.removed() {
				p.started = true
				wg.Add(1)
				go p.run(r, wg.Done)
			}
		}
		n.mu.Unlock()
		select {
		case <-ctx.Done():
			n.haltPeers()
			wg.Wait()
			return nil
		case <-n.wake:
		}
	}
}

// haltPeers ends all peers' goroutines and links.
func (n *Network) haltPeers() {
	n.mu.Lock()
	peers := slices.Collect(maps.Values(n.peers))
	n.mu.Unlock()
	for _, p := range peers { // those before them were removed, and so halted
		if c := p.halt(); c != nil {
			c.end(nil)
		}
	}
}

// acceptLinks hands links that peers make to their goroutines.
func (n *Network) acceptLinks(ctx context.Context, r *running) error {
	for {
		link, err := r.transport.Accept(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return n.ended(fmt.Errorf("accept: %w", err))
		}
		if p := n.peerOf(link.Peer()); p == nil || !p.offer(link) {
			_ = link.Close()
		}
	}
}

// peerOf is the peer that made a link; nil if it is not admitted (any more).
func (n *Network) peerOf(id overlay.PeerID) *peer {
	if n.admit(id, nil) != nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.peers[id]
	switch {
	case n.phase == stopping:
		return nil
	case p != nil && !p.removed():
		return p
	case len(n.peers) >= maxGuests:
		return nil
	}
	return n.newPeerLocked(id, p)
}

// offer hands a link over, in place of an earlier one that was not taken yet.
func (p *peer) offer(link overlay.Link) bool {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return false
	}
	var old overlay.Link
	select {
	case old = <-p.offered:
	default:
	}
	p.offered <- link // there is room: only mu's holder puts in
	c := p.conn
	p.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
	if c != nil {
		c.end(errReplaced)
	}
	return true
}

// forgetGuests removes peers that were only admitted and have had no link for long.
func (n *Network) forgetGuests(now time.Time) {
	var old []overlay.PeerID
	n.mu.Lock()
	for id, p := range n.peers {
		if !p.added {
			p.mu.Lock()
			if p.conn == nil && now.Sub(p.since) > guestTime {
				old = append(old, id)
			}
			p.mu.Unlock()
		}
	}
	n.mu.Unlock()
	for _, id := range old {
		n.RemovePeer(id)
	}
}

// run links to the peer, again and again, until it is halted.
func (p *peer) run(r *running, done func()) {
	defer done()
	defer close(p.ended)
	if p.before != nil {
		<-p.before.ended
		p.before = nil
	}
	p.linkUntil(p.life, r)
	p.finish(r)
}

// linkUntil alternates between connecting and serving.
func (p *peer) linkUntil(ctx context.Context, r *running) {
	var next overlay.Link
	retry := backoff{}
	for {
		link := next
		p.ours = false
		if next = nil; link == nil {
			link = p.connect(ctx, r, &retry)
		}
		if ctx.Err() != nil {
			if link != nil {
				_ = link.Close()
			}
			return
		}
		if link == nil {
			continue
		}
		begun := time.Now()
		var err error
		var linked bool
		next, linked, err = p.serve(ctx, r, link)
		if linked && time.Since(begun) >= stableTime {
			retry = backoff{}
		} else if next == nil {
			retry.fail(time.Now())
		}
		if !linked && next == nil {
			p.failedNow(time.Now())
		}
		p.note(PeerConnecting, err, retry.due)
	}
}

// finish leaves nothing of the peer.
func (p *peer) finish(r *running) {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	select {
	case link := <-p.offered:
		_ = link.Close()
	default:
	}
	if !p.removed() {
		return // the Network ends
	}
	n := p.network
	n.mu.Lock()
	if q := n.peers[p.id]; q == p || q != nil && q.before == p && q.removed() && !q.started {
		delete(n.peers, p.id)
	}
	n.mu.Unlock()
	n.stationsChanged(n.shared.Stations.Forget(p.id))
	if r.member != nil {
		r.member.Forget(p.id)
	}
}

// note keeps what Peers shows.
func (p *peer) note(s PeerState, err error, retry time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != s {
		p.state, p.since = s, time.Now()
	}
	if err != nil {
		p.err = err
	}
	p.retry = retry
}

// refusal tells whether a link ended because of who the peer is.
func refusal(err error) bool {
	return errors.Is(err, control.ErrNetwork) || errors.Is(err, control.ErrVersion) || errors.Is(err, control.ErrProtocol)
}
