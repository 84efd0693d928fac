package overlaytest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// The cases of RunTransport that are about a Link once it is there.

func testSizes(t *testing.T, h TransportHarness) {
	a, b := openPair(t, h)
	l, r := connect(t, a, b)
	lr, rr := receive(l), receive(r)
	mtu := settledMTU(t, l)
	for _, n := range []int{1, 2, 3, 63, 64, 65, 576, mtu - 17, mtu - 1, mtu} {
		deliver(t, l, rr, pattern(n, n))
		deliver(t, r, lr, pattern(n, n+1))
	}
}

// settledMTU is the MTU of a Link whose ends both receive, when it has stopped to rise.
func settledMTU(t *testing.T, l overlay.Link) int {
	t.Helper()
	const quiet = 600 * time.Millisecond
	mtu, since := l.Path().MTU, time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := timeout(t); time.Since(since) < quiet; {
		select {
		case <-end.Done():
			require.FailNow(t, "the MTU does not settle")
		case now := <-tick.C:
			if n := l.Path().MTU; n != mtu {
				mtu, since = n, now
			}
		}
	}
	return mtu
}

func testBatches(t *testing.T, h TransportHarness) {
	a, b := openPair(t, h)
	l, r := connect(t, a, b)
	rr := receive(r)
	seen := map[string]bool{}
	var all [][]byte
	for i := range 100 {
		all = append(all, pattern(10+i*7, i))
	}
	// A link may lose some; a batch that is sent again in small steps gets through.
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := timeout(t); len(seen) < len(all); {
		var batch [][]byte
		for _, d := range all {
			if !seen[string(d)] && len(batch) < 20 {
				batch = append(batch, d)
			}
		}
		send(t, l, batch...)
		for want := len(seen) + len(batch); len(seen) < want; {
			var again bool
			select {
			case d := <-rr.got:
				seen[string(d)] = true
			case <-tick.C:
				again = true
			case <-end.Done():
				require.FailNow(t, "timed out", "%d of %d arrived", len(seen), len(all))
			}
			if again {
				break
			}
		}
	}
	for _, d := range all {
		require.True(t, seen[string(d)], "a datagram was changed on its way")
	}
	require.Len(t, seen, len(all))
}

func testOversize(t *testing.T, h TransportHarness) {
	a, b := openPair(t, h)
	l, r := connect(t, a, b)
	rr := receive(r)
	before := a.Stats().Dropped
	send(t, l, []byte("first"), make([]byte, settledMTU(t, l)+1), make([]byte, 60000))
	require.Equal(t, before+2, a.Stats().Dropped)
	deliver(t, l, rr, []byte("alive"))
	require.NoError(t, l.SendBatch(tap.NewBatch(1, 1)), "an empty batch")
	deliver(t, l, rr, []byte("still alive"))
}

func testBothWays(t *testing.T, h TransportHarness) {
	a, b := openPair(t, h)
	l, r := connect(t, a, b)
	lr, rr := receive(l), receive(r)
	done := make(chan error, 2)
	for _, from := range []overlay.Link{l, r} {
		go func() {
			batch := tap.NewBatch(8, 8192)
			for i := range 50 {
				batch.Reset()
				for j := range 8 {
					batch.Append(pattern(500, i*8+j), tap.Offload{})
				}
				if err := from.SendBatch(batch); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	require.NoError(t, wait(t, done, "sender"))
	require.NoError(t, wait(t, done, "sender"))
	deliver(t, l, rr, []byte("end"))
	deliver(t, r, lr, []byte("end"))
}

func testCloseLocal(t *testing.T, h TransportHarness) {
	a, b := openPair(t, h)
	l, _ := connect(t, a, b)
	lr := receive(l)
	require.NoError(t, l.Close())
	require.NoError(t, l.Close(), "Close is idempotent")
	err := wait(t, lr.err, "RecvBatch")
	require.ErrorIs(t, err, overlay.ErrClosed)
	require.ErrorIs(t, l.RecvBatch(tap.NewBatch(1, 100)), overlay.ErrClosed)
	batch := tap.NewBatch(1, 100)
	batch.Append([]byte("x"), tap.Offload{})
	require.ErrorIs(t, l.SendBatch(batch), overlay.ErrClosed)
	require.Equal(t, b.ID(), l.Peer())
	require.NotPanics(t, func() { l.Path() })
}

func testClosePeer(t *testing.T, h TransportHarness) {
	a, b := openPair(t, h)
	for range 2 {
		l, r := connect(t, a, b)
		rr := receive(r)
		deliver(t, l, rr, []byte("hello"))
		start := time.Now()
		require.NoError(t, l.Close())
		require.ErrorIs(t, wait(t, rr.err, "RecvBatch"), overlay.ErrPeerClosed)
		require.Less(t, time.Since(start), time.Second, "an orderly close is told at once")
		batch := tap.NewBatch(1, 100)
		batch.Append([]byte("x"), tap.Offload{})
		require.ErrorIs(t, r.SendBatch(batch), overlay.ErrPeerClosed)
		require.NoError(t, r.Close())
		require.ErrorIs(t, r.RecvBatch(batch), overlay.ErrClosed)
		a, b = b, a
	}
}

func testLinkLost(t *testing.T, h TransportHarness) {
	if h.Cut == nil {
		t.Skip("the harness cannot cut")
	}
	a, b := openPair(t, h)
	l, r := connect(t, a, b)
	lr, rr := receive(l), receive(r)
	deliver(t, l, rr, []byte("hello"))
	start := time.Now()
	h.Cut(a.ID(), b.ID())
	require.ErrorIs(t, wait(t, lr.err, "RecvBatch"), overlay.ErrLinkLost)
	require.ErrorIs(t, wait(t, rr.err, "RecvBatch"), overlay.ErrLinkLost)
	// 3 s by contract; the rest is for a busy machine.
	require.Less(t, time.Since(start), 3*time.Second+500*time.Millisecond)
	require.NoError(t, l.Close())
	require.NoError(t, r.Close())
	h.Heal(a.ID(), b.ID())
	l, r = connect(t, a, b)
	deliver(t, l, receive(r), []byte("hello again"))
}

// testIdle: silence of the user is not loss.
func testIdle(t *testing.T, h TransportHarness) {
	a, b := openPair(t, h)
	l, r := connect(t, a, b)
	lr, rr := receive(l), receive(r)
	idle := time.NewTimer(4 * time.Second)
	defer idle.Stop()
	select {
	case <-idle.C:
	case err := <-lr.err:
		require.NoError(t, err, "an idle link ended")
	case err := <-rr.err:
		require.NoError(t, err, "an idle link ended")
	}
	deliver(t, l, rr, []byte("awake"))
	deliver(t, r, lr, []byte("awake too"))
}

func testPath(t *testing.T, h TransportHarness) {
	a, b := openPair(t, h)
	l, r := connect(t, a, b)
	receive(l)
	receive(r)
	settledMTU(t, l)
	settledMTU(t, r)
	p, q := l.Path(), r.Path()
	require.NotEqual(t, overlay.PathUnknown, p.Kind)
	require.Equal(t, p.Kind, q.Kind)
	require.True(t, p.Local.IsValid() && p.Remote.IsValid())
	require.Equal(t, p.Local, q.Remote)
	require.Equal(t, p.Remote, q.Local)
	require.Equal(t, p.MTU, q.MTU)
	require.GreaterOrEqual(t, p.MTU, 1200)
}

// testStats: what is sent is counted there, what comes here, and what is dropped by cause, at
// the link and at the transport.
func testStats(t *testing.T, h TransportHarness) {
	a, b := openPair(t, h)
	l, r := connect(t, a, b)
	rr := receive(r)
	mtu := settledMTU(t, l)
	deliver(t, l, rr, pattern(500, 1))
	sent, got := l.Stats(), r.Stats()
	require.GreaterOrEqual(t, sent.Sent.Bytes, uint64(500))
	require.Positive(t, sent.Sent.Datagrams)
	require.GreaterOrEqual(t, got.Received.Bytes, uint64(500))
	require.EqualValues(t, 1, sent.Paths)
	send(t, l, make([]byte, mtu+1))
	require.Equal(t, sent.Drops.TooLong+1, l.Stats().Drops.TooLong)
	require.Positive(t, a.Stats().Drops.TooLong)
	require.Equal(t, a.Stats().Dropped, a.Stats().Drops.Total())
	deliver(t, l, rr, pattern(500, 2))
	now := r.Stats()
	require.Greater(t, now.Received.Datagrams, got.Received.Datagrams)
	require.Greater(t, now.Received.Bytes, got.Received.Bytes+499)
}
