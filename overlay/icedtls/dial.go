package icedtls

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/viasnet/vias/overlay"
)

const (
	offerFirst = 300 * time.Millisecond
	offerLast  = 2 * time.Second
	// impostorGrace is how long the true peer may still answer after somebody
	// with another key did.
	impostorGrace = time.Second
	// maxDials are under way at once, whose peers answer; more wait for their turn. A thousand
	// handshakes at the same time would take the processor for longer than Links may be silent. One
	// takes a few round trips, so this is some 100 a second over the Internet.
	maxDials = 64
)

var (
	errNoAnswer = errors.New("no answer in time")
	// errYielded ends our call since the peer's own makes the Link.
	errYielded = errors.New("the peer dials us")
)

// dial is a Dial under way, one for a peer at a time. It makes calls until one
// works; when the peer dials too, the Link may come by got instead.
type dial struct {
	peer overlay.PeerID
	got  chan *link // room for one
	done chan struct{}
	call context.CancelCauseFunc // ends the call under way; guarded by tables.mu
	turn bool                    // it holds one of Transport.turns; its goroutine's
}

// Dial makes a Link. See the package comment for what happens when both ends do.
func (t *Transport) Dial(ctx context.Context, peer overlay.PeerID) (overlay.Link, error) {
	l, err := t.dial(ctx, peer)
	if err != nil {
		return nil, &overlay.OpError{Op: "dial", Peer: peer, Err: err}
	}
	return l, nil
}

func (t *Transport) dial(ctx context.Context, peer overlay.PeerID) (*link, error) {
	if peer == t.self {
		return nil, fmt.Errorf("%w: it is ourselves", overlay.ErrUnreachable)
	}
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	defer context.AfterFunc(t.life, func() { abort(overlay.ErrClosed) })()
	d, err := t.beginDial(ctx, peer)
	if err != nil {
		return nil, err
	}
	l, err := t.awaitTurn(ctx, d)
	if l == nil && err == nil {
		l, err = t.attempt(ctx, d)
	}
	t.endTurn(d)
	return t.endDial(d, l, err)
}

// awaitTurn waits until few enough Dials are under way, or the peer's own makes the Link.
func (t *Transport) awaitTurn(ctx context.Context, d *dial) (*link, error) {
	select {
	case t.turns <- struct{}{}:
		d.turn = true
		return nil, nil
	case l := <-d.got:
		return l, nil
	case <-ctx.Done():
		return nil, dialError(ctx, "wait for other dials", nil)
	}
}

// endTurn lets the next one begin.
func (t *Transport) endTurn(d *dial) {
	if d.turn {
		<-t.turns
		d.turn = false
	}
}

// beginDial waits until no other Dial to peer is under way.
func (t *Transport) beginDial(ctx context.Context, peer overlay.PeerID) (*dial, error) {
	d := &dial{peer: peer, got: make(chan *link, 1), done: make(chan struct{})}
	for {
		t.mu.Lock()
		other := t.dials[peer]
		if other == nil {
			t.dials[peer] = d
		}
		t.mu.Unlock()
		if other == nil {
			return d, nil
		}
		select {
		case <-other.done:
		case <-ctx.Done():
			return nil, dialError(ctx, "another Dial is under way", nil)
		}
	}
}

// endDial settles which Link the Dial returns, if the peer's dial made one as well.
func (t *Transport) endDial(d *dial, l *link, err error) (*link, error) {
	t.mu.Lock()
	delete(t.dials, d.peer)
	close(d.done)
	t.mu.Unlock()
	select {
	case late := <-d.got:
		if l == nil {
			return late, nil
		}
		t.deliver(late)
	default:
	}
	return l, err
}

func (t *Transport) attempt(ctx context.Context, d *dial) (*link, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.config.DialTimeout, errNoAnswer)
	defer cancel()
	for {
		l, err := t.call(ctx, d)
		if !errors.Is(err, errYielded) {
			return l, err
		}
		t.mu.Lock()
		in := t.inbound[d.peer]
		t.mu.Unlock()
		if in != nil {
			select {
			case <-in.done:
			case <-ctx.Done():
				return nil, dialError(ctx, "the peer's own dial", nil)
			}
		}
		select {
		case l := <-d.got:
			return l, nil
		default: // it failed: try again ourselves
		}
	}
}

// call makes one session of our own.
func (t *Transport) call(ctx context.Context, d *dial) (_ *link, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := t.newSession(newSessionID(), d.peer, true)
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if !t.beginCall(d, s, cancel) {
		return nil, errYielded
	}
	defer t.endCall(d, s)
	g, err := s.start(ctx)
	if err != nil {
		return nil, dialError(ctx, "gather candidates", err)
	}
	s.told = t.env.Admission.Admit(d.peer, nil) == nil
	answer, err := t.offer(ctx, d, s, g)
	if err != nil {
		return nil, err
	}
	if err := t.answered(s, g, answer); err != nil {
		return nil, err
	}
	l, err := s.establish(ctx, g, answer)
	switch {
	case errors.Is(err, overlay.ErrWrongPeer):
		t.wrongKey.Add(1)
		return nil, err
	case err != nil:
		return nil, dialError(ctx, "connect", err)
	}
	return t.complete(l)
}

// answered is before anything of ours goes to the peer's addresses: may it be linked? It is
// told our candidates then, if the offer did not.
func (t *Transport) answered(s *session, g *generation, answer *message) error {
	if err := t.env.Admission.Admit(s.peer, answer.Credential); err != nil {
		t.refused.Add(1)
		return fmt.Errorf("%w: %w", overlay.ErrNotAdmitted, err)
	}
	if s.told {
		return nil
	}
	_, err := t.post(s, kindCandidates, 0, g)
	return err
}

// complete is the last step to a Link, of both ends.
func (t *Transport) complete(l *link) (*link, error) {
	if !t.adopt(l) {
		_ = l.Close()
		return nil, overlay.ErrClosed
	}
	if err := t.env.Admission.Admit(l.Peer(), nil); err != nil { // no longer
		t.refused.Add(1)
		_ = l.Close()
		return nil, fmt.Errorf("%w: %w", overlay.ErrNotAdmitted, err)
	}
	return l, nil
}

// beginCall says no when the peer's call is under way already.
func (t *Transport) beginCall(d *dial, s *session, cancel context.CancelCauseFunc) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inbound[d.peer] != nil || len(d.got) > 0 {
		return false
	}
	d.call = cancel
	t.calls[s.id] = s
	return true
}

func (t *Transport) endCall(d *dial, s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d.call = nil
	delete(t.calls, s.id)
}

// offer sends the offer until it is answered. A peer that does not answer at once has no share in the
// work of handshakes: it keeps nobody waiting, and goes on when it answers.
func (t *Transport) offer(ctx context.Context, d *dial, s *session, g *generation) (*message, error) {
	again := time.NewTimer(0)
	defer again.Stop()
	var grace <-chan time.Time
	impostor := s.impostor
	for wait, first := offerFirst, true; ; {
		select {
		case m := <-s.answers:
			if m.Kind == kindRefusal {
				return nil, overlay.ErrRefused
			}
			return m, nil
		case <-again.C:
			if _, err := t.post(s, kindOffer, 0, g); err != nil {
				return nil, dialError(ctx, "offer", err)
			}
			if !first {
				t.endTurn(d)
			}
			first = false
			again.Reset(wait)
			wait = min(2*wait, offerLast)
		case <-impostor:
			impostor, grace = nil, time.After(impostorGrace)
		case <-grace:
			return nil, overlay.ErrWrongPeer
		case <-ctx.Done():
			return nil, dialError(ctx, "signalling", nil)
		}
	}
}

// dialError is what a Dial fails with: the reason that ctx ended for, or err.
func dialError(ctx context.Context, step string, err error) error {
	cause := context.Cause(ctx)
	switch {
	case errors.Is(cause, overlay.ErrClosed), errors.Is(cause, errYielded):
		return cause
	case cause == nil:
		cause = err
	case err != nil && !errors.Is(err, cause):
		// Both: what was under way says more than "no answer in time".
		return fmt.Errorf("%w: %s: %w: %w", overlay.ErrUnreachable, step, err, cause)
	}
	return fmt.Errorf("%w: %s: %w", overlay.ErrUnreachable, step, cause)
}

func newSessionID() (id sessionID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}
