package tcpsignal

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/overlaytest"
)

// serve runs a server until the test ends, or until stop is called.
func serve(t testing.TB, addr string, config ServerConfig) (at string, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, ln, config) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	return ln.Addr().String(), stop
}

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func open(t testing.TB, addr string, id *overlay.Identity) *signaler {
	t.Helper()
	s, err := Dial(addr)(deadline(t), id)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s.(*signaler)
}

// registered waits until s is.
func (s *signaler) registered(t testing.TB) {
	t.Helper()
	for {
		s.mu.Lock()
		conn, changed := s.conn, s.changed
		s.mu.Unlock()
		if conn != nil {
			return
		}
		select {
		case <-changed:
		case <-deadline(t).Done():
			require.FailNow(t, "never registered")
		}
	}
}

func TestSignaler(t *testing.T) {
	overlaytest.RunSignaler(t, func(t *testing.T) overlaytest.SignalHarness {
		addr, _ := serve(t, "127.0.0.1:0", ServerConfig{})
		return overlaytest.SignalHarness{Open: Dial(addr)}
	})
}

func recv(t testing.TB, s *signaler) string {
	t.Helper()
	_, msg, err := s.Recv(deadline(t))
	require.NoError(t, err)
	return string(msg)
}

func TestReconnect(t *testing.T) {
	addr, stop := serve(t, "127.0.0.1:0", ServerConfig{})
	a, b := open(t, addr, overlaytest.NewIdentity(t)), open(t, addr, overlaytest.NewIdentity(t))
	a.registered(t)
	b.registered(t)
	require.NoError(t, a.Send(deadline(t), b.id.ID(), []byte("one")))
	require.Equal(t, "one", recv(t, b))
	stop()
	ctx, cancel := context.WithTimeout(deadline(t), 50*time.Millisecond)
	defer cancel()
	// The first Send may still go into a socket whose end is not known yet.
	_ = a.Send(ctx, b.id.ID(), []byte("lost"))
	require.ErrorIs(t, a.Send(ctx, b.id.ID(), []byte("lost")), context.DeadlineExceeded)
	serve(t, addr, ServerConfig{})
	b.registered(t)
	require.NoError(t, a.Send(deadline(t), b.id.ID(), []byte("two"))) // waits for the server
	require.Equal(t, "two", recv(t, b))
}

func TestServerLater(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := ln.Addr().String()
	require.NoError(t, ln.Close())
	a := open(t, addr, overlaytest.NewIdentity(t))
	serve(t, addr, ServerConfig{})
	require.NoError(t, a.Send(deadline(t), a.id.ID(), []byte("me")))
	require.Equal(t, "me", recv(t, a))
}

func TestNewestWins(t *testing.T) {
	addr, _ := serve(t, "127.0.0.1:0", ServerConfig{})
	id := overlaytest.NewIdentity(t)
	a, old := open(t, addr, overlaytest.NewIdentity(t)), open(t, addr, id)
	a.registered(t)
	old.registered(t)
	young := open(t, addr, id)
	young.registered(t)
	require.NoError(t, a.Send(deadline(t), id.ID(), []byte("to the young")))
	require.Equal(t, "to the young", recv(t, young))
	require.Empty(t, old.inbox)
}

// raw is a connection that speaks frames by hand.
type raw struct {
	*codec
	net.Conn
	r *bufio.Reader
}

func dialRaw(t testing.TB, addr string) *raw {
	t.Helper()
	c, err := newCodec()
	require.NoError(t, err)
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	return &raw{c, conn, bufio.NewReader(conn)}
}

func (r *raw) challenge(t testing.TB) []byte {
	t.Helper()
	f, err := r.readKind(r.r, kindChallenge)
	require.NoError(t, err)
	return f.Data
}

// ended waits for the server to close the connection.
func (r *raw) ended(t testing.TB) {
	t.Helper()
	_, err := io.Copy(io.Discard, r.r)
	var ne net.Error
	if err != nil {
		require.False(t, errors.As(err, &ne) && ne.Timeout(), "the server did not hang up")
	}
}

func TestProof(t *testing.T) {
	addr, _ := serve(t, "127.0.0.1:0", ServerConfig{})
	victim, thief := overlaytest.NewIdentity(t), overlaytest.NewIdentity(t)
	v, a := open(t, addr, victim), open(t, addr, overlaytest.NewIdentity(t))
	v.registered(t)
	a.registered(t)
	name := victim.ID()
	for what, forge := range map[string]func(f *frame, nonce []byte){
		"another's ID":        func(f *frame, _ []byte) { f.Peer = name[:] },
		"another's ID, key":   func(f *frame, _ []byte) { h, _ := hello(victim, nil); f.Peer, f.Key = name[:], h.Key },
		"no signature":        func(f *frame, _ []byte) { f.Signature = nil },
		"no key":              func(f *frame, _ []byte) { f.Key = nil },
		"old signature":       func(f *frame, _ []byte) { h, _ := hello(thief, make([]byte, nonceLength)); f.Signature = h.Signature },
		"victim's old answer": func(f *frame, _ []byte) { h, _ := hello(victim, make([]byte, nonceLength)); *f = *h },
		"no hello":            func(f *frame, _ []byte) { *f = frame{Kind: kindMessage, Peer: name[:], Data: []byte("hi")} },
	} {
		t.Run(what, func(t *testing.T) {
			r := dialRaw(t, addr)
			nonce := r.challenge(t)
			f, err := hello(thief, nonce)
			require.NoError(t, err)
			forge(f, nonce)
			require.NoError(t, r.write(r, f))
			r.ended(t)
		})
	}
	require.NoError(t, a.Send(deadline(t), name, []byte("still mine")))
	require.Equal(t, "still mine", recv(t, v))
}

func TestMaxClients(t *testing.T) {
	addr, _ := serve(t, "127.0.0.1:0", ServerConfig{MaxClients: 2})
	a, b := dialRaw(t, addr), dialRaw(t, addr)
	a.challenge(t)
	b.challenge(t)
	dialRaw(t, addr).ended(t)
	require.NoError(t, a.Close())
	for end := deadline(t); ; { // the server sees the end of a some time
		require.NoError(t, end.Err())
		c := dialRaw(t, addr)
		if _, err := c.readKind(c.r, kindChallenge); err == nil {
			return
		}
	}
}

func TestAdmit(t *testing.T) {
	good, bad := overlaytest.NewIdentity(t), overlaytest.NewIdentity(t)
	addr, _ := serve(t, "127.0.0.1:0", ServerConfig{Admit: func(id overlay.PeerID) bool { return id == good.ID() }})
	open(t, addr, good).registered(t)
	r := dialRaw(t, addr)
	f, err := hello(bad, r.challenge(t))
	require.NoError(t, err)
	require.NoError(t, r.write(r, f))
	r.ended(t)
}

func TestTimeouts(t *testing.T) {
	addr, _ := serve(t, "127.0.0.1:0", ServerConfig{HandshakeTimeout: 50 * time.Millisecond, IdleTimeout: 100 * time.Millisecond})
	mute := dialRaw(t, addr)
	mute.challenge(t)
	mute.ended(t)
	idle := dialRaw(t, addr)
	f, err := hello(overlaytest.NewIdentity(t), idle.challenge(t))
	require.NoError(t, err)
	require.NoError(t, idle.write(idle, f))
	_, err = idle.readKind(idle.r, kindWelcome)
	require.NoError(t, err)
	idle.ended(t)
}

func TestGarbage(t *testing.T) {
	addr, _ := serve(t, "127.0.0.1:0", ServerConfig{})
	for name, b := range map[string][]byte{
		"HTTP":     []byte("GET / HTTP/1.1\r\n\r\n"),
		"zero":     make([]byte, 64),
		"huge":     {0xff, 0xff, 0xff, 0xff},
		"too long": {0, 1, 0, 0},
		"no CBOR":  {0, 0, 0, 3, 0xff, 0xff, 0xff},
	} {
		t.Run(name, func(t *testing.T) {
			r := dialRaw(t, addr)
			_, err := r.Write(b)
			require.NoError(t, err)
			r.ended(t)
		})
	}
	a := open(t, addr, overlaytest.NewIdentity(t))
	require.NoError(t, a.Send(deadline(t), a.id.ID(), []byte("me")))
}

// TestSlowReader: a client that does not read loses messages; others lose nothing.
func TestSlowReader(t *testing.T) {
	addr, _ := serve(t, "127.0.0.1:0", ServerConfig{Queue: 4})
	slow := dialRaw(t, addr)
	id := overlaytest.NewIdentity(t)
	f, err := hello(id, slow.challenge(t))
	require.NoError(t, err)
	require.NoError(t, slow.write(slow, f))
	_, err = slow.readKind(slow.r, kindWelcome)
	require.NoError(t, err)
	a, b := open(t, addr, overlaytest.NewIdentity(t)), open(t, addr, overlaytest.NewIdentity(t))
	b.registered(t)
	for range 2000 { // 32 MB, more than sockets hold
		require.NoError(t, a.Send(deadline(t), id.ID(), make([]byte, overlay.MaxSignal)))
	}
	require.NoError(t, a.Send(deadline(t), b.id.ID(), []byte("through")))
	require.Equal(t, "through", recv(t, b))
}

func TestBadAddress(t *testing.T) {
	_, err := Dial("nowhere")(t.Context(), overlaytest.NewIdentity(t))
	require.ErrorContains(t, err, "server address")
}

func FuzzFrame(f *testing.F) {
	c, err := newCodec()
	require.NoError(f, err)
	for _, fr := range []*frame{
		{Kind: kindChallenge, Data: make([]byte, nonceLength)},
		{Kind: kindHello, Peer: make([]byte, 32), Key: []byte{1}, Signature: []byte{2}},
		{Kind: kindMessage, Peer: make([]byte, 32), Data: []byte("hi")},
		{Kind: kindPing},
	} {
		b, err := c.append(fr)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Add([]byte{0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := c.read(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		if fr.Kind == kindHello {
			_, err := fr.verify(make([]byte, nonceLength))
			require.Error(t, err, "a fuzzer does not sign")
		}
		again, err := c.append(fr)
		require.NoError(t, err)
		back, err := c.read(bufio.NewReader(bytes.NewReader(again)))
		require.NoError(t, err)
		require.Equal(t, fr.Kind, back.Kind)
		require.True(t, bytes.Equal(fr.Data, back.Data))
	})
}

// A connection from an address that the machine no longer has is of no use.
func TestAddressIsStillHere(t *testing.T) {
	server := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}
	require.True(t, here(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, server), "loopback")
	require.True(t, here(&net.TCPAddr{IP: net.IPv4(127, 7, 7, 7)}, server), "loopback has more than are listed")
	require.True(t, here(&net.UnixAddr{}, server), "no address of the machine's")
	require.False(t, here(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 7)}, server), "of nobody (RFC 5737)")
}
