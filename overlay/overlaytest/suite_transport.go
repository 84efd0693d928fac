package overlaytest

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
)

// RunTransport is the conformance suite of overlay.Transport and overlay.Link.
// newHarness is called once for every case.
func RunTransport(t *testing.T, newHarness func(t *testing.T) TransportHarness) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, h TransportHarness)
	}{
		{"DialAccept", testDialAccept},
		{"Refused", testRefused},
		{"NotAdmitted", testNotAdmitted},
		{"Credentials", testCredentials},
		{"WrongPeer", testWrongPeer},
		{"Impostor", testImpostor},
		{"Unreachable", testUnreachable},
		{"DialCancel", testDialCancel},
		{"AcceptCancel", testAcceptCancel},
		{"TransportClose", testTransportClose},
		{"SimultaneousDial", testSimultaneousDial},
		{"Redial", testRedial},
		{"RedialAfterRestart", testRedialAfterRestart},
		{"Sizes", testSizes},
		{"Batches", testBatches},
		{"Oversize", testOversize},
		{"BothWays", testBothWays},
		{"CloseLocal", testCloseLocal},
		{"ClosePeer", testClosePeer},
		{"LinkLost", testLinkLost},
		{"Idle", testIdle},
		{"PathSnapshot", testPath},
		{"Stats", testStats},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeak(t)
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

func testDialAccept(t *testing.T, h TransportHarness) {
	a, b := openPair(t, h)
	for _, d := range []struct{ from, to *peer }{{a, b}, {b, a}} {
		l, r := connect(t, d.from, d.to)
		require.Equal(t, d.to.ID(), l.Peer())
		require.Equal(t, d.from.ID(), r.Peer())
		deliver(t, l, receive(r), []byte("there"))
		deliver(t, r, receive(l), []byte("and back"))
	}
	require.Zero(t, a.Stats().Refused+b.Stats().Refused+a.Stats().WrongKey+b.Stats().WrongKey)
}

func testRefused(t *testing.T, h TransportHarness) {
	a, b := openPair(t, h)
	for _, d := range []struct{ from, to *peer }{{a, b}, {b, a}} {
		var asked atomic.Bool
		d.to.setAdmit(func(id overlay.PeerID) bool {
			asked.Store(asked.Load() || id == d.from.ID())
			return false
		})
		r := wait(t, goDial(timeout(t), d.from, d.to.ID()), "Dial")
		require.ErrorIs(t, r.err, overlay.ErrRefused)
		requireOp(t, r.err, "dial", d.to.ID())
		require.True(t, asked.Load(), "Admit was not asked about the dialler")
		require.Positive(t, d.to.Stats().Refused)
		ctx, cancel := context.WithTimeout(timeout(t), 50*time.Millisecond)
		defer cancel()
		require.Error(t, wait(t, goAccept(ctx, d.to), "Accept").err, "a refused peer came out of Accept")
		d.to.setAdmit(nil)
		connect(t, d.from, d.to) // a refusal is not for ever
	}
}

// testNotAdmitted: a dialler's own rule counts as well.
func testNotAdmitted(t *testing.T, h TransportHarness) {
	a, b := openPair(t, h)
	for _, d := range []struct{ from, to *peer }{{a, b}, {b, a}} {
		d.from.setAdmit(func(overlay.PeerID) bool { return false })
		r := wait(t, goDial(timeout(t), d.from, d.to.ID()), "Dial")
		require.ErrorIs(t, r.err, overlay.ErrNotAdmitted)
		requireOp(t, r.err, "dial", d.to.ID())
		d.from.setAdmit(nil)
		connect(t, d.from, d.to)
	}
}

// testCredentials: each end sees what the other end shows at the time, before there is a
// Link; the longest credential travels, and an end that admits nobody unseen works.
func testCredentials(t *testing.T, h TransportHarness) {
	a, b := openPair(t, h)
	for i, d := range []struct{ from, to *peer }{{a, b}, {b, a}} {
		for _, p := range []*peer{d.from, d.to} {
			p.mu.Lock()
			p.credential = pattern(overlay.MaxCredential-i, int(p.ID()[0]))
			clear(p.shown)
			p.admit = func(id overlay.PeerID) bool { return p.shown[id] != "" } // p.mu is held
			p.mu.Unlock()
		}
		l, r := connect(t, d.from, d.to)
		require.Equal(t, string(d.from.Credential()), d.to.wasShown(d.from.ID()))
		require.Equal(t, string(d.to.Credential()), d.from.wasShown(d.to.ID()))
		deliver(t, l, receive(r), []byte("there"))
	}
}

func requireOp(t *testing.T, err error, op string, peer overlay.PeerID) {
	t.Helper()
	var oe *overlay.OpError
	require.ErrorAs(t, err, &oe)
	require.Equal(t, op, oe.Op)
	require.Equal(t, peer, oe.Peer)
}

func testWrongPeer(t *testing.T, h TransportHarness) {
	if h.Impostor == nil {
		t.Skip("the harness has no impostor")
	}
	a, victim := openPeer(t, h.Open, NewIdentity(t)), NewIdentity(t)
	openPeer(t, h.Impostor(victim.ID()), NewIdentity(t))
	r := wait(t, goDial(timeout(t), a, victim.ID()), "Dial")
	require.ErrorIs(t, r.err, overlay.ErrWrongPeer)
	requireOp(t, r.err, "dial", victim.ID())
}

func testImpostor(t *testing.T, h TransportHarness) {
	if h.Impostor == nil {
		t.Skip("the harness has no impostor")
	}
	a, victim := openPeer(t, h.Open, NewIdentity(t)), NewIdentity(t)
	bad := openPeer(t, h.Impostor(victim.ID()), NewIdentity(t))
	ctx, cancel := context.WithCancel(timeout(t))
	dialled := goDial(ctx, bad, a.ID())
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := timeout(t); a.Stats().WrongKey == 0; {
		require.NoError(t, end.Err(), "WrongKey was never counted")
		<-tick.C
	}
	cancel()
	require.Error(t, wait(t, dialled, "Dial").err)
	ctx, cancel = context.WithTimeout(timeout(t), 50*time.Millisecond)
	defer cancel()
	require.Error(t, wait(t, goAccept(ctx, a), "Accept").err, "an impostor came out of Accept")
}

func testUnreachable(t *testing.T, h TransportHarness) {
	a := openPeer(t, h.Open, NewIdentity(t))
	ctx, cancel := context.WithTimeout(timeout(t), 300*time.Millisecond)
	defer cancel()
	nobody := NewIdentity(t).ID()
	r := wait(t, goDial(ctx, a, nobody), "Dial")
	require.ErrorIs(t, r.err, overlay.ErrUnreachable)
	requireOp(t, r.err, "dial", nobody)
	r = wait(t, goDial(timeout(t), a, a.ID()), "Dial of itself")
	require.ErrorIs(t, r.err, overlay.ErrUnreachable)
}

func testDialCancel(t *testing.T, h TransportHarness) {
	a := openPeer(t, h.Open, NewIdentity(t))
	ctx, cancel := context.WithCancel(timeout(t))
	r := goDial(ctx, a, NewIdentity(t).ID())
	cancel()
	require.ErrorIs(t, wait(t, r, "Dial").err, context.Canceled)
}

func testAcceptCancel(t *testing.T, h TransportHarness) {
	a, b := openPair(t, h)
	ctx, cancel := context.WithCancel(timeout(t))
	r := goAccept(ctx, a)
	cancel()
	require.ErrorIs(t, wait(t, r, "Accept").err, context.Canceled)
	connect(t, b, a) // the Transport lives on
}

func testTransportClose(t *testing.T, h TransportHarness) {
	a, b := openPair(t, h)
	l, r := connect(t, a, b)
	lr, rr := receive(l), receive(r)
	accept, dial := goAccept(timeout(t), a), goDial(timeout(t), a, NewIdentity(t).ID())
	require.NoError(t, a.Close())
	require.NoError(t, a.Close(), "Close is idempotent")
	require.ErrorIs(t, wait(t, accept, "Accept").err, overlay.ErrClosed)
	require.ErrorIs(t, wait(t, dial, "Dial").err, overlay.ErrClosed)
	require.ErrorIs(t, wait(t, lr.err, "RecvBatch"), overlay.ErrClosed)
	require.ErrorIs(t, wait(t, rr.err, "the peer's RecvBatch"), overlay.ErrPeerClosed)
	_, err := a.Dial(timeout(t), b.ID())
	require.ErrorIs(t, err, overlay.ErrClosed)
	_, err = a.Accept(timeout(t))
	require.ErrorIs(t, err, overlay.ErrClosed)
	openPeer(t, h.Open, a.id) // the same identity may come back
}

// testSimultaneousDial: dials that meet make one Link, which both return; dials
// that miss each other make two, and then every end comes out somewhere.
func testSimultaneousDial(t *testing.T, h TransportHarness) {
	a, b := openPair(t, h)
	ctx, cancel := context.WithCancel(timeout(t))
	defer cancel()
	da, db := goDial(timeout(t), a, b.ID()), goDial(timeout(t), b, a.ID())
	ra, rb := wait(t, da, "low Dial"), wait(t, db, "high Dial")
	require.NoError(t, ra.err)
	require.NoError(t, rb.err)
	ca, cb := receive(ra.link), receive(rb.link)
	// What one end's dialled Link sends comes out of the other's dialled Link or
	// of an accepted one.
	deliverAny(t, ctx, ra.link, cb, b, []byte("from the low end"))
	deliverAny(t, ctx, rb.link, ca, a, []byte("from the high end"))
}

// deliverAny is deliver to a dialled Link or to one that at accepts meanwhile.
func deliverAny(t *testing.T, ctx context.Context, from overlay.Link, dialled *receiver, at *peer, datagram []byte) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	accepted := goAccept(ctx, at)
	other := &receiver{}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	defer func() { cancel(); wait(t, accepted, "Accept") }()
	for end := timeout(t); ; {
		send(t, from, datagram)
		select {
		case d := <-dialled.got:
			require.Equal(t, datagram, d)
			return
		case d := <-other.got:
			require.Equal(t, datagram, d)
			return
		case r := <-accepted:
			require.NoError(t, r.err)
			other = receive(r.link)
			accepted = goAccept(ctx, at)
		case err := <-dialled.err:
			require.NoError(t, err)
		case <-tick.C:
		case <-end.Done():
			require.FailNow(t, "timed out", "%q never arrived", datagram)
		}
	}
}

func testRedial(t *testing.T, h TransportHarness) {
	a, b := openPair(t, h)
	for range 3 {
		l, r := connect(t, a, b)
		rr := receive(r)
		deliver(t, l, rr, []byte("hello"))
		require.NoError(t, l.Close())
		require.ErrorIs(t, wait(t, rr.err, "RecvBatch"), overlay.ErrPeerClosed)
		require.NoError(t, r.Close())
		a, b = b, a
	}
}

func testRedialAfterRestart(t *testing.T, h TransportHarness) {
	a, b := openPair(t, h)
	_, r := connect(t, a, b)
	rr := receive(r)
	require.NoError(t, a.Close())
	wait(t, rr.err, "RecvBatch")
	a = openPeer(t, h.Open, a.id)
	l, r := connect(t, a, b)
	deliver(t, r, receive(l), []byte("again"))
}
