// Package xmppsignal is signalling over XMPP (RFC 6120), for networks that have such a
// server, as IPOP's do.
//
// Every node has an account whose name is its PeerID, at one domain. A message is a
// headline to the receiver's account (which servers pass on to who is there, and do not
// keep) with one element:
//
//	<message type="headline" to="PEERID@DOMAIN">
//	  <signal xmlns="urn:vias:signal:1" network="blue">BASE64</signal>
//	</message>
//
// The sender is the account that the server says it is from. What comes from another
// domain, or for another network, is dropped. STARTTLS is a must, and so is the server's
// certificate; the password goes by SCRAM, or inside TLS.
//
// The server sees who is there, from where, who talks to whom, when and how much, and
// the messages; it can lose, delay, repeat, change and invent them. Package sealed keeps
// them from it. Many servers bound what a client may send a second (Prosody as Debian
// configures it: 10 kB/s): that delays links, and loses nothing.
package xmppsignal

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"mellium.im/xmpp/jid"

	"github.com/viasnet/vias/overlay"
)

// Config describes a Signaler.
type Config struct {
	// Server is HOST:PORT. Required.
	Server string
	// Domain of the accounts, and what the server's certificate is for. Required.
	Domain string
	// Password of the account that is named like the identity. Required.
	Password string
	// Network's name. Required: other networks' messages do not come here.
	Network string
	// TLS; nil = the system's authorities. ServerName is Domain unless it is set.
	TLS *tls.Config
	// Logger; nil = silent.
	Logger *slog.Logger
}

const maxNetwork = 64 // bytes

func (c *Config) complete() error {
	switch {
	case c.Domain == "":
		return errors.New("xmppsignal: Config.Domain is missing")
	case c.Password == "":
		return errors.New("xmppsignal: Config.Password is missing")
	case c.Network == "" || len(c.Network) > maxNetwork:
		return fmt.Errorf("xmppsignal: Config.Network has to have 1 to %d bytes", maxNetwork)
	}
	if host, port, err := net.SplitHostPort(c.Server); err != nil || host == "" || port == "" {
		return fmt.Errorf("xmppsignal: Config.Server %q is no HOST:PORT", c.Server)
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.TLS != nil {
		t = c.TLS.Clone()
	}
	if t.ServerName == "" {
		t.ServerName = c.Domain
	}
	c.TLS = t
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Open returns an opener of Signalers. The opener does not wait for the server: a
// Signaler connects in the background, and again whenever it loses its connection, with
// a back-off of 0.1 s to 10 s. Send waits for a connection as long as its context lets
// it; Recv just goes on.
func Open(config Config) overlay.SignalOpener {
	return func(ctx context.Context, id *overlay.Identity) (overlay.Signaler, error) {
		c := config
		if err := c.complete(); err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("xmppsignal: open: %w", err)
		}
		self, err := jid.New(id.ID().String(), c.Domain, "")
		if err != nil {
			return nil, fmt.Errorf("xmppsignal: Config.Domain: %w", err)
		}
		return start(c, self), nil
	}
}
