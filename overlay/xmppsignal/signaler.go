package xmppsignal

import (
	"context"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"mellium.im/sasl"
	"mellium.im/xmlstream"
	"mellium.im/xmpp"
	"mellium.im/xmpp/jid"
	"mellium.im/xmpp/ping"
	"mellium.im/xmpp/stanza"

	"github.com/viasnet/vias/overlay"
)

const (
	namespace    = "urn:vias:signal:1"
	dialTimeout  = 10 * time.Second // with TLS and login
	writeTimeout = 10 * time.Second
	pingInterval = 15 * time.Second
	pingTimeout  = 10 * time.Second
	backoffFirst = 100 * time.Millisecond
	backoffLast  = 10 * time.Second
	inboxDepth   = 256
	// maxText is the longest message in base64.
	maxText = (overlay.MaxSignal + 2) / 3 * 4
)

// signaler implements overlay.Signaler.
type signaler struct {
	config Config
	self   jid.JID
	inbox  chan received
	life   context.Context // ends with Close
	end    context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	stream  *stream       // logged in; nil while there is none
	last    error         // why the last one ended
	changed chan struct{} // closed and replaced when stream changes
}

type received struct {
	from overlay.PeerID
	msg  []byte
}

// stream is a connection that is logged in.
type stream struct {
	*xmpp.Session
	conn net.Conn
}

// signal is the element in a message.
type signal struct {
	XMLName xml.Name `xml:"urn:vias:signal:1 signal"`
	Network string   `xml:"network,attr"`
	Text    string   `xml:",chardata"`
}

type signalMessage struct {
	stanza.Message
	Signal signal
}

func start(config Config, self jid.JID) *signaler {
	s := &signaler{config: config, self: self, inbox: make(chan received, inboxDepth), changed: make(chan struct{})}
	s.life, s.end = context.WithCancel(context.Background())
	s.wg.Go(s.run)
	return s
}

// run keeps a stream until Close.
func (s *signaler) run() {
	wait := backoffFirst
	for s.life.Err() == nil {
		loggedIn, err := s.connect()
		if loggedIn {
			wait = backoffFirst
		}
		s.mu.Lock()
		s.last = err
		s.mu.Unlock()
		if s.life.Err() == nil {
			s.config.Logger.Debug("xmppsignal: no stream", "err", err)
		}
		// Half of it by chance, lest all clients of a restarted server come at once.
		pause := wait/2 + rand.N(wait/2)
		wait = min(2*wait, backoffLast)
		select {
		case <-s.life.Done():
		case <-time.After(pause):
		}
	}
}

// connect is one stream from its beginning to its end.
func (s *signaler) connect() (loggedIn bool, err error) {
	ctx, cancel := context.WithTimeout(s.life, dialTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.config.Server)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	defer context.AfterFunc(s.life, func() { _ = conn.Close() })()
	session, err := s.login(ctx, conn)
	if err != nil {
		return false, err
	}
	st := &stream{session, conn}
	var pinger sync.WaitGroup
	defer pinger.Wait()
	ended, stop := context.WithCancel(s.life)
	defer stop()
	served := make(chan error, 1)
	pinger.Go(func() { served <- session.Serve(xmpp.HandlerFunc(s.handle)) })
	// We take messages when our presence is known.
	if err := st.write(func() error { return st.Session.Send(ended, stanza.Presence{}.Wrap(nil)) }); err != nil {
		_ = conn.Close()
		return false, err
	}
	s.set(st)
	defer s.set(nil)
	pinger.Go(func() { s.ping(ended, st) })
	err = <-served
	_ = conn.Close()
	return true, err
}

func (s *signaler) login(ctx context.Context, conn net.Conn) (*xmpp.Session, error) {
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return nil, err
	}
	session, err := xmpp.NewClientSession(ctx, s.self, conn,
		xmpp.StartTLS(s.config.TLS),
		xmpp.SASL("", s.config.Password, sasl.ScramSha256Plus, sasl.ScramSha256, sasl.ScramSha1Plus, sasl.ScramSha1, sasl.Plain),
		xmpp.BindResource(),
	)
	if err != nil {
		return nil, fmt.Errorf("log in: %w", err)
	}
	return session, conn.SetDeadline(time.Time{})
}

func (s *signaler) set(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stream = st
	close(s.changed)
	s.changed = make(chan struct{})
}

// ping ends a stream whose server is silent.
func (s *signaler) ping(ended context.Context, st *stream) {
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	for {
		select {
		case <-ended.Done():
			return
		case <-tick.C:
			ctx, cancel := context.WithTimeout(ended, pingTimeout)
			err := ping.Send(ctx, st.Session, s.self.Domain())
			cancel()
			var refused stanza.Error
			if err != nil && !errors.As(err, &refused) { // a refusal is a sign of life
				_ = st.conn.Close()
				return
			}
		}
	}
}

// write writes a stanza. If that fails, half of it may be out: the stream is ended.
func (st *stream) write(do func() error) error {
	late := time.AfterFunc(writeTimeout, func() { _ = st.conn.Close() })
	defer late.Stop()
	if err := do(); err != nil {
		_ = st.conn.Close()
		return err
	}
	return nil
}

// handle takes a stanza. An error would end the stream: nothing that somebody sends us
// may do that, but for what is no XML.
func (s *signaler) handle(t xmlstream.TokenReadEncoder, start *xml.StartElement) error {
	if start.Name.Local != "message" {
		return nil
	}
	var m signalMessage
	if err := xml.NewTokenDecoder(xmlstream.Wrap(t, *start)).Decode(&m); err != nil {
		s.config.Logger.Debug("xmppsignal: malformed message", "err", err)
		return nil
	}
	r, err := s.read(&m)
	if err != nil {
		s.config.Logger.Debug("xmppsignal: dropped", "from", m.From.String(), "err", err)
		return nil
	}
	s.put(r)
	return nil
}

func (s *signaler) put(r received) {
	select {
	case s.inbox <- r:
	default: // nobody receives: lost, as a Signaler may
	}
}

func (s *signaler) read(m *signalMessage) (received, error) {
	switch {
	case m.Type != stanza.HeadlineMessage || m.Signal.XMLName.Space != namespace:
		return received{}, errors.New("no signal")
	case m.Signal.Network != s.config.Network:
		return received{}, errors.New("for another network")
	case m.From.Domainpart() != s.self.Domainpart():
		return received{}, errors.New("from another domain")
	case len(m.Signal.Text) > maxText:
		return received{}, errors.New("too long")
	}
	from, err := overlay.ParsePeerID(m.From.Localpart())
	if err != nil {
		return received{}, err
	}
	msg, err := base64.StdEncoding.DecodeString(m.Signal.Text)
	if err == nil && len(msg) > overlay.MaxSignal {
		err = errors.New("too long")
	}
	return received{from, msg}, err
}

// Send hands msg to the server, over the next stream if there is none now.
func (s *signaler) Send(ctx context.Context, to overlay.PeerID, msg []byte) error {
	if err := s.send(ctx, to, msg); err != nil {
		return &overlay.OpError{Op: "signal", Peer: to, Err: err}
	}
	return nil
}

func (s *signaler) send(ctx context.Context, to overlay.PeerID, msg []byte) error {
	if len(msg) > overlay.MaxSignal {
		return fmt.Errorf("message of %d bytes is longer than %d", len(msg), overlay.MaxSignal)
	}
	addr, err := jid.New(to.String(), s.self.Domainpart(), "")
	switch {
	case s.life.Err() != nil:
		return overlay.ErrClosed
	case err != nil:
		return err
	case addr.Equal(s.self): // servers drop headlines to oneself
		s.put(received{to, slices.Clone(msg)})
		return nil
	}
	m := signalMessage{
		Message: stanza.Message{To: addr, Type: stanza.HeadlineMessage},
		Signal:  signal{Network: s.config.Network, Text: base64.StdEncoding.EncodeToString(msg)},
	}
	for {
		if s.life.Err() != nil {
			return overlay.ErrClosed
		}
		s.mu.Lock()
		st, last, changed := s.stream, s.last, s.changed
		s.mu.Unlock()
		if st != nil && st.write(func() error { return st.Encode(ctx, m) }) == nil {
			return nil
		}
		select {
		case <-changed:
		case <-s.life.Done():
			return overlay.ErrClosed
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("no stream to %s: %w", s.config.Server, context.Cause(ctx)), last)
		}
	}
}

// Recv returns the next message, over however many streams.
func (s *signaler) Recv(ctx context.Context) (from overlay.PeerID, msg []byte, err error) {
	if s.life.Err() != nil {
		return from, nil, &overlay.OpError{Op: "signal", Err: overlay.ErrClosed}
	}
	select {
	case m := <-s.inbox:
		return m.from, m.msg, nil
	case <-s.life.Done():
		return from, nil, &overlay.OpError{Op: "signal", Err: overlay.ErrClosed}
	case <-ctx.Done():
		return from, nil, &overlay.OpError{Op: "signal", Err: context.Cause(ctx)}
	}
}

// Close ends the stream and waits for the goroutines. It is idempotent.
func (s *signaler) Close() error {
	s.end()
	s.wg.Wait()
	return nil
}
