package overlaytest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/viasnet/vias/overlay"
)

// backlog is how many Links wait at most for Accept.
const backlog = 64

// transport implements overlay.Transport.
type transport struct {
	net *Net
	env overlay.Env
	// claim is the ID others reach it by: its own, but for an impostor.
	claim     overlay.PeerID
	accepted  chan *link
	done      chan struct{}
	closeOnce sync.Once

	// Guarded by net.mu.
	links map[*link]struct{}
	dials map[overlay.PeerID]*dial

	refused, wrongKey, tooLong, full atomic.Uint64
}

// dial is a Dial under way. Its peer puts our end of the Link into got when the
// dial the other way wins.
type dial struct {
	got  chan *link
	done chan struct{}
}

// Opener opens a Transport in n. A peer can be open once at a time.
func (n *Net) Opener() overlay.Opener {
	return func(ctx context.Context, env overlay.Env) (overlay.Transport, error) {
		return n.open(ctx, env.Identity.ID(), env)
	}
}

// Impostor opens a Transport that others reach as victim and that says to be
// victim, but holds its own key.
func (n *Net) Impostor(victim overlay.PeerID) overlay.Opener {
	return func(ctx context.Context, env overlay.Env) (overlay.Transport, error) {
		return n.open(ctx, victim, env)
	}
}

func (n *Net) open(ctx context.Context, claim overlay.PeerID, env overlay.Env) (overlay.Transport, error) {
	if err := ctx.Err(); err != nil {
		return nil, &overlay.OpError{Op: "open", Err: err}
	}
	t := &transport{
		net: n, env: env, claim: claim,
		accepted: make(chan *link, backlog),
		done:     make(chan struct{}),
		links:    map[*link]struct{}{},
		dials:    map[overlay.PeerID]*dial{},
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.transports[claim] != nil {
		return nil, &overlay.OpError{Op: "open", Peer: claim, Err: errors.New("open already")}
	}
	n.transports[claim] = t
	n.wakeLocked()
	return t, nil
}

// Dial makes a Link. When both ends dial at once, the dial of the lower PeerID
// makes the Link and both Dials return it; no Accept does.
func (t *transport) Dial(ctx context.Context, peer overlay.PeerID) (overlay.Link, error) {
	l, err := t.dial(ctx, peer)
	if err != nil {
		return nil, &overlay.OpError{Op: "dial", Peer: peer, Err: err}
	}
	return l, nil
}

func (t *transport) dial(ctx context.Context, peer overlay.PeerID) (*link, error) {
	if peer == t.claim {
		return nil, fmt.Errorf("%w: it is ourselves", overlay.ErrUnreachable)
	}
	d, err := t.beginDial(ctx, peer)
	if err != nil {
		return nil, err
	}
	timeout := time.NewTimer(t.net.config.DialTimeout)
	defer timeout.Stop()
	l, err := t.connect(ctx, peer, d, timeout.C)
	if late := t.endDial(peer, d); l == nil && late != nil {
		return late, nil
	}
	return l, err
}

// beginDial waits until no other Dial to peer is under way.
func (t *transport) beginDial(ctx context.Context, peer overlay.PeerID) (*dial, error) {
	d := &dial{got: make(chan *link, 1), done: make(chan struct{})}
	for {
		t.net.mu.Lock()
		other := t.dials[peer]
		if other == nil {
			t.dials[peer] = d
			t.net.mu.Unlock()
			return d, nil
		}
		t.net.mu.Unlock()
		if err := t.await(ctx, other.done, nil); err != nil {
			return nil, err
		}
	}
}

// endDial returns the Link that the peer's dial made, if nobody has taken it.
func (t *transport) endDial(peer overlay.PeerID, d *dial) *link {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	if t.dials[peer] == d {
		delete(t.dials, peer)
	}
	close(d.done)
	select {
	case l := <-d.got:
		return l
	default:
		return nil
	}
}

func (t *transport) connect(ctx context.Context, peer overlay.PeerID, d *dial, timeout <-chan time.Time) (*link, error) {
	for {
		far, changed := t.net.reach(t.claim, peer)
		if far == nil {
			if err := t.await(ctx, changed, timeout); err != nil {
				return nil, err
			}
			continue
		}
		if delay := t.net.config.Delay; delay > 0 { // offer and answer, and the handshake
			if err := t.await(ctx, after(4*delay), timeout); err != nil {
				return nil, err
			}
		}
		if err := t.check(ctx, far, peer); err != nil {
			return nil, err
		}
		l, wait, err := t.net.join(t, far, d)
		if l != nil || err != nil {
			return l, err
		}
		if err := t.await(ctx, wait, timeout); err != nil {
			return nil, err
		}
	}
}

// after is time.After as a channel that await takes.
func after(d time.Duration) <-chan struct{} {
	c := make(chan struct{})
	time.AfterFunc(d, func() { close(c) })
	return c
}

// check is the handshake: who is who, and may they?
func (t *transport) check(ctx context.Context, far *transport, peer overlay.PeerID) error {
	switch {
	case ctx.Err() != nil:
		return unreachable(ctx)
	case far.env.Identity.ID() != peer:
		return overlay.ErrWrongPeer
	case t.env.Identity.ID() != t.claim:
		far.wrongKey.Add(1)
		return fmt.Errorf("%w: no answer", overlay.ErrUnreachable)
	case far.env.Admission.Admit(t.claim, t.env.Admission.Credential()) != nil:
		far.refused.Add(1)
		return overlay.ErrRefused
	}
	if err := t.env.Admission.Admit(peer, far.env.Admission.Credential()); err != nil {
		t.refused.Add(1)
		return fmt.Errorf("%w: %w", overlay.ErrNotAdmitted, err)
	}
	return nil
}

func unreachable(ctx context.Context) error {
	return fmt.Errorf("%w: %w", overlay.ErrUnreachable, context.Cause(ctx))
}

func (t *transport) await(ctx context.Context, ready <-chan struct{}, timeout <-chan time.Time) error {
	select {
	case <-ready:
		return nil
	case <-t.done:
		return overlay.ErrClosed
	case <-ctx.Done():
		return unreachable(ctx)
	case <-timeout:
		return fmt.Errorf("%w: no answer", overlay.ErrUnreachable)
	}
}

// reach finds who answers as peer; changed is closed when that may be another.
func (n *Net) reach(from, peer overlay.PeerID) (far *transport, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut[direction{from, peer}] {
		return nil, n.changed
	}
	return n.transports[peer], n.changed
}

// join makes the two ends of a Link, unless the dial the other way has to: then
// wait is closed when that dial ended.
func (n *Net) join(near, far *transport, d *dial) (l *link, wait <-chan struct{}, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.transports[near.claim] != near {
		return nil, nil, overlay.ErrClosed
	}
	select {
	case l = <-d.got:
		return l, nil, nil
	default:
	}
	if n.transports[far.claim] != far || n.cut[direction{near.claim, far.claim}] {
		return nil, n.changed, nil
	}
	theirs := far.dials[near.claim]
	if theirs != nil && far.claim.Compare(near.claim) < 0 {
		return nil, theirs.done, nil
	}
	if theirs == nil && len(far.accepted) == cap(far.accepted) {
		return nil, nil, fmt.Errorf("%w: backlog full", overlay.ErrUnreachable)
	}
	l, r := n.newLinksLocked(near, far)
	if theirs != nil {
		delete(far.dials, near.claim) // it is served: the next dial gets a Link of its own
		theirs.got <- r
	} else {
		far.accepted <- r // there is room, and only mu's holder puts in
	}
	return l, nil, nil
}

// Accept returns the next Link that a peer made.
func (t *transport) Accept(ctx context.Context) (overlay.Link, error) {
	select {
	case <-t.done:
		return nil, &overlay.OpError{Op: "accept", Err: overlay.ErrClosed}
	default:
	}
	select {
	case l := <-t.accepted:
		return l, nil
	case <-t.done:
		return nil, &overlay.OpError{Op: "accept", Err: overlay.ErrClosed}
	case <-ctx.Done():
		return nil, &overlay.OpError{Op: "accept", Err: context.Cause(ctx)}
	}
}

// Stats is a snapshot.
func (t *transport) Stats() overlay.TransportStats {
	d := overlay.Drops{TooLong: t.tooLong.Load(), Full: t.full.Load()}
	return overlay.TransportStats{
		Refused:  t.refused.Load(),
		WrongKey: t.wrongKey.Load(),
		Dropped:  d.Total(),
		Drops:    d,
	}
}

// Close closes the Links too and tells their peers.
func (t *transport) Close() error {
	t.shut(true)
	return nil
}

func (t *transport) shut(tell bool) {
	t.closeOnce.Do(func() {
		t.net.mu.Lock()
		if t.net.transports[t.claim] == t {
			delete(t.net.transports, t.claim)
		}
		links := make([]*link, 0, len(t.links))
		for l := range t.links {
			links = append(links, l)
		}
		t.net.mu.Unlock()
		close(t.done)
		for _, l := range links {
			l.close(tell)
		}
	})
}
