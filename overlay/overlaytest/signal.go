package overlaytest

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/viasnet/vias/overlay"
)

// mailbox is how many messages wait at most for a peer; more are lost.
const mailbox = 256

// signaler implements overlay.Signaler.
type signaler struct {
	net       *Net
	id        overlay.PeerID
	inbox     chan signal
	done      chan struct{}
	closeOnce sync.Once
}

type signal struct {
	from overlay.PeerID
	msg  []byte
}

// SignalOpener opens a Signaler in n. When an identity opens another one, that one
// gets its messages from then on.
func (n *Net) SignalOpener() overlay.SignalOpener {
	return func(ctx context.Context, id *overlay.Identity) (overlay.Signaler, error) {
		return n.openSignaler(ctx, id.ID())
	}
}

// SignalImpostor opens a Signaler that sends and receives as victim: signalling is
// not trusted, so this must do no more harm than noise.
func (n *Net) SignalImpostor(victim overlay.PeerID) overlay.SignalOpener {
	return func(ctx context.Context, _ *overlay.Identity) (overlay.Signaler, error) {
		return n.openSignaler(ctx, victim)
	}
}

func (n *Net) openSignaler(ctx context.Context, id overlay.PeerID) (overlay.Signaler, error) {
	if err := ctx.Err(); err != nil {
		return nil, &overlay.OpError{Op: "signal", Err: err}
	}
	s := &signaler{net: n, id: id, inbox: make(chan signal, mailbox), done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.signalers[id] = s
	return s, nil
}

// Send puts a copy of msg into to's mailbox.
func (s *signaler) Send(ctx context.Context, to overlay.PeerID, msg []byte) error {
	if err := s.ended(ctx); err != nil {
		return &overlay.OpError{Op: "signal", Peer: to, Err: err}
	}
	if len(msg) > overlay.MaxSignal {
		return &overlay.OpError{Op: "signal", Peer: to, Err: fmt.Errorf("message of %d bytes is longer than %d", len(msg), overlay.MaxSignal)}
	}
	n := s.net
	n.mu.Lock()
	defer n.mu.Unlock()
	loss, dup := n.signalRand.Float64(), n.signalRand.Float64()
	far := n.signalers[to]
	if far == nil || n.deaf[s.id] || n.deaf[to] || loss < n.config.SignalLoss {
		return nil
	}
	far.put(signal{s.id, slices.Clone(msg)})
	if dup < n.config.SignalDup {
		far.put(signal{s.id, slices.Clone(msg)})
	}
	return nil
}

func (s *signaler) put(m signal) {
	select {
	case s.inbox <- m:
	default:
	}
}

func (s *signaler) ended(ctx context.Context) error {
	select {
	case <-s.done:
		return overlay.ErrClosed
	default:
		return ctx.Err()
	}
}

// Recv waits for a message.
func (s *signaler) Recv(ctx context.Context) (from overlay.PeerID, msg []byte, err error) {
	if err := s.ended(ctx); err != nil {
		return from, nil, &overlay.OpError{Op: "signal", Err: err}
	}
	select {
	case m := <-s.inbox:
		return m.from, m.msg, nil
	case <-s.done:
		return from, nil, &overlay.OpError{Op: "signal", Err: overlay.ErrClosed}
	case <-ctx.Done():
		return from, nil, &overlay.OpError{Op: "signal", Err: context.Cause(ctx)}
	}
}

// Close is idempotent.
func (s *signaler) Close() error {
	s.closeOnce.Do(func() {
		close(s.done)
		s.net.mu.Lock()
		defer s.net.mu.Unlock()
		if s.net.signalers[s.id] == s {
			delete(s.net.signalers, s.id)
		}
	})
	return nil
}
