package ovsdb

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"time"
)

// DefaultAddress is where Debian's packages, and most others, have the socket.
const DefaultAddress = "unix:/var/run/openvswitch/db.sock"

// Config says which database. The zero value is the system's.
type Config struct {
	// Address is "unix:PATH", "tcp:HOST:PORT" or "ssl:HOST:PORT"; "" = DefaultAddress.
	Address string
	// TLS is for "ssl:"; nil = the system's roots, and no certificate of ours.
	TLS *tls.Config
	// Probe is how long the server may say nothing before it is asked for an echo, and
	// again until it is given up; 0 = 5 s.
	Probe time.Duration
	// RetryMin and RetryMax bound the wait between attempts to connect, which doubles each
	// time; 0 = 100 ms and 5 s.
	RetryMin, RetryMax time.Duration
	// Logger is told about lost connections; nil = silent.
	Logger *slog.Logger
}

// maxMessage bounds one message of the server's, in bytes: the whole content comes in one.
const maxMessage = 64 << 20

// Watcher watches one database. It may be run several times, not at once.
type Watcher struct {
	cfg           Config
	network, addr string
}

// New checks cfg; nothing is opened.
func New(cfg Config) (*Watcher, error) {
	if cfg.Address == "" {
		cfg.Address = DefaultAddress
	}
	if cfg.Probe <= 0 {
		cfg.Probe = 5 * time.Second
	}
	if cfg.RetryMin <= 0 {
		cfg.RetryMin = 100 * time.Millisecond
	}
	if cfg.RetryMax < cfg.RetryMin {
		cfg.RetryMax = max(5*time.Second, cfg.RetryMin)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	network, addr, _ := strings.Cut(cfg.Address, ":")
	if addr == "" || network != "unix" && network != "tcp" && network != "ssl" {
		return nil, fmt.Errorf("ovsdb: address %q is none of unix:PATH, tcp:HOST:PORT, ssl:HOST:PORT", cfg.Address)
	}
	return &Watcher{cfg: cfg, network: network, addr: addr}, nil
}

// Run calls f with a whole View after every change, from one goroutine, until ctx ends
// (nil). f must not block. While the server is away Run tries to reach it.
func (w *Watcher) Run(ctx context.Context, f func(*View)) error {
	for wait := w.cfg.RetryMin; ctx.Err() == nil; {
		seen := false
		err := w.once(ctx, func(v *View) { seen = true; f(v) })
		if ctx.Err() != nil {
			break
		}
		if seen {
			wait = w.cfg.RetryMin
		}
		pause := wait/2 + rand.N(wait/2+1)
		w.cfg.Logger.Warn("ovsdb: the database is away", "err", err, "retry", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		wait = min(2*wait, w.cfg.RetryMax)
	}
	return nil
}

// errEnough ends a session that has brought what was wanted.
var errEnough = errors.New("ovsdb: enough")

// Look is one View, from a connection of its own.
func (w *Watcher) Look(ctx context.Context) (*View, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var view *View
	err := w.once(ctx, func(v *View) {
		if view == nil {
			view = v
			cancel(errEnough)
		}
	})
	if view != nil {
		return view, nil
	}
	return nil, err
}

// once is one connection, until it is lost or ctx ends: always an error.
func (w *Watcher) once(ctx context.Context, f func(*View)) error {
	c, err := w.dial(ctx)
	if err != nil {
		return fmt.Errorf("ovsdb: connect: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() }) // wakes the reader
	defer func() {
		stop()
		_ = c.Close()
	}()
	s := &session{c: c, probe: w.cfg.Probe, f: f}
	err = s.run()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("ovsdb: %w", err)
}

func (w *Watcher) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*w.cfg.Probe)
	defer cancel()
	switch w.network {
	case "ssl":
		d := tls.Dialer{Config: w.cfg.TLS}
		return d.DialContext(ctx, "tcp", w.addr)
	default:
		var d net.Dialer
		return d.DialContext(ctx, w.network, w.addr)
	}
}

// monitored is what a monitor request asks for.
func monitored() map[string]any {
	columns := func(names ...string) map[string]any { return map[string]any{"columns": names} }
	return map[string]any{
		"Bridge":    columns("name", "datapath_type", "external_ids", "ports"),
		"Port":      columns("name", "tag", "trunks", "external_ids", "interfaces"),
		"Interface": columns("name", "type", "ofport", "mac_in_use", "error", "external_ids", "status"),
	}
}

// message is a request, a notification or a response.
type message struct {
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	ID     json.RawMessage `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}
