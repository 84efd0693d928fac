// Package sealed makes any Signaler one whose messages nobody but their receiver can
// read and nobody but their sender can make: it wraps a Signaler in a Signaler. Servers
// and networks in between need not be trusted with more than delivery.
//
// Every message is encrypted to a key of the receiver's (HPKE, RFC 9180, base mode with
// X25519, HKDF-SHA256 and AES-128-GCM), signed by the sender's identity, padded, stamped
// and taken once. Since a PeerID is only the hash of a peer's identity key, the first
// contact with a peer begins with asking for its encryption key, which it signs:
//
//	A → B  ask      a nonce
//	B → A  card     the nonce, B's encryption key and clock, B's identity key, B's signature
//	A → B  sealed   A's encryption key and clock, A's identity key, A's signature, message
//	B → A  sealed   …
//
// A message waits for the card, so no message ever travels in the clear. What is seen
// on the way is who talks to whom, when, in which direction and how much (in steps of
// 256 bytes), and public keys. Encryption keys are made anew with every Signaler and
// every hour, and are never stored.
//
// Clocks need not agree: a sender stamps a message in its receiver's time, which the card
// told. A message is taken within 2 minutes of that. docs/signalling.md has every byte and
// the argument.
//
// What a whole message can have is [MaxMessage] bytes, a little less than the Signaler
// beneath.
package sealed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/viasnet/vias/overlay"
)

// MaxMessage is the longest message in bytes; the rest of overlay.MaxSignal is for the
// envelope.
const MaxMessage = overlay.MaxSignal - 1024

// Config bounds a Signaler. The zero value is fit for some thousand peers.
type Config struct {
	// Admit says whose messages are taken at all; it must not block. Nil = everybody's.
	// Those whom the host's Admission refuses may still have to hear that they are refused.
	Admit func(overlay.PeerID) bool
	// MaxPeers is how many peers are remembered at once. Messages of others are dropped
	// while every one of them has sent something within 4 minutes. Default 4096, which
	// takes 8 MB at the very most.
	MaxPeers int
	// Logger; nil = silent.
	Logger *slog.Logger

	// For tests: what time it is, other than for everybody else.
	clock func() time.Time
}

const (
	defaultMaxPeers = 4096
	inboxDepth      = 256
	outboxDepth     = 256
	postTimeout     = 2 * time.Second
	retryPause      = 100 * time.Millisecond
)

// Signaler implements overlay.Signaler. All methods may be called by several goroutines.
type Signaler struct {
	config   Config
	inner    overlay.Signaler
	own      *author
	inbox    chan message
	outbox   chan outgoing
	life     context.Context // ends with Close, or with inner
	end      context.CancelCauseFunc
	wg       sync.WaitGroup
	limits   limits
	counters counters
	began    time.Time

	mu       sync.Mutex // guards what follows, but is not held for cryptography
	keys     keyring
	contacts contacts
	seen     windows
}

type message struct {
	from overlay.PeerID
	body []byte
}

type outgoing struct {
	to     overlay.PeerID
	packet []byte
}

type counters struct{ refused, replayed, late, dropped atomic.Uint64 }

// Stats counts what did not come through.
type Stats struct {
	// Refused: not encrypted to us, or not signed by whom it was said to be from.
	Refused uint64
	// Replayed: came before.
	Replayed uint64
	// Late: outside of the time that we take a message in.
	Late uint64
	// Dropped: malformed, not admitted, or over a bound.
	Dropped uint64
}

// Open returns an opener of Signalers over those that inner opens, and closes with them.
func Open(inner overlay.SignalOpener, config Config) overlay.SignalOpener {
	return func(ctx context.Context, id *overlay.Identity) (overlay.Signaler, error) {
		in, err := inner(ctx, id)
		if err != nil {
			return nil, err
		}
		s, err := Wrap(in, id, config)
		if err != nil {
			_ = in.Close()
			return nil, err
		}
		return s, nil
	}
}

// Wrap returns a Signaler over inner, which belongs to it from then on.
func Wrap(inner overlay.Signaler, id *overlay.Identity, config Config) (*Signaler, error) {
	if config.Admit == nil {
		config.Admit = func(overlay.PeerID) bool { return true }
	}
	if config.MaxPeers <= 0 {
		config.MaxPeers = defaultMaxPeers
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.clock == nil {
		config.clock = time.Now
	}
	own, err := newAuthor(id)
	if err != nil {
		return nil, err
	}
	s := &Signaler{
		config: config, inner: inner, own: own,
		inbox:  make(chan message, inboxDepth),
		outbox: make(chan outgoing, outboxDepth),
		limits: newLimits(), began: config.clock(),
		contacts: newContacts(config.MaxPeers), seen: newWindows(config.MaxPeers),
	}
	if err := s.keys.renew(s.now()); err != nil {
		return nil, err
	}
	s.life, s.end = context.WithCancelCause(context.Background())
	s.wg.Go(s.read)
	s.wg.Go(s.write)
	return s, nil
}

// now is our clock, in µs: Unix time when the Signaler was opened, and from then on the
// time that passed, whatever is done to the machine's clock.
func (s *Signaler) now() int64 {
	return s.began.UnixMicro() + s.config.clock().Sub(s.began).Microseconds()
}

// Send seals msg, or keeps it until to has told its key. A nil error does not mean that
// it arrives.
func (s *Signaler) Send(ctx context.Context, to overlay.PeerID, msg []byte) error {
	if err := s.send(ctx, to, msg); err != nil {
		var already *overlay.OpError
		if errors.As(err, &already) { // inner's
			return err
		}
		return &overlay.OpError{Op: "signal", Peer: to, Err: err}
	}
	return nil
}

func (s *Signaler) send(ctx context.Context, to overlay.PeerID, msg []byte) error {
	if len(msg) > MaxMessage {
		return fmt.Errorf("message of %d bytes is longer than %d", len(msg), MaxMessage)
	}
	if s.life.Err() != nil {
		return s.ended()
	}
	now := s.now()
	s.mu.Lock()
	key, stamp := s.contacts.to(to, now)
	var ask []byte
	if key == nil {
		s.contacts.keep(to, msg, now)
		ask = s.contacts.ask(to, now)
	}
	s.mu.Unlock()
	if key == nil {
		if ask == nil { // one is under way
			return nil
		}
		return s.inner.Send(ctx, to, ask)
	}
	packet, err := s.seal(to, key, stamp, msg)
	if err != nil {
		return err
	}
	return s.inner.Send(ctx, to, packet)
}

func (s *Signaler) seal(to overlay.PeerID, key *publicKey, stamp int64, msg []byte) ([]byte, error) {
	s.mu.Lock()
	now := s.now()
	reply, err := s.keys.current(now)
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	m := &content{stamp: stamp, reply: reply, clock: now, body: msg}
	_, _ = rand.Read(m.id[:]) // never fails
	return s.own.seal(to, key, m)
}

// post sends without waiting: what matters is sent again.
func (s *Signaler) post(to overlay.PeerID, packet []byte) {
	select {
	case s.outbox <- outgoing{to, packet}:
	default:
		s.counters.dropped.Add(1)
	}
}

// write sends what read posts.
func (s *Signaler) write() {
	for {
		select {
		case <-s.life.Done():
			return
		case o := <-s.outbox:
			ctx, cancel := context.WithTimeout(s.life, postTimeout)
			if err := s.inner.Send(ctx, o.to, o.packet); err != nil && s.life.Err() == nil {
				s.config.Logger.Debug("sealed: not sent", "peer", o.to.Short(), "err", err)
			}
			cancel()
		}
	}
}

// Recv returns the next message; from is who signed it.
func (s *Signaler) Recv(ctx context.Context) (from overlay.PeerID, msg []byte, err error) {
	fail := func(err error) (overlay.PeerID, []byte, error) {
		return overlay.PeerID{}, nil, &overlay.OpError{Op: "signal", Err: err}
	}
	if s.life.Err() != nil {
		return fail(s.ended())
	}
	select {
	case m := <-s.inbox:
		return m.from, m.body, nil
	case <-s.life.Done():
		return fail(s.ended())
	case <-ctx.Done():
		return fail(context.Cause(ctx))
	}
}

func (s *Signaler) ended() error {
	if cause := context.Cause(s.life); errors.Is(cause, overlay.ErrClosed) {
		return cause
	}
	return overlay.ErrClosed
}

// Stats is a snapshot.
func (s *Signaler) Stats() Stats {
	c := &s.counters
	return Stats{Refused: c.refused.Load(), Replayed: c.replayed.Load(), Late: c.late.Load(), Dropped: c.dropped.Load()}
}

// Close closes the inner Signaler too and waits for the goroutines. It is idempotent.
func (s *Signaler) Close() error {
	s.end(overlay.ErrClosed)
	err := s.inner.Close()
	s.wg.Wait()
	return err
}
