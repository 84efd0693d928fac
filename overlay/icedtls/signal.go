package icedtls

import (
	"context"
	"errors"
	"time"

	"github.com/viasnet/vias/overlay"
)

const (
	signalWait  = 2 * time.Second // for one Send
	signalPause = 500 * time.Millisecond
)

type outgoing struct {
	to  overlay.PeerID
	msg []byte
}

// post signs a message of the session about a generation, which is nil where there is none, and
// queues it.
func (t *Transport) post(s *session, kind uint8, number uint32, g *generation) ([]byte, error) {
	m := &message{
		Version: messageVersion, Kind: kind,
		From: t.self[:], To: s.peer[:], Session: s.id[:],
		Time: time.Now().UnixMilli(), Generation: number,
	}
	t.fill(m, g)
	b, err := t.signer.seal(m)
	if err != nil {
		return nil, err
	}
	if kind == kindAnswer || kind == kindCandidates {
		s.reply.Store(&b)
	}
	t.send(s.peer, b)
	return b, nil
}

// fill puts into m what its kind tells. Nobody is told where we are before our own rule
// admits them: the peer of an answer or of candidates was, that of an offer may not have been.
func (t *Transport) fill(m *message, g *generation) {
	switch m.Kind {
	case kindOffer:
		m.Ufrag, m.Pwd, m.Credential = g.ufrag, g.pwd, t.env.Admission.Credential()
		if g.session.told {
			m.Candidates = g.offered
		}
	case kindAnswer:
		m.Ufrag, m.Pwd, m.Credential, m.Candidates = g.ufrag, g.pwd, t.env.Admission.Credential(), g.offered
	case kindCandidates:
		m.Candidates = g.offered
	case kindRestart, kindUpgrade, kindAgain: // the Link stands, so both admitted each other
		m.Ufrag, m.Pwd, m.Candidates = g.ufrag, g.pwd, g.offered
	}
}

// send never blocks: what matters is sent again.
func (t *Transport) send(to overlay.PeerID, msg []byte) {
	select {
	case t.outbox <- outgoing{to, msg}:
	default:
		t.drops.add(causeSignals)
	}
}

// writeSignals is the goroutine that talks to the Signaler.
func (t *Transport) writeSignals(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case o := <-t.outbox:
			sctx, cancel := context.WithTimeout(ctx, signalWait)
			err := t.signaler.Send(sctx, o.to, o.msg)
			cancel()
			if err != nil && ctx.Err() == nil {
				t.log.Debug("signal not sent", "peer", o.to.Short(), "err", err)
			}
		}
	}
}

// readSignals is the goroutine that listens to the Signaler.
func (t *Transport) readSignals(ctx context.Context) {
	for {
		from, b, err := t.signaler.Recv(ctx)
		switch {
		case err == nil:
			if err := t.signalled(from, b, time.Now()); err != nil {
				t.drops.add(causeSignals)
				t.log.Debug("signal dropped", "peer", from.Short(), "err", err)
			}
		case ctx.Err() != nil, errors.Is(err, overlay.ErrClosed):
			return
		default:
			t.log.Warn("signalling failed", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(signalPause):
			}
		}
	}
}

func (t *Transport) signalled(from overlay.PeerID, b []byte, now time.Time) error {
	e, m, err := t.signer.parse(b)
	if err != nil {
		return err
	}
	if err := m.addressed(from, t.self, now); err != nil {
		return err
	}
	switch {
	case m.Kind == kindOffer:
		t.offered(e, m)
		return nil
	case m.Kind >= kindRestart:
		return t.mended(e, m)
	}
	s := t.sessionOf(from, m)
	if s == nil {
		return nil // repeated, or too late
	}
	if reply := s.reply.Load(); reply != nil && m.Kind == kindAnswer {
		t.send(from, *reply) // it has not heard our candidates
		return nil
	}
	if err := e.verify(from); err != nil {
		s.impostors.Do(func() { close(s.impostor) })
		return err
	}
	select {
	case s.answers <- m:
	default:
	}
	return nil
}

// sessionOf is the session that m, which is no offer, is about; nil = none.
func (t *Transport) sessionOf(from overlay.PeerID, m *message) *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.calls[sessionID(m.Session)]
	if m.Kind == kindCandidates {
		s = t.inbound[from]
	}
	if s == nil || s.peer != from || s.id != sessionID(m.Session) {
		return nil
	}
	return s
}
