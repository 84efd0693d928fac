package main

import (
	"cmp"
	"context"
	"errors"
	"net"
	"time"

	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/icedtls"
)

// retryTime is how often the node looks for what is missing.
const retryTime = time.Second

// missing logs what the node waits for, once per reason, and waits a little.
type missing struct {
	node *node
	what string
	last string
}

// pause returns false when ctx ended.
func (m *missing) pause(ctx context.Context, err error) bool {
	if reason := oneLine(err); reason != m.last && ctx.Err() == nil {
		m.node.log.Warn("waiting for "+m.what, "reason", reason)
		m.last = reason
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(retryTime):
		return true
	}
}

// found ends a wait.
func (m *missing) found() {
	if m.last != "" {
		m.node.log.Info("no longer waiting for " + m.what)
		m.last = ""
	}
}

// transport opens the overlay, as soon as its address is there and free.
func (n *node) transport(signal overlay.SignalOpener) overlay.Opener {
	listen := n.cfg.Listen
	open := icedtls.Open(icedtls.Config{
		Signal:          signal,
		Listen:          listen,
		STUN:            n.cfg.STUN,
		Relays:          relays(n.cfg),
		DTLSOnly:        n.cfg.DTLSOnly,
		IncludeLoopback: listen.Addr().IsLoopback(),
		// A path through the overlay's own device would be a loop.
		Interfaces: func(name string) bool { return name != n.cfg.TAP.Name },
	})
	return func(ctx context.Context, env overlay.Env) (overlay.Transport, error) {
		m := missing{node: n, what: "the overlay's address " + listen.String()}
		for {
			t, err := open(ctx, env)
			var op *net.OpError
			switch {
			case err == nil:
				m.found()
				return t, nil
			case !errors.As(err, &op) || op.Op != "listen":
				return nil, err
			}
			if !m.pause(ctx, err) {
				return nil, ctx.Err()
			}
		}
	}
}

// defaultLasting is how long credentials of a shared secret are good.
const defaultLasting = time.Hour

// relays are the configuration's in the library's form.
func relays(cfg *nodecfg.Config) []icedtls.Relay {
	var list []icedtls.Relay
	for _, r := range cfg.Relays {
		x := icedtls.Relay{URL: r.URL, Username: r.Username, Password: r.Password}
		if r.Secret != "" {
			lasting := cmp.Or(time.Duration(r.Lasting), defaultLasting)
			x.Credentials = icedtls.TimedCredentials(r.Secret, cmp.Or(r.Username, "vias"), lasting)
		}
		list = append(list, x)
	}
	return list
}
