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

// post signs a message of the session and queues it.
func (t *Transport) post(s *session, kind uint8) error {
	m := &message{
		Version: messageVersion, Kind: kind,
		From: t.self[:], To: s.peer[:], Session: s.id[:],
		Time:  time.Now().UnixMilli(),
		Ufrag: s.ufrag, Pwd: s.pwd, Candidates: s.offered,
	}
	b, err := t.signer.seal(m)
	if err != nil {
		return err
	}
	if kind == kindAnswer {
		s.reply.Store(&b)
	}
	t.send(s.peer, b)
	return nil
}

// send never blocks: what matters is sent again.
func (t *Transport) send(to overlay.PeerID, msg []byte) {
	select {
	case t.outbox <- outgoing{to, msg}:
	default:
		t.dropped.Add(1)
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
				t.dropped.Add(1)
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
	if m.Kind == kindOffer {
		t.offered(e, m)
		return nil
	}
	t.mu.Lock()
	s := t.calls[sessionID(m.Session)]
	t.mu.Unlock()
	if s == nil || s.peer != from {
		return nil // an answer that was repeated, or came too late
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
