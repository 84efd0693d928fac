package nat

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/icedtls"
	"github.com/viasnet/vias/overlay/tcpsignal"
	"github.com/viasnet/vias/tap"
)

// node is the process at a place. It has a transport, with a socket and identity of its own,
// for each session, so that sessions do not meet in a NAT's memory.
type node struct {
	mu       sync.Mutex
	sessions map[int]*session
	member   *member // nil until Member
}

// session is one link, or about to be one.
type session struct {
	transport overlay.Transport
	refusals  atomic.Int64 // of a direct path in place of the relay
	link      overlay.Link // valid once Dial or Accept returned

	ended chan struct{} // closed when the link has

	mu       sync.Mutex
	answered map[uint32]bool // of what was sent
	sent     uint32
	repeated int
	stop     chan struct{} // ends streaming
	stopped  chan error
}

// Opening describes a transport.
type Opening struct {
	Session int
	Signal  string
	STUN    []string
	Relays  []Server
}

func (a Opening) config() (icedtls.Config, error) {
	c := icedtls.Config{
		Signal: tcpsignal.Dial(a.Signal), Listen: netip.AddrPortFrom(netip.IPv6Unspecified(), 0), STUN: a.STUN,
		DialTimeout: 20 * time.Second, // 120 of them at once
	}
	for _, server := range a.Relays {
		r, err := server.relay()
		if err != nil {
			return c, err
		}
		c.Relays = append(c.Relays, r)
	}
	return c, nil
}

// Server is a TURN server: with a secret, or a user name and a password.
type Server struct {
	URL, Username, Password, Secret string
	CA                              []byte // DER
}

func (a Server) relay() (icedtls.Relay, error) {
	ca, err := x509.ParseCertificate(a.CA)
	if err != nil {
		return icedtls.Relay{}, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	r := icedtls.Relay{URL: a.URL, Username: a.Username, Password: a.Password, TLS: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	if a.Secret != "" {
		r.Credentials = icedtls.TimedCredentials(a.Secret, "node", time.Minute)
	}
	return r, nil
}

// Check is an RPC: it asks a server for an address.
func (*node) Check(a Server, out *netip.AddrPort) error {
	r, err := a.relay()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	*out, err = r.Check(ctx)
	return err
}

// Dialling names a peer.
type Dialling struct {
	Session int
	Peer    overlay.PeerID
}

// Path is what a link is by.
type Path struct {
	Relay         bool
	Local, Remote netip.AddrPort
	Paths         uint64
}

// Counts are what a stream came to: how many datagrams were answered, of those sent.
type Counts struct{ Sent, Answered, Repeated int }

// Open is an RPC: it makes a session's transport.
func (n *node) Open(a Opening, id *overlay.PeerID) error {
	config, err := a.config()
	if err != nil {
		return err
	}
	identity, err := overlay.NewIdentity()
	if err != nil {
		return err
	}
	s := &session{answered: map[uint32]bool{}, ended: make(chan struct{})}
	s.transport, err = icedtls.Open(config)(context.Background(), overlay.Env{
		Identity: identity, Admission: overlay.AdmitFunc(func(overlay.PeerID) bool { return true }), Logger: slog.New(upgrades{&s.refusals}),
	})
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sessions[a.Session], *id = s, identity.ID()
	return nil
}

func (n *node) session(i int) *session {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sessions[i]
}

// Dial is an RPC: it makes the session's link.
func (n *node) Dial(a Dialling, _ *Nothing) error {
	s := n.session(a.Session)
	var err error
	for range 3 { // a link is anybody's to try again
		if s.link, err = s.transport.Dial(context.Background(), a.Peer); err == nil {
			go s.receive()
			return nil
		}
	}
	return err
}

// Accept is an RPC: it takes the session's link.
func (n *node) Accept(i int, _ *Nothing) error {
	s := n.session(i)
	var err error
	if s.link, err = s.transport.Accept(context.Background()); err != nil {
		return err
	}
	go s.receive()
	return nil
}

// Path is an RPC.
func (n *node) Path(i int, out *Path) error {
	s := n.session(i)
	p := s.link.Path()
	*out = Path{p.Kind == overlay.PathRelay, p.Local, p.Remote, s.link.Stats().Paths}
	return nil
}

// Settle is an RPC: it returns the path when it is direct, or a direct one was looked for in
// vain.
func (n *node) Settle(a Settling, out *Path) error {
	end := time.After(a.Patience)
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		if err := n.Path(a.Session, out); err != nil || !out.Relay || n.session(a.Session).refusals.Load() >= a.Refusals {
			return err
		}
		select {
		case <-again.C:
		case <-n.session(a.Session).ended:
			return fmt.Errorf("session %d: the link ended", a.Session)
		case <-end:
			return fmt.Errorf("session %d: no direct path was looked for", a.Session)
		}
	}
}

// Settling says after how many attempts in vain it is enough.
type Settling struct {
	Session  int
	Refusals int64
	Patience time.Duration
}

// Close is an RPC: it ends the session.
func (n *node) Close(i int, _ *Nothing) error {
	s := n.session(i)
	n.mu.Lock()
	delete(n.sessions, i)
	n.mu.Unlock()
	return s.transport.Close()
}

// The first byte of a datagram.
const (
	isAsked = iota
	isAnswer
)

// receive is the goroutine that answers, and counts what is answered.
func (s *session) receive() {
	defer close(s.ended)
	b, out := tap.NewBatch(64, 1<<17), tap.NewBatch(64, 1<<17)
	for s.link.RecvBatch(b) == nil {
		for i := range b.Len() {
			f := b.Frame(i)
			if len(f) < 5 {
				continue
			}
			if f[0] == isAsked {
				f[0] = isAnswer
				out.Append(f, tap.Offload{})
				continue
			}
			seq := binary.BigEndian.Uint32(f[1:])
			s.mu.Lock()
			if s.answered[seq] {
				s.repeated++
			}
			s.answered[seq] = true
			s.mu.Unlock()
		}
		if out.Len() > 0 {
			_ = s.link.SendBatch(out)
			out.Reset()
		}
	}
}

func (s *session) ask(size int) error {
	s.mu.Lock()
	seq := s.sent
	s.sent++
	s.mu.Unlock()
	f := make([]byte, size)
	binary.BigEndian.PutUint32(f[1:], seq)
	b := tap.NewBatch(1, size)
	b.Append(f, tap.Offload{})
	return s.link.SendBatch(b)
}

func (s *session) counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Counts{int(s.sent), len(s.answered), s.repeated}
}

// Exchange is an RPC: one datagram is answered, or there is an error.
func (n *node) Exchange(i int, _ *Nothing) error {
	s := n.session(i)
	before := s.counts().Answered
	for range 50 { // a link may lose one
		if err := s.ask(1000); err != nil {
			return err
		}
		if s.await(200*time.Millisecond, func(c Counts) bool { return c.Answered > before }) {
			return nil
		}
	}
	return errors.New("nothing is answered")
}

func (s *session) await(bound time.Duration, is func(Counts) bool) bool {
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for end := time.After(bound); ; {
		if is(s.counts()) {
			return true
		}
		select {
		case <-end:
			return false
		case <-again.C:
		}
	}
}

// Stream is an RPC: from now on a datagram is sent each millisecond.
func (n *node) Stream(i int, _ *Nothing) error {
	s := n.session(i)
	s.stop, s.stopped = make(chan struct{}), make(chan error, 1)
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-s.stop:
				s.stopped <- nil
				return
			case <-tick.C:
			}
			if err := s.ask(1000); err != nil {
				s.stopped <- err
				return
			}
		}
	}()
	return nil
}

// Count is an RPC: what came of the stream until now.
func (n *node) Count(i int, out *Counts) error {
	*out = n.session(i).counts()
	return nil
}

// Drops is an RPC: what the session's transport, and the kernel, dropped.
func (n *node) Drops(i int, out *string) error {
	kernel, err := kernelDrops()
	*out = fmt.Sprintf("%+v\n%s", n.session(i).transport.Stats().Drops, kernel)
	return err
}

// Finish is an RPC: it ends the stream, and says what came of it.
func (n *node) Finish(i int, out *Counts) error {
	s := n.session(i)
	close(s.stop)
	if err := <-s.stopped; err != nil {
		return err
	}
	s.await(5*time.Second, func(c Counts) bool { return c.Answered == c.Sent })
	*out = s.counts()
	return nil
}

// upgrades is a log that counts attempts at a direct path that found none: the only ones who
// know of them are the transport and its log.
type upgrades struct{ refusals *atomic.Int64 }

func (upgrades) Enabled(context.Context, slog.Level) bool { return true }
func (u upgrades) WithAttrs([]slog.Attr) slog.Handler     { return u }
func (u upgrades) WithGroup(string) slog.Handler          { return u }

func (u upgrades) Handle(_ context.Context, r slog.Record) error {
	if r.Message != "icedtls: another path" {
		return nil
	}
	upgrade, failed := false, false
	r.Attrs(func(a slog.Attr) bool {
		switch v := a.Value.Any().(type) {
		case bool:
			upgrade = v
		case error:
			failed = v != nil
		}
		return true
	})
	if upgrade && failed {
		u.refusals.Add(1)
	}
	return nil
}
