package natssignal

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/viasnet/vias/overlay"
)

const inboxDepth = 256

// Signaler implements overlay.Signaler. All methods may be called by several goroutines.
type Signaler struct {
	*client
	inbox chan *nats.Msg
	wg    sync.WaitGroup
}

// Stats counts what happened to a Signaler.
type Stats struct {
	// Dropped messages: too long, of a malformed subject, or over a full queue.
	Dropped uint64
	// Connected: how often a connection was made.
	Connected uint64
	// PresenceFailed: how often presence could not be put.
	PresenceFailed uint64
}

// Connect opens a Signaler for id. It does not wait for a server: if none is there it is
// looked for in the background, as whenever the connection is lost, with a back-off of
// 0.1 s to 10 s. Send waits for a connection as long as its context lets it; Recv just
// goes on. A server that refuses us is asked again too.
func Connect(ctx context.Context, config Config, id *overlay.Identity) (*Signaler, error) {
	c, err := newClient(ctx, config, id)
	if err != nil {
		return nil, err
	}
	s := &Signaler{client: c, inbox: make(chan *nats.Msg, inboxDepth)}
	if _, err := s.conn.ChanSubscribe(prefix+s.token+"."+s.self.String()+".*", s.inbox); err != nil {
		s.end(err)
		s.conn.Close()
		return nil, fmt.Errorf("natssignal: subscribe: %w", err)
	}
	if !s.config.NoPresence {
		s.wg.Go(s.announce)
	}
	return s, nil
}

// Send publishes msg, over the next connection if there is none now.
func (s *Signaler) Send(ctx context.Context, to overlay.PeerID, msg []byte) error {
	if err := s.send(ctx, to, msg); err != nil {
		return &overlay.OpError{Op: "signal", Peer: to, Err: err}
	}
	return nil
}

func (s *Signaler) send(ctx context.Context, to overlay.PeerID, msg []byte) error {
	if len(msg) > overlay.MaxSignal {
		return fmt.Errorf("message of %d bytes is longer than %d", len(msg), overlay.MaxSignal)
	}
	for {
		next := s.connection()
		if err := s.ended(); err != nil {
			return err
		}
		err := s.conn.Publish(subject(s.token, to, s.self), msg)
		if !errors.Is(err, nats.ErrReconnectBufExceeded) {
			return err
		}
		select {
		case <-next:
		case <-s.life.Done():
			return s.ended()
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("no connection to a NATS server: %w", context.Cause(ctx)), s.conn.LastError())
		}
	}
}

// Recv returns the next message, over however many connections.
func (s *Signaler) Recv(ctx context.Context) (from overlay.PeerID, msg []byte, err error) {
	fail := func(err error) (overlay.PeerID, []byte, error) {
		return overlay.PeerID{}, nil, &overlay.OpError{Op: "signal", Err: err}
	}
	if err := s.ended(); err != nil {
		return fail(err)
	}
	for {
		select {
		case m := <-s.inbox:
			from, err := sender(m.Subject)
			if err != nil || len(m.Data) > overlay.MaxSignal {
				s.counters.dropped.Add(1)
				continue
			}
			return from, m.Data, nil
		case <-s.life.Done():
			return fail(s.ended())
		case <-ctx.Done():
			return fail(context.Cause(ctx))
		}
	}
}

// Stats is a snapshot.
func (s *Signaler) Stats() Stats {
	return Stats{
		Dropped: s.counters.dropped.Load(), Connected: s.counters.connected.Load(),
		PresenceFailed: s.counters.presence.Load(),
	}
}

// Close takes back our presence, ends the connection and waits for the goroutines. It
// is idempotent.
func (s *Signaler) Close() error {
	s.end(overlay.ErrClosed)
	s.wg.Wait()
	s.conn.Close()
	return nil
}
