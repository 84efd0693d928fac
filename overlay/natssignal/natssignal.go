// Package natssignal is signalling over NATS (nats.io): one server, a cluster, or
// one that other programs use already. Package embedded beside it is a server in
// the host's own binary.
//
// # Subjects
//
// A message from A to B in network N is published on
//
//	vias.sig.N.B.A
//
// and B subscribes to vias.sig.N.B.*, where A and B are PeerIDs in base32 and N is
// the network's name, escaped ([NetworkToken]). So a server that has accounts can
// say by subject who may read and speak as whom: publish vias.sig.*.*.A and subscribe
// vias.sig.*.A.* are all that A needs. Messages are not stored: one that nobody
// listens for is lost, as a Signaler may lose.
//
// # Presence
//
// A Signaler also says in a JetStream key-value bucket, vias-presence, that it is there:
// a statement that its identity signs, under the key N.A, put again every third of the
// bucket's TTL. It is a hint (see [Signaler.Present]). Signalling neither reads
// nor needs it: without JetStream, with a bucket that is full, was deleted or may not be
// written, messages travel all the same.
//
// # What the server can see and do
//
// It sees who is there, from which address and since when; who sends to whom, when,
// how often and how much; and the messages themselves. It can lose, delay, repeat,
// reorder, change and invent them, and withhold presence or show what was signed
// before. Nothing here prevents that, and TLS does not either, since it ends at the
// server. Wrap the Signaler by package sealed, which encrypts from end to end:
//
//	sealed.Open(natssignal.Open(natssignal.Config{Servers: …, Network: "blue"}), sealed.Config{})
package natssignal

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/viasnet/vias/overlay"
)

// Config describes a Signaler. Exactly one of Credentials, NKey, Token and User may be
// given. With none of them the Signaler proves its PeerID to the server, which is what
// package embedded asks for and other servers ignore (see [Proof]).
type Config struct {
	// Servers are the URLs of a server or of a cluster's members, nats://HOST:PORT or
	// tls://HOST:PORT. Required, unless InProcess is set. More members are learnt from
	// the cluster itself.
	Servers []string
	// Network's name. Required: other networks' messages do not come here.
	Network string

	// Credentials is the path of a .creds file (JWT and nkey seed); it is read again at
	// every connection.
	Credentials string
	// NKey is the path of a file with an nkey seed.
	NKey string
	// Token, or User and Password.
	Token, User, Password string
	// Credential is what the server is shown beside the proof of our PeerID, so that it can
	// tell whether we belong to its network (membership.Member.Certificates): asked at every
	// connection, at most 2,048 bytes, more is left out. Nil = nothing.
	Credential func() []byte
	// TLS, unless nil, makes TLS a must, whatever the URLs say. With nil it is used for
	// tls:// URLs and where the server wants it, with the system's authorities.
	TLS *tls.Config

	// InProcess is a server in this process (*server.Server of nats-server), instead of
	// Servers.
	InProcess interface {
		InProcessConn() (net.Conn, error)
	}

	// PresenceTTL is after what time a peer that is silent is gone from the bucket.
	// Default 30 s; at least 1 s. Who makes the bucket decides.
	PresenceTTL time.Duration
	// NoPresence leaves the bucket alone.
	NoPresence bool
	// Logger; nil = silent.
	Logger *slog.Logger

	// For tests. pingInterval is how often the server is asked whether it is there.
	pingInterval time.Duration
}

const (
	defaultPresenceTTL = 30 * time.Second
	maxNetwork         = 64 // bytes, before it is escaped
)

func (c *Config) complete() error {
	switch {
	case len(c.Servers) == 0 && c.InProcess == nil:
		return errors.New("natssignal: Config.Servers is missing")
	case len(c.Servers) > 0 && c.InProcess != nil:
		return errors.New("natssignal: Config.Servers and InProcess exclude each other")
	case c.Network == "" || len(c.Network) > maxNetwork:
		return fmt.Errorf("natssignal: Config.Network has to have 1 to %d bytes", maxNetwork)
	case c.PresenceTTL != 0 && c.PresenceTTL < time.Second:
		return errors.New("natssignal: Config.PresenceTTL is less than 1 s")
	case c.User == "" && c.Password != "":
		return errors.New("natssignal: Config.Password without User")
	}
	ways := 0
	for _, given := range []string{c.Credentials, c.NKey, c.Token, c.User} {
		if given != "" {
			ways++
		}
	}
	if ways > 1 {
		return errors.New("natssignal: Config has more than one of Credentials, NKey, Token and User")
	}
	if c.pingInterval == 0 {
		c.pingInterval = pingInterval
	}
	if c.PresenceTTL == 0 {
		c.PresenceTTL = defaultPresenceTTL
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Open returns an opener of Signalers. See [Connect].
func Open(config Config) overlay.SignalOpener {
	return func(ctx context.Context, id *overlay.Identity) (overlay.Signaler, error) {
		s, err := Connect(ctx, config, id)
		if err != nil {
			return nil, err // not a *Signaler that is nil
		}
		return s, nil
	}
}
