package natssignal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/viasnet/vias/overlay"
)

const (
	// dialTimeout bounds a connection's making, and so how long Connect takes at most
	// for each server that is there and silent.
	dialTimeout = 2 * time.Second
	// A server that answers none of maxPings is given up, and another one tried.
	pingInterval = 5 * time.Second
	maxPings     = 2
	backoffFirst = 100 * time.Millisecond
	backoffLast  = 10 * time.Second
	inboxDepth   = 256
)

// Signaler implements overlay.Signaler. All methods may be called by several goroutines.
type Signaler struct {
	config   Config
	id       *overlay.Identity
	self     overlay.PeerID
	token    string
	conn     *nats.Conn
	inbox    chan *nats.Msg
	life     context.Context // ends with Close, or with the connection for good
	end      context.CancelCauseFunc
	wg       sync.WaitGroup
	counters counters

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when a connection is there
}

type counters struct {
	dropped, connected, presence atomic.Uint64
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
	if err := config.complete(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("natssignal: open: %w", err)
	}
	s := &Signaler{
		config: config, id: id, self: id.ID(), token: NetworkToken(config.Network),
		inbox:   make(chan *nats.Msg, inboxDepth),
		changed: make(chan struct{}),
	}
	s.life, s.end = context.WithCancelCause(context.Background())
	if err := s.open(); err != nil {
		s.end(err)
		return nil, err
	}
	if !config.NoPresence {
		s.wg.Go(s.announce)
	}
	return s, nil
}

func (s *Signaler) open() error {
	opts, err := s.options()
	if err != nil {
		return err
	}
	if s.conn, err = opts.Connect(); err != nil {
		return fmt.Errorf("natssignal: connect: %w", err)
	}
	if _, err := s.conn.ChanSubscribe(prefix+s.token+"."+s.self.String()+".*", s.inbox); err != nil {
		s.conn.Close()
		return fmt.Errorf("natssignal: subscribe: %w", err)
	}
	return nil
}

// options are the client's. Its own reconnecting and back-off are all there is.
func (s *Signaler) options() (nats.Options, error) {
	o := nats.GetDefaultOptions()
	o.Name = "vias " + s.self.Short()
	o.InProcessServer = s.config.InProcess
	o.InboxPrefix = inboxPrefix(s.self)
	o.Timeout = dialTimeout
	o.CustomDialer = dialer{s}
	o.PingInterval, o.MaxPingsOut = s.config.pingInterval, maxPings
	o.RetryOnFailedConnect, o.MaxReconnect = true, -1
	o.IgnoreAuthErrorAbort = true
	o.CustomReconnectDelayCB = backoff
	o.ReconnectBufSize = -1 // what waits longer than Send does is of no use
	o.ConnectedCB = func(*nats.Conn) { s.isConnected() }
	o.ReconnectedCB = func(*nats.Conn) { s.isConnected() }
	o.DisconnectedErrCB = func(_ *nats.Conn, err error) {
		s.config.Logger.Debug("natssignal: connection lost", "err", err)
	}
	o.ClosedCB = func(c *nats.Conn) { s.end(c.LastError()) } // nothing, after Close
	o.AsyncErrorCB = func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrSlowConsumer) {
			s.counters.dropped.Add(1)
		}
		s.config.Logger.Debug("natssignal: reported by the client", "err", err)
	}
	more := []nats.Option{nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
		s.config.Logger.Debug("natssignal: no connection", "err", err)
	})}
	o.Servers = s.config.Servers
	if s.config.TLS != nil {
		more = append(more, nats.Secure(s.config.TLS))
	}
	login, err := s.login()
	if err != nil {
		return o, err
	}
	for _, opt := range append(more, login...) {
		if err := opt(&o); err != nil {
			return o, fmt.Errorf("natssignal: options: %w", err)
		}
	}
	return o, nil
}

// login is how we say who we are.
func (s *Signaler) login() ([]nats.Option, error) {
	c := &s.config
	switch {
	case c.Credentials != "":
		return []nats.Option{nats.UserCredentials(c.Credentials)}, nil
	case c.NKey != "":
		o, err := nats.NkeyOptionFromSeed(c.NKey)
		if err != nil {
			return nil, fmt.Errorf("natssignal: nkey %s: %w", c.NKey, err)
		}
		return []nats.Option{o}, nil
	case c.Token != "":
		return []nats.Option{nats.Token(c.Token)}, nil
	case c.User != "":
		return []nats.Option{nats.UserInfo(c.User, c.Password)}, nil
	}
	return []nats.Option{ProofOption(s.id)}, nil
}

// dialer dials until Close.
type dialer struct{ *Signaler }

// Dial implements nats.CustomDialer.
func (d dialer) Dial(network, address string) (net.Conn, error) {
	n := net.Dialer{Timeout: dialTimeout}
	return n.DialContext(d.life, network, address)
}

// backoff is how long to wait when all servers were tried so many times. Half of it by
// chance, lest all clients of a restarted server come at once.
func backoff(attempts int) time.Duration {
	wait := min(backoffFirst<<min(max(attempts-1, 0), 10), backoffLast)
	return wait/2 + rand.N(wait/2)
}

func (s *Signaler) isConnected() {
	s.counters.connected.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// connection returns a channel that is closed with the next connection.
func (s *Signaler) connection() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// ended is why there is nothing more to do; nil = there is.
func (s *Signaler) ended() error {
	if s.life.Err() == nil {
		return nil
	}
	if cause := context.Cause(s.life); !errors.Is(cause, context.Canceled) && !errors.Is(cause, overlay.ErrClosed) {
		return fmt.Errorf("%w: %w", overlay.ErrClosed, cause)
	}
	return overlay.ErrClosed
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
