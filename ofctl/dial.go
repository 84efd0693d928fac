package ofctl

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// Dial connects to the switch at address, "unix:PATH", "tcp:HOST:PORT" or
// "ssl:HOST:PORT" (TLS, with Config.TLS; "tls:" is the same), and finds out what it can
// do (nothing in its tables is touched). ctx bounds Dial only; the connection lasts
// until Close or until it is lost.
func Dial(ctx context.Context, address string, cfg Config) (*Conn, error) {
	network, addr, err := parseAddress(address)
	if err != nil {
		return nil, fmt.Errorf("ofctl: dial %q: %w", address, err)
	}
	var d net.Dialer
	dial := d.DialContext
	if network == "ssl" {
		if cfg.TLS == nil {
			return nil, fmt.Errorf("ofctl: dial %s: %w", address, errNoTLS)
		}
		network, dial = "tcp", (&tls.Dialer{Config: cfg.TLS}).DialContext
	}
	nc, err := dial(ctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("ofctl: dial: %w", err)
	}
	c, err := NewConn(ctx, nc, cfg)
	if err != nil {
		return nil, fmt.Errorf("ofctl: dial %s: %w", address, err)
	}
	return c, nil
}

// Dialer is Dial with address and cfg given, for whoever redials by itself.
func Dialer(address string, cfg Config) func(context.Context) (Switch, error) {
	return func(ctx context.Context) (Switch, error) {
		c, err := Dial(ctx, address, cfg)
		if err != nil {
			return nil, err // not a *Conn that is nil
		}
		return c, nil
	}
}

var (
	errAddress = errors.New("address is neither unix:PATH nor tcp:HOST:PORT nor ssl:HOST:PORT")
	errNoTLS   = errors.New("Config.TLS is missing")
)

func parseAddress(address string) (network, addr string, err error) {
	network, addr, ok := strings.Cut(address, ":")
	switch {
	case !ok:
	case network == "tls":
		return "ssl", addr, nil
	case network == "unix", network == "tcp", network == "ssl":
		return network, addr, nil
	}
	return "", "", errAddress
}

// Listen opens a socket for switches that dial in, as those with a set-controller do:
// address is as Dial's. Serve accepts from it.
func Listen(address string, cfg Config) (net.Listener, error) {
	network, addr, err := parseAddress(address)
	switch {
	case err != nil:
		return nil, fmt.Errorf("ofctl: listen on %q: %w", address, err)
	case network == "ssl" && cfg.TLS == nil:
		return nil, fmt.Errorf("ofctl: listen on %s: %w", address, errNoTLS)
	}
	plain := network
	if network == "ssl" {
		plain = "tcp"
	}
	l, err := net.Listen(plain, addr)
	if err != nil {
		return nil, fmt.Errorf("ofctl: listen: %w", err)
	}
	if network == "ssl" {
		l = tls.NewListener(l, cfg.TLS)
	}
	return l, nil
}

// acceptPause is how long Serve waits after a failure to accept, such as one for want
// of file descriptors, that may pass.
const acceptPause = 50 * time.Millisecond

// Serve accepts switches that dial in until ctx ends (nil) or l is closed. Each gets a
// goroutine of its own, in which handle is called with its connection when the handshake
// is done, one that fails is told to Config.Logger; a switch that is slow to shake hands
// holds up no other. When handle returns, the connection is closed; handle's ctx ends
// with Serve's. Serve closes l, and returns when no handle runs any more.
func Serve(ctx context.Context, l net.Listener, cfg Config, handle func(context.Context, *Conn)) error {
	cfg = cfg.withDefaults()
	ctx, cancel := context.WithCancel(ctx)
	var sessions sync.WaitGroup
	defer sessions.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			sessions.Go(func() { serveSwitch(ctx, nc, cfg, handle) })
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("ofctl: serve: %w", err)
		default:
			cfg.Logger.Warn("ofctl: cannot accept", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
		}
	}
}

func serveSwitch(ctx context.Context, nc net.Conn, cfg Config, handle func(context.Context, *Conn)) {
	c, err := NewConn(ctx, nc, cfg)
	if err != nil {
		cfg.Logger.Warn("ofctl: switch gave no handshake", "from", nc.RemoteAddr(), "err", err)
		return
	}
	defer c.Close()
	handle(ctx, c)
}
