package overlaytest

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

func memory(c Config, run func(*testing.T, func(*testing.T))) func(t *testing.T) TransportHarness {
	return func(*testing.T) TransportHarness {
		n := NewNet(c)
		return TransportHarness{Open: n.Opener(), Impostor: n.Impostor, Cut: n.Cut, Heal: n.Heal, Run: run}
	}
}

func TestTransport(t *testing.T) {
	for name, c := range map[string]Config{
		"perfect": {},
		"slow":    {Delay: 20 * time.Millisecond},
		"lossy":   {Seed: 7, Loss: 0.2, Dup: 0.1, Reorder: 0.2, Delay: 5 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) { RunTransport(t, memory(c, synctest.Test)) })
	}
}

// TestTransportRealTime runs the suite outside of a bubble, where goroutines race.
func TestTransportRealTime(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 10 s")
	}
	RunTransport(t, memory(Config{Delay: time.Millisecond}, nil))
}

func TestSignaler(t *testing.T) {
	for name, c := range map[string]Config{"perfect": {}, "lossy": {Seed: 3, SignalLoss: 0.3, SignalDup: 0.3}} {
		t.Run(name, func(t *testing.T) {
			RunSignaler(t, func(*testing.T) SignalHarness {
				return SignalHarness{Open: NewNet(c).SignalOpener(), Run: synctest.Test}
			})
		})
	}
}

// newPair is two linked peers in a fresh Net.
func newPair(t testing.TB, c Config) (n *Net, l, r overlay.Link) {
	n = NewNet(c)
	a, b := openPair(t, TransportHarness{Open: n.Opener()})
	l, r = connect(t, a, b)
	return n, l, r
}

func (r *receiver) drain() (got []string) {
	for {
		select {
		case d := <-r.got:
			got = append(got, string(d))
		default:
			return got
		}
	}
}

func TestCountsAndBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, l, r := newPair(t, Config{})
		rr := receive(r)
		a, b := r.Peer(), l.Peer()
		send(t, l, []byte("one"), []byte("three"))
		synctest.Wait()
		require.Equal(t, []string{"one", "three"}, rr.drain())
		require.Equal(t, Counts{Sent: 2, Bytes: 8, Delivered: 2}, n.Counts(a, b))
		require.Zero(t, n.Counts(b, a))

		n.Block(a, b, true)
		send(t, l, []byte("lost"))
		<-time.After(time.Minute) // the link lives, but for the datagrams
		require.Empty(t, rr.drain())
		n.Block(a, b, false)
		n.SetFilter(func(from, to overlay.PeerID, d []byte) bool { return from != a || d[0] != 'x' })
		send(t, l, []byte("x"), []byte("y"))
		synctest.Wait()
		require.Equal(t, []string{"y"}, rr.drain())
		require.Equal(t, Counts{Sent: 5, Bytes: 14, Delivered: 3}, n.Counts(a, b))
		require.Equal(t, n.Counts(a, b), n.Total())
		require.Equal(t, Address(a), r.Path().Remote)
	})
}

func TestFateFollowsSeed(t *testing.T) {
	run := func(t *testing.T, seed uint64, ids ...*overlay.Identity) (got []string) {
		synctest.Test(t, func(t *testing.T) {
			n := NewNet(Config{Seed: seed, Loss: 0.3, Dup: 0.2, Reorder: 0.3})
			a, b := openPeer(t, n.Opener(), ids[0]), openPeer(t, n.Opener(), ids[1])
			l, r := connect(t, a, b)
			rr := receive(r)
			for i := range 100 {
				send(t, l, []byte{byte(i)})
			}
			<-time.After(time.Second)
			got = rr.drain()
		})
		return got
	}
	a, b := NewIdentity(t), NewIdentity(t)
	one := run(t, 1, a, b)
	require.Equal(t, one, run(t, 1, a, b))
	require.NotEqual(t, one, run(t, 2, a, b))
	different := map[string]bool{}
	for _, m := range one {
		different[m] = true
	}
	require.Less(t, len(different), 100, "some are lost")
	require.Less(t, len(different), len(one), "some come twice")
}

func TestHealInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, l, r := newPair(t, Config{})
		rr := receive(r)
		n.Cut(l.Peer(), r.Peer())
		<-time.After(2 * time.Second)
		n.Heal(l.Peer(), r.Peer())
		<-time.After(time.Minute)
		deliver(t, l, rr, []byte("alive"))
	})
}

func TestCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNet(Config{})
		a, b := openPair(t, TransportHarness{Open: n.Opener()})
		l, r := connect(t, a, b)
		lr, rr := receive(l), receive(r)
		start := time.Now()
		n.Crash(a.ID())
		require.ErrorIs(t, wait(t, lr.err, "RecvBatch"), overlay.ErrClosed)
		require.ErrorIs(t, wait(t, rr.err, "RecvBatch"), overlay.ErrLinkLost)
		require.Equal(t, 2500*time.Millisecond, time.Since(start))
		a = openPeer(t, n.Opener(), a.id)
		connect(t, b, a)
	})
}

// TestOneLink: dials that meet make exactly one Link, and no Accept returns it.
func TestOneLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNet(Config{Delay: time.Millisecond})
		a, b := openPair(t, TransportHarness{Open: n.Opener()})
		accepted := make(chan result, 2)
		for _, p := range []*peer{a, b} {
			go func() {
				l, err := p.Accept(t.Context())
				accepted <- result{l, err}
			}()
		}
		da, db := goDial(timeout(t), a, b.ID()), goDial(timeout(t), b, a.ID())
		ra, rb := wait(t, da, "Dial"), wait(t, db, "Dial")
		require.NoError(t, ra.err)
		require.NoError(t, rb.err)
		require.Same(t, ra.link.(*link).other, rb.link.(*link))
		synctest.Wait()
		require.Empty(t, accepted)
	})
}

func TestOpenTwice(t *testing.T) {
	n := NewNet(Config{})
	a := openPeer(t, n.Opener(), NewIdentity(t))
	_, err := n.Opener()(t.Context(), a.env())
	require.Error(t, err)
}

func (p *peer) env() overlay.Env { return overlay.Env{Identity: p.id, Admission: p} }

func BenchmarkLink(b *testing.B) {
	_, l, r := newPair(b, Config{})
	out, in := tap.NewBatch(32, 32*1500), tap.NewBatch(32, 32*1500)
	frame := pattern(1400, 1)
	b.SetBytes(32 * 1400)
	b.ReportAllocs()
	for b.Loop() {
		out.Reset()
		for range 32 {
			out.Append(frame, tap.Offload{})
		}
		if err := l.SendBatch(out); err != nil {
			b.Fatal(err)
		}
		for n := 0; n < 32; n += in.Len() {
			if err := r.RecvBatch(in); err != nil {
				b.Fatal(err)
			}
		}
	}
}
