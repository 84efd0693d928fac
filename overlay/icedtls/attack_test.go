package icedtls

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
)

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// connect makes a Link from a to b.
func connect(t testing.TB, a, b *Transport) (l, r *link) {
	t.Helper()
	type result struct {
		link overlay.Link
		err  error
	}
	accepted := make(chan result, 1)
	go func() {
		l, err := b.Accept(testContext(t))
		accepted <- result{l, err}
	}()
	x, err := a.Dial(testContext(t), b.self)
	require.NoError(t, err)
	y := <-accepted
	require.NoError(t, y.err)
	return x.(*link), y.link.(*link)
}

// until waits for a condition that another goroutine makes true.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := testContext(t); !ok(); <-tick.C {
		require.NoError(t, end.Err(), what)
	}
}

// exchange sends text from l to r, again until it arrives.
func exchange(t testing.TB, l, r *link, text string) {
	t.Helper()
	got := make(chan string, 1)
	go func() {
		b := tap.NewBatch(16, 16*1500)
		for {
			if err := r.RecvBatch(b); err != nil {
				got <- err.Error()
				return
			}
			for i := range b.Len() {
				if string(b.Frame(i)) == text {
					got <- text
					return
				}
			}
		}
	}()
	b := tap.NewBatch(1, 1500)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := testContext(t); ; {
		b.Reset()
		require.True(t, b.Append([]byte(text), tap.Offload{}))
		require.NoError(t, l.SendBatch(b))
		select {
		case s := <-got:
			require.Equal(t, text, s)
			return
		case <-tick.C:
		case <-end.Done():
			require.FailNow(t, "timed out")
		}
	}
}

// TestOtherCertificate: signalling is right, but whoever stands on the path shows
// another key in DTLS.
func TestOtherCertificate(t *testing.T) {
	for name, impostorDials := range map[string]bool{"at the dialler": false, "at the acceptor": true} {
		t.Run(name, func(t *testing.T) {
			n := newTestNet()
			n.config.DialTimeout = 3 * time.Second
			honest := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
			c := n.config
			c.certify = overlaytest.NewIdentity(t)
			bad := openTransport(t, n.open(c), overlaytest.NewIdentity(t), nil)
			if impostorDials {
				_, err := bad.Dial(testContext(t), honest.self)
				require.ErrorIs(t, err, overlay.ErrUnreachable)
				until(t, "WrongKey was not counted", func() bool { return honest.Stats().WrongKey == 1 })
			} else {
				_, err := honest.Dial(testContext(t), bad.self)
				require.ErrorIs(t, err, overlay.ErrWrongPeer)
				require.EqualValues(t, 1, honest.Stats().WrongKey)
			}
			ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
			defer cancel()
			_, err := honest.Accept(ctx)
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
	}
}

func TestGarbageToSocket(t *testing.T) {
	n := newTestNet()
	a := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	b := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	l, r := connect(t, a, b)
	stranger, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(b.socket.addr))
	require.NoError(t, err)
	defer stranger.Close()
	cid := r.session.connectionID()
	record := append([]byte{recordWithCID, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 99}, cid...)
	for _, g := range [][]byte{
		{0}, {1, 2, 3}, {20}, {22, 0xfe, 0xfd}, {25}, {63, 1}, {64}, {127}, {128}, {192, 0, 0, 0, 0}, {255},
		make([]byte, 1500),
		append(record, 0, 40),
		append(append(record, 0, 40), make([]byte, 40)...), // a record that does not open
		{0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 6, 0, 4, 'a', ':', 'b', 'c'},
		{1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
	} {
		for range 5 {
			_, err := stranger.Write(g)
			require.NoError(t, err)
		}
	}
	until(t, "garbage was not counted", func() bool { return b.Stats().Dropped >= 60 })
	exchange(t, l, r, "still there")
	exchange(t, r, l, "and back")
}

// TestCrashAndReturn: a peer comes back on the same port while its old Link is
// still thought to be alive.
func TestCrashAndReturn(t *testing.T) {
	n := newTestNet()
	id := overlaytest.NewIdentity(t)
	a := openTransport(t, n.open(n.config), id, nil)
	b := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	_, old := connect(t, a, b)
	c := n.config
	c.Listen = a.socket.addr
	n.cut(a.self, b.self, true) // no goodbye
	require.NoError(t, a.Close())
	n.cut(a.self, b.self, false)
	a = openTransport(t, n.open(c), id, nil)
	l, r := connect(t, a, b)
	require.ErrorIs(t, old.RecvBatch(tap.NewBatch(1, 100)), overlay.ErrLinkLost)
	exchange(t, l, r, "new")
	exchange(t, r, l, "new too")
}

// TestTwoLinks: Links between the same two sockets do not meet.
func TestTwoLinks(t *testing.T) {
	n := newTestNet()
	a := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	b := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	l1, r1 := connect(t, a, b)
	l2, r2 := connect(t, b, a)
	for range 3 {
		exchange(t, l1, r1, "one")
		exchange(t, r2, l2, "two")
		exchange(t, l2, r2, "three")
		exchange(t, r1, l1, "four")
	}
	require.NoError(t, l1.Close())
	exchange(t, l2, r2, "survivor")
}

// TestSimultaneous: dials that meet make one Link.
func TestSimultaneous(t *testing.T) {
	n := newTestNet()
	a := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	b := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	for met, apart := 0, 0; met < 10; {
		type result struct {
			link overlay.Link
			err  error
		}
		got := make(chan result, 2)
		begin := make(chan struct{})
		for _, d := range []struct{ from, to *Transport }{{a, b}, {b, a}} {
			go func() {
				<-begin
				l, err := d.from.Dial(testContext(t), d.to.self)
				got <- result{l, err}
			}()
		}
		close(begin)
		x, y := <-got, <-got
		require.NoError(t, x.err)
		require.NoError(t, y.err)
		if x.link.(*link).session.id != y.link.(*link).session.id {
			// On a busy machine one dial was over before the other began: two Links, rightly.
			apart++
			require.Less(t, apart, 50, "dials that meet make two Links")
			for _, from := range []*Transport{a, b} {
				l, err := from.Accept(testContext(t))
				require.NoError(t, err)
				require.NoError(t, l.Close())
			}
			require.NoError(t, x.link.Close())
			require.NoError(t, y.link.Close())
			continue
		}
		met++
		require.NotEqual(t, x.link.Peer(), y.link.Peer())
		exchange(t, x.link.(*link), y.link.(*link), "one link")
		exchange(t, y.link.(*link), x.link.(*link), "both ways")
		require.Empty(t, a.accepted)
		require.Empty(t, b.accepted)
		require.NoError(t, x.link.Close())
		require.NoError(t, y.link.Close())
	}
	// An offer that was overtaken by its own end begins what comes to nothing in time.
	until(t, "nothing is left", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.links)+len(a.calls)+len(a.inbound)+len(a.dials) == 0
	})
	require.Empty(t, a.socket.byAddr)
	require.Empty(t, a.socket.byCID)
}

// TestLossySignalling: offers are sent again; repeats make nothing twice.
func TestLossySignalling(t *testing.T) {
	n := newTestNet()
	n.signals = overlaytest.NewNet(overlaytest.Config{Seed: 5, SignalLoss: 0.4, SignalDup: 0.5})
	n.config.Signal = n.signals.SignalOpener()
	a := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	b := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	for range 4 {
		l, r := connect(t, a, b)
		exchange(t, l, r, "made it")
		require.NoError(t, l.Close())
		require.NoError(t, r.Close())
	}
	require.Empty(t, a.accepted)
	require.Empty(t, b.accepted)
}

// TestLossyPath: a quarter of all datagrams lost does not keep a Link from being
// made, nor end it.
func TestLossyPath(t *testing.T) {
	n := newTestNet()
	lossy := n.config
	lossy.drop = (&chance{rand: rand.New(rand.NewPCG(1, 2))}).drop
	a := openTransport(t, Open(lossy), overlaytest.NewIdentity(t), nil)
	b := openTransport(t, Open(n.config), overlaytest.NewIdentity(t), nil)
	l, r := connect(t, a, b)
	for range 20 {
		exchange(t, l, r, "there")
		exchange(t, r, l, "back")
	}
}

// chance drops every fourth datagram on average; no pattern may fall in step with
// what is sent again.
type chance struct {
	mu   sync.Mutex
	rand *rand.Rand
}

func (c *chance) drop([]byte, netip.AddrPort) bool { return c.one(4) }

// one is true once in n times.
func (c *chance) one(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rand.IntN(n) == 0
}

// TestReplay: an old offer played again, changed, or sent on to somebody else,
// makes nothing.
func TestReplay(t *testing.T) {
	n := newTestNet()
	a := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	b := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	c := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	offer := func(when time.Time) []byte {
		id := newSessionID()
		m := &message{
			Version: messageVersion, Kind: kindOffer, From: a.self[:], To: b.self[:], Session: id[:],
			Time: when.UnixMilli(), Ufrag: "abcdefgh", Pwd: "0123456789012345678901",
			Candidates: []candidate{{Kind: candidateHost, Addr: []byte{127, 0, 0, 1}, Port: 9, Priority: 1}},
		}
		b, err := a.signer.seal(m)
		require.NoError(t, err)
		return b
	}
	now := time.Now()
	good := offer(now)
	require.ErrorIs(t, c.signalled(a.self, good, now), errNotForUs)
	require.ErrorIs(t, b.signalled(c.self, good, now), errNotForUs)
	require.ErrorIs(t, b.signalled(a.self, good, now.Add(time.Hour)), errStale)
	require.ErrorIs(t, b.signalled(a.self, good, now.Add(-time.Hour)), errStale)
	require.ErrorIs(t, b.signalled(a.self, append(good, 0), now), errMalformed)
	inbound := func() int {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.inbound)
	}
	require.Zero(t, inbound())
	e, _, err := a.signer.parse(good)
	require.NoError(t, err)
	e.Signature[len(e.Signature)-1] ^= 1
	forged, err := a.signer.enc.Marshal(e)
	require.NoError(t, err)
	require.NoError(t, b.signalled(a.self, forged, now))
	require.EqualValues(t, 1, b.Stats().WrongKey)
	require.Zero(t, inbound())

	require.NoError(t, b.signalled(a.self, good, now))
	require.Equal(t, 1, inbound())
	b.mu.Lock()
	first := b.inbound[a.self]
	b.mu.Unlock()
	require.NoError(t, b.signalled(a.self, offer(now), now)) // a began anew
	require.Equal(t, 1, inbound())
	<-first.done
	require.NoError(t, b.signalled(a.self, good, now)) // played again
	b.mu.Lock()
	second := b.inbound[a.self]
	b.mu.Unlock()
	require.NotEqual(t, first.id, second.id)
}

// TestFlood: offers of many strangers are refused within bounds; the one that is
// admitted still gets through.
func TestFlood(t *testing.T) {
	n := newTestNet()
	friend := overlaytest.NewIdentity(t)
	b := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t),
		overlay.AdmitFunc(func(id overlay.PeerID) bool { return id == friend.ID() }))
	stranger := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	rate := func(perSecond float64) { // not what a slow machine makes of it
		x := b.limits.offers
		x.mu.Lock()
		defer x.mu.Unlock()
		x.rate, x.at = perSecond, time.Now()
	}
	rate(0)
	now := time.Now()
	for range 1000 {
		id := newSessionID()
		m := &message{
			Version: messageVersion, Kind: kindOffer, From: stranger.self[:], To: b.self[:], Session: id[:],
			Time: now.UnixMilli(), Ufrag: "abcdefgh", Pwd: "0123456789012345678901",
		}
		raw, err := stranger.signer.seal(m)
		require.NoError(t, err)
		require.NoError(t, b.signalled(stranger.self, raw, now))
	}
	require.Equal(t, uint64(400), b.Stats().Refused, "verification is limited")
	rate(200)
	b.mu.Lock()
	require.Empty(t, b.inbound)
	b.mu.Unlock()
	a := openTransport(t, n.open(n.config), friend, nil)
	connect(t, a, b)
}

func TestNoAddress(t *testing.T) {
	n := newTestNet()
	n.config.IncludeLoopback = false
	a := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	_, err := a.Dial(testContext(t), overlaytest.NewIdentity(t).ID())
	require.ErrorIs(t, err, overlay.ErrUnreachable)
	require.ErrorContains(t, err, "no address to offer")
}

func TestConfigRejects(t *testing.T) {
	_, err := Open(Config{})(t.Context(), overlay.Env{})
	require.ErrorContains(t, err, "Signal is missing")
	n := newTestNet()
	n.config.UnderlayMTU = 500
	_, err = Open(n.config)(t.Context(), overlay.Env{})
	require.ErrorContains(t, err, "UnderlayMTU")
	n.config.UnderlayMTU, n.config.Listen = 0, netip.MustParseAddrPort("192.0.2.1:0")
	_, err = Open(n.config)(t.Context(), overlay.Env{Identity: overlaytest.NewIdentity(t)})
	require.Error(t, err, "an address that is not ours")
}
