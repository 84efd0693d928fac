package overlaytest

import (
	"context"
	"encoding/binary"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// suiteTimeout bounds every wait of the suites. Nothing that works comes near it.
const suiteTimeout = 20 * time.Second

// TransportHarness is how [RunTransport] gets at an implementation. Transports that
// one harness opened reach each other; the suite closes them.
type TransportHarness struct {
	// Open opens a Transport.
	Open overlay.Opener
	// Impostor, unless nil, opens a Transport that answers to victim's ID but has
	// its own key, env.Identity.
	Impostor func(victim overlay.PeerID) overlay.Opener
	// Cut and Heal, unless nil, break and mend the path between two peers.
	Cut, Heal func(a, b overlay.PeerID)
	// Run, unless nil, runs every case: synctest.Test for what works in a bubble.
	Run func(t *testing.T, f func(*testing.T))
}

// peer is one Transport under test.
type peer struct {
	overlay.Transport
	id *overlay.Identity

	mu         sync.Mutex
	admit      func(overlay.PeerID) bool
	credential []byte
	shown      map[overlay.PeerID]string // the last that each peer showed
}

func (p *peer) ID() overlay.PeerID { return p.id.ID() }

func (p *peer) setAdmit(a func(overlay.PeerID) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.admit = a
}

// Credential and Admit make a peer the overlay.Admission of its Transport.
func (p *peer) Credential() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.credential
}

func (p *peer) Admit(id overlay.PeerID, credential []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(credential) > 0 {
		p.shown[id] = string(credential)
	}
	if p.admit != nil && !p.admit(id) {
		return overlay.ErrNotAdmitted
	}
	return nil
}

// wasShown is the last that id showed to p.
func (p *peer) wasShown(id overlay.PeerID) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shown[id]
}

func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), suiteTimeout)
	t.Cleanup(cancel)
	return ctx
}

// NewIdentity makes an identity or ends the test.
func NewIdentity(t testing.TB) *overlay.Identity {
	t.Helper()
	id, err := overlay.NewIdentity()
	require.NoError(t, err)
	return id
}

func openPeer(t testing.TB, open overlay.Opener, id *overlay.Identity) *peer {
	t.Helper()
	p := &peer{id: id, shown: map[overlay.PeerID]string{}}
	tr, err := open(timeout(t), overlay.Env{Identity: id, Admission: p, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	p.Transport = tr
	t.Cleanup(func() { _ = tr.Close() })
	return p
}

// openPair opens two peers, the one with the lower ID first.
func openPair(t testing.TB, h TransportHarness) (low, high *peer) {
	t.Helper()
	a, b := NewIdentity(t), NewIdentity(t)
	if b.ID().Compare(a.ID()) < 0 {
		a, b = b, a
	}
	return openPeer(t, h.Open, a), openPeer(t, h.Open, b)
}

type result struct {
	link overlay.Link
	err  error
}

func goDial(ctx context.Context, from *peer, to overlay.PeerID) <-chan result {
	c := make(chan result, 1)
	go func() {
		l, err := from.Dial(ctx, to)
		c <- result{l, err}
	}()
	return c
}

func goAccept(ctx context.Context, at *peer) <-chan result {
	c := make(chan result, 1)
	go func() {
		l, err := at.Accept(ctx)
		c <- result{l, err}
	}()
	return c
}

func wait[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-timeout(t).Done():
		require.FailNow(t, "timed out", "waiting for %s", what)
		panic("unreachable")
	}
}

// connect makes a Link from a to b.
func connect(t testing.TB, a, b *peer) (at, bt overlay.Link) {
	t.Helper()
	accepted := goAccept(timeout(t), b)
	d := wait(t, goDial(timeout(t), a, b.ID()), "Dial")
	require.NoError(t, d.err)
	r := wait(t, accepted, "Accept")
	require.NoError(t, r.err)
	return d.link, r.link
}

func send(t testing.TB, l overlay.Link, datagrams ...[]byte) {
	t.Helper()
	bytes := 0
	for _, d := range datagrams {
		bytes += len(d) + tap.Headroom + tap.Tailroom
	}
	b := tap.NewBatch(len(datagrams), bytes)
	for _, d := range datagrams {
		require.True(t, b.Append(d, tap.Offload{}))
	}
	require.NoError(t, l.SendBatch(b))
}

// receiver reads a Link until its end.
type receiver struct {
	got chan []byte
	err chan error
}

func receive(l overlay.Link) *receiver {
	r := &receiver{got: make(chan []byte, 1<<14), err: make(chan error, 1)}
	go r.run(l)
	return r
}

func (r *receiver) run(l overlay.Link) {
	b := tap.NewBatch(32, 64<<10)
	for {
		if err := l.RecvBatch(b); err != nil {
			r.err <- err
			return
		}
		for i := range b.Len() {
			r.got <- append([]byte(nil), b.Frame(i)...)
		}
	}
}

// deliver sends a datagram, again and again since a Link may lose it, until it
// arrives.
func deliver(t testing.TB, from overlay.Link, to *receiver, datagram []byte) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	end := timeout(t)
	for {
		send(t, from, datagram)
	wait:
		for {
			select {
			case d := <-to.got:
				if string(d) == string(datagram) {
					return
				}
			case err := <-to.err:
				require.NoError(t, err, "link ended instead of delivering")
			case <-tick.C:
				break wait
			case <-end.Done():
				require.FailNow(t, "timed out", "datagram of %d bytes never arrived", len(datagram))
			}
		}
	}
}

// pattern is a datagram of n bytes that differs in every byte from one shifted.
func pattern(n, seed int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7 + i>>8 + seed)
	}
	if n >= 4 {
		binary.BigEndian.PutUint32(p, uint32(seed))
	}
	return p
}

// noLeak fails the test when, after everything else was cleaned up, more
// goroutines run than now.
func noLeak(t testing.TB) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for range 1000 {
			if runtime.NumGoroutine() <= before {
				return
			}
			<-tick.C
		}
		buf := make([]byte, 1<<18)
		t.Errorf("%d goroutines more than before:\n%s", runtime.NumGoroutine()-before, buf[:runtime.Stack(buf, true)])
	})
}
