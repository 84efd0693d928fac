package overlaytest

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
)

// SignalHarness is how [RunSignaler] gets at an implementation. Signalers that one
// harness opened reach each other; the suite closes them.
type SignalHarness struct {
	// Open opens a Signaler.
	Open overlay.SignalOpener
	// Run, unless nil, runs every case: synctest.Test for what works in a bubble.
	Run func(t *testing.T, f func(*testing.T))
	// MaxMessage is the longest message in bytes. Default overlay.MaxSignal; less for what
	// puts an envelope around messages.
	MaxMessage int
}

// RunSignaler is the conformance suite of overlay.Signaler. newHarness is called
// for every case.
func RunSignaler(t *testing.T, newHarness func(t *testing.T) SignalHarness) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, h SignalHarness)
	}{
		{"BothWays", testSignalBothWays},
		{"Sizes", testSignalSizes},
		{"ManyPeers", testSignalManyPeers},
		{"NobodyThere", testSignalNobody},
		{"NewestWins", testSignalNewest},
		{"Cancel", testSignalCancel},
		{"Close", testSignalClose},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeak(t) // whatever the harness starts has to end, too
			h := newHarness(t)
			if h.Run == nil {
				c.run(t, h)
				return
			}
			// A bubble finds its own leaks, and counting goroutines in it would
			// count those outside.
			h.Run(t, func(t *testing.T) { c.run(t, newHarness(t)) })
		})
	}
}

type signalPeer struct {
	overlay.Signaler
	id    *overlay.Identity
	inbox chan signal
}

func openSignal(t testing.TB, h SignalHarness, id *overlay.Identity) *signalPeer {
	t.Helper()
	s, err := h.Open(timeout(t), id)
	require.NoError(t, err)
	p := &signalPeer{Signaler: s, id: id, inbox: make(chan signal, 1024)}
	t.Cleanup(func() { _ = s.Close() })
	go p.run()
	return p
}

func (p *signalPeer) run() {
	for {
		from, msg, err := p.Recv(context.Background())
		if err != nil {
			return
		}
		p.inbox <- signal{from, msg}
	}
}

// tell sends until the message arrives: a Signaler may lose it.
func (p *signalPeer) tell(t testing.TB, to *signalPeer, msg []byte) {
	t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for end := timeout(t); ; {
		require.NoError(t, p.Send(end, to.id.ID(), msg))
		for again := false; !again; {
			select {
			case m := <-to.inbox:
				if m.from == p.id.ID() && bytes.Equal(m.msg, msg) {
					return
				}
			case <-tick.C:
				again = true
			case <-end.Done():
				require.FailNow(t, "timed out", "message of %d bytes never arrived", len(msg))
			}
		}
	}
}

func testSignalBothWays(t *testing.T, h SignalHarness) {
	a, b := openSignal(t, h, NewIdentity(t)), openSignal(t, h, NewIdentity(t))
	for i := range 20 {
		a.tell(t, b, pattern(100, i))
		b.tell(t, a, pattern(100, i+1000))
	}
	a.tell(t, a, []byte("to myself"))
}

func testSignalSizes(t *testing.T, h SignalHarness) {
	a, b := openSignal(t, h, NewIdentity(t)), openSignal(t, h, NewIdentity(t))
	longest := h.MaxMessage
	if longest == 0 {
		longest = overlay.MaxSignal
	}
	for _, n := range []int{1, 255, 256, 4096, longest - 1, longest} {
		a.tell(t, b, pattern(n, n))
	}
	require.Error(t, a.Send(timeout(t), b.id.ID(), make([]byte, longest+1)))
	a.tell(t, b, []byte("alive"))
}

func testSignalManyPeers(t *testing.T, h SignalHarness) {
	peers := make([]*signalPeer, 8)
	for i := range peers {
		peers[i] = openSignal(t, h, NewIdentity(t))
	}
	for i, p := range peers {
		for j, q := range peers {
			p.tell(t, q, pattern(64, i*100+j))
		}
	}
}

func testSignalNobody(t *testing.T, h SignalHarness) {
	a, b := openSignal(t, h, NewIdentity(t)), openSignal(t, h, NewIdentity(t))
	_ = a.Send(timeout(t), NewIdentity(t).ID(), []byte("anybody?")) // may fail, may not
	a.tell(t, b, []byte("alive"))
}

func testSignalNewest(t *testing.T, h SignalHarness) {
	id := NewIdentity(t)
	a, old := openSignal(t, h, NewIdentity(t)), openSignal(t, h, id)
	a.tell(t, old, []byte("one"))
	require.NoError(t, old.Close())
	b := openSignal(t, h, id)
	a.tell(t, b, []byte("two"))
	b.tell(t, a, []byte("three"))
}

func testSignalCancel(t *testing.T, h SignalHarness) {
	s, err := h.Open(timeout(t), NewIdentity(t))
	require.NoError(t, err)
	defer s.Close()
	ctx, cancel := context.WithCancel(timeout(t))
	failed := make(chan error, 1)
	go func() {
		_, _, err := s.Recv(ctx)
		failed <- err
	}()
	cancel()
	require.ErrorIs(t, wait(t, failed, "Recv"), context.Canceled)
}

func testSignalClose(t *testing.T, h SignalHarness) {
	s, err := h.Open(timeout(t), NewIdentity(t))
	require.NoError(t, err)
	failed := make(chan error, 1)
	go func() {
		_, _, err := s.Recv(context.Background())
		failed <- err
	}()
	require.NoError(t, s.Close())
	require.NoError(t, s.Close(), "Close is idempotent")
	require.ErrorIs(t, wait(t, failed, "Recv"), overlay.ErrClosed)
	require.ErrorIs(t, s.Send(timeout(t), NewIdentity(t).ID(), []byte("x")), overlay.ErrClosed)
	_, _, err = s.Recv(timeout(t))
	require.ErrorIs(t, err, overlay.ErrClosed)
}
