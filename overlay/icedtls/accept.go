package icedtls

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/viasnet/vias/overlay"
)

// offered handles an offer: its form, receiver and time are checked.
func (t *Transport) offered(e *envelope, m *message) {
	id, from := sessionID(m.Session), overlay.PeerID(m.From)
	t.mu.Lock()
	in := t.inbound[from]
	seen := t.seen.has(id)
	full := in == nil && len(t.inbound) >= maxInbound
	t.mu.Unlock()
	switch {
	case in != nil && in.id == id: // it has not heard our answer
		if reply := in.reply.Load(); reply != nil {
			t.send(from, *reply)
		}
		return
	case seen:
		return
	case full: // it will offer again
		return
	case !t.limits.offers.take():
		t.drops.add(causeSignals)
		return
	case e.verify(from) != nil:
		t.wrongKey.Add(1)
		return
	case t.env.Admission.Admit(from, m.Credential) != nil:
		t.refuse(id, from)
		return
	}
	t.begin(id, from, m)
}

// refuse tells a peer that proved who it is. The offer is not remembered: should
// the refusal be lost, the next one is refused again.
func (t *Transport) refuse(id sessionID, from overlay.PeerID) {
	t.refused.Add(1)
	if !t.limits.refusals.take() {
		return
	}
	s := &session{id: id, peer: from}
	if _, err := t.post(s, kindRefusal, 0, nil); err != nil {
		t.log.Warn("refusal not sent", "peer", from.Short(), "err", err)
	}
}

// begin starts a session that a peer asked for, unless our own dial goes first.
func (t *Transport) begin(id sessionID, from overlay.PeerID, m *message) {
	s := t.newSession(id, from, false)
	ctx, cancel := context.WithCancelCause(t.life)
	s.cancel = cancel
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.dials[from]
	ours := d != nil && d.call != nil && t.self.Compare(from) < 0
	if t.closed || ours || len(t.inbound) >= maxInbound && t.inbound[from] == nil {
		cancel(nil)
		return
	}
	if old := t.inbound[from]; old != nil {
		old.cancel(errors.New("the peer began anew"))
	}
	if d != nil && d.call != nil {
		d.call(errYielded)
	}
	t.inbound[from] = s
	t.seen.add(id)
	t.wg.Go(func() { t.answer(ctx, s, m) })
}

// answer runs an inbound session to its end.
func (t *Transport) answer(ctx context.Context, s *session, m *message) {
	defer s.cancel(nil)
	ctx, cancel := context.WithTimeoutCause(ctx, t.config.DialTimeout, errNoAnswer)
	defer cancel()
	l, err := t.makeInbound(ctx, s, m)
	if err != nil {
		s.close()
		t.log.Info("inbound link failed", "peer", s.peer.Short(), "err", err)
	}
	t.mu.Lock()
	if t.inbound[s.peer] == s {
		delete(t.inbound, s.peer)
	}
	if d := t.dials[s.peer]; d != nil && l != nil && len(d.got) == 0 {
		d.got <- l // there is room, and only mu's holder puts in
		l = nil
	}
	close(s.done)
	t.mu.Unlock()
	if l != nil {
		t.deliver(l)
	}
}

func (t *Transport) makeInbound(ctx context.Context, s *session, m *message) (*link, error) {
	g, err := s.start(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := t.post(s, kindAnswer, 0, g); err != nil {
		return nil, err
	}
	if len(m.Candidates) == 0 {
		more, err := t.candidates(ctx, s)
		if err != nil {
			return nil, err
		}
		m.Candidates = more.Candidates
	}
	l, err := s.establish(ctx, g, m)
	switch {
	case errors.Is(err, overlay.ErrWrongPeer):
		t.wrongKey.Add(1)
		return nil, err
	case err != nil:
		return nil, err
	}
	return t.complete(l)
}

// candidates waits for those of a dialler that had not admitted us when it made its
// offer. The answer is repeated until they come.
func (t *Transport) candidates(ctx context.Context, s *session) (*message, error) {
	wait := offerFirst
	again := time.NewTimer(wait)
	defer again.Stop()
	for {
		select {
		case m := <-s.answers:
			return m, nil
		case <-again.C:
			if reply := s.reply.Load(); reply != nil {
				t.send(s.peer, *reply)
			}
			wait = min(2*wait, offerLast)
			again.Reset(wait)
		case <-ctx.Done():
			return nil, fmt.Errorf("no candidates: %w", context.Cause(ctx))
		}
	}
}

// deliver gives l to Accept.
func (t *Transport) deliver(l *link) {
	select {
	case t.accepted <- l:
	default:
		t.log.Warn("link dropped: nobody accepts", "peer", l.Peer().Short())
		_ = l.Close()
	}
}
