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
)

// client is a connection that comes back by itself, of an identity in a network.
type client struct {
	config   Config // complete
	id       *overlay.Identity
	self     overlay.PeerID
	token    string
	conn     *nats.Conn
	life     context.Context // ends with Close, or with the connection for good
	end      context.CancelCauseFunc
	counters counters
	refused  atomic.Bool // by a server, which we said

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when a connection is there
}

type counters struct {
	dropped, connected, presence atomic.Uint64
}

// newClient does not wait for a server.
func newClient(ctx context.Context, config Config, id *overlay.Identity) (*client, error) {
	if err := config.complete(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("natssignal: open: %w", err)
	}
	c := &client{
		config: config, id: id, self: id.ID(), token: NetworkToken(config.Network), changed: make(chan struct{}),
	}
	c.life, c.end = context.WithCancelCause(context.Background())
	opts, err := c.options()
	if err == nil {
		if c.conn, err = opts.Connect(); err != nil {
			err = fmt.Errorf("natssignal: connect: %w", err)
		}
	}
	if err != nil {
		c.end(err)
		return nil, err
	}
	return c, nil
}

// options are the client's. Its own reconnecting and back-off are all there is.
func (s *client) options() (nats.Options, error) {
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
	more := []nats.Option{nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { s.failed(err) })}
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
func (s *client) login() ([]nats.Option, error) {
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
	return []nats.Option{ProofOption(s.id, c.Credential)}, nil
}

// dialer dials until Close.
type dialer struct{ *client }

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

// failed: a server could not be connected to. That it does not want us is said once.
func (s *client) failed(err error) {
	if errors.Is(err, nats.ErrAuthorization) && !s.refused.Swap(true) {
		s.config.Logger.Warn("natssignal: the server refuses us; it is asked again", "err", err)
		return
	}
	s.config.Logger.Debug("natssignal: no connection", "err", err)
}

func (s *client) isConnected() {
	s.counters.connected.Add(1)
	s.refused.Store(false)
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// connection returns a channel that is closed with the next connection.
func (s *client) connection() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// ended is why there is nothing more to do; nil = there is.
func (s *client) ended() error {
	if s.life.Err() == nil {
		return nil
	}
	if cause := context.Cause(s.life); !errors.Is(cause, context.Canceled) && !errors.Is(cause, overlay.ErrClosed) {
		return fmt.Errorf("%w: %w", overlay.ErrClosed, cause)
	}
	return overlay.ErrClosed
}
