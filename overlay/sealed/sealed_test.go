package sealed

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/leaktest"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/natssignal"
	"github.com/viasnet/vias/overlay/natssignal/embedded"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/overlay/tcpsignal"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// The suite, in memory: well, and over a carrier that loses and repeats much.
func TestSignaler(t *testing.T) {
	for name, config := range map[string]overlaytest.Config{
		"perfect": {}, "bad": {Seed: 7, SignalLoss: 0.3, SignalDup: 0.5},
	} {
		t.Run(name, func(t *testing.T) {
			overlaytest.RunSignaler(t, func(*testing.T) overlaytest.SignalHarness {
				return overlaytest.SignalHarness{
					Open: Open(overlaytest.NewNet(config).SignalOpener(), Config{}), MaxMessage: MaxMessage, Run: synctest.Test,
				}
			})
		})
	}
}

func TestOverTCP(t *testing.T) {
	overlaytest.RunSignaler(t, func(t *testing.T) overlaytest.SignalHarness {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- tcpsignal.Serve(ctx, ln, tcpsignal.ServerConfig{}) }()
		t.Cleanup(func() { cancel(); require.NoError(t, <-ended) })
		return overlaytest.SignalHarness{Open: Open(tcpsignal.Dial(ln.Addr().String()), Config{}), MaxMessage: MaxMessage}
	})
}

func TestOverNATS(t *testing.T) {
	overlaytest.RunSignaler(t, func(t *testing.T) overlaytest.SignalHarness {
		s, err := embedded.Start(t.Context(), embedded.Config{Listen: netip.MustParseAddrPort("127.0.0.1:0")})
		require.NoError(t, err)
		t.Cleanup(func() { _ = s.Close() })
		inner := natssignal.Open(natssignal.Config{Servers: []string{s.URL()}, Network: "blue"})
		return overlaytest.SignalHarness{Open: Open(inner, Config{}), MaxMessage: MaxMessage}
	})
}

// The server never sees a message: not at first contact either.
func TestNothingInTheClear(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCarrier()
		a, b := c.node(t), c.node(t)
		const secret = "a secret that is longer than chance"
		a.say(t, b, secret)
		b.say(t, a, secret)
		require.Equal(t, []string{secret}, b.hears(t))
		require.Equal(t, []string{secret}, a.hears(t))
		for _, p := range c.log {
			require.NotContains(t, string(p.packet), secret)
		}
		require.Len(t, c.log, 4, "ask, card, and one packet a message: the first one told the key for the answer")
		for n, want := range map[int]int{1: 1, 20: 1, 250: 2, 500: 3} { // padded
			c.log = nil
			a.say(t, b, string(make([]byte, n)))
			require.Equal(t, headLength+nameLength+keyLength+tagLength+want*padding, len(c.log[0].packet), "%d bytes", n)
		}
	})
}

// A server that repeats everything, at once and for days, gets nothing in twice.
func TestReplay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCarrier()
		a, b := c.node(t), c.node(t)
		c.setRule(func(p carried) []carried { return []carried{p, p, p} })
		for i := range 3 * maxSeen {
			a.say(t, b, string(rune('0'+i)))
		}
		require.Len(t, b.hears(t), 3*maxSeen)
		old := c.seen(kindSealed)
		for range 20 {
			<-time.After(window / 5)
			for _, p := range old {
				c.deliver(p)
			}
			require.Empty(t, b.hears(t))
		}
		require.NotZero(t, b.Stats().Replayed)
		require.NotZero(t, b.Stats().Late)
		a.say(t, b, "alive")
		require.Equal(t, []string{"alive"}, b.hears(t))

		// Nor does it help that b forgot everything.
		require.NoError(t, b.Close())
		again := c.open(t, b.id, Config{})
		for _, p := range c.seen(kindSealed) {
			c.deliver(p)
		}
		require.Empty(t, again.hears(t))
	})
}

// A server may hold messages back and change their order; they come once, if within the
// window.
func TestReorder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCarrier()
		a, b := c.node(t), c.node(t)
		a.say(t, b, "first")
		b.hears(t)
		var held []carried
		c.setRule(func(p carried) []carried { held = append(held, p); return nil })
		want := []string{}
		for i := range maxSeen {
			a.say(t, b, string(rune('A'+i)))
			want = append(want, string(rune('A'+i)))
		}
		c.setRule(nil)
		<-time.After(window - time.Second)
		for i := range held {
			c.deliver(held[len(held)-1-i])
			c.deliver(held[len(held)-1-i])
		}
		require.ElementsMatch(t, want, b.hears(t))
		require.EqualValues(t, maxSeen, b.Stats().Replayed)
		held = nil
		c.setRule(func(p carried) []carried { held = append(held, p); return nil })
		a.say(t, b, "too late")
		c.setRule(nil)
		<-time.After(window + time.Second)
		c.deliver(held[0])
		require.Empty(t, b.hears(t))
		a.say(t, b, "in time")
		require.Equal(t, []string{"in time"}, b.hears(t))
	})
}

// Who is not the sender cannot make, change, redirect or claim a message.
func TestForgery(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCarrier()
		a, b, eve := c.node(t), c.node(t), c.node(t)
		a.say(t, b, "real")
		eve.say(t, b, "eve's own")
		a.say(t, eve, "for eve")
		require.ElementsMatch(t, []string{"real", "eve's own"}, b.hears(t))
		sealed := c.seen(kindSealed)
		for i := range sealed[0].packet { // every byte counts
			bad := sealed[0]
			bad.packet = bytes.Clone(bad.packet)
			bad.packet[i] ^= 0x40
			c.deliver(bad)
		}
		for _, p := range sealed {
			for _, from := range []*node{a, b, eve} {
				for _, to := range []*node{a, b, eve} {
					if from.ID() != p.from || to.ID() != p.to {
						c.deliver(carried{from.ID(), to.ID(), p.packet})
					}
				}
			}
		}
		require.Empty(t, a.hears(t))
		require.Empty(t, b.hears(t))
		require.Equal(t, []string{"for eve"}, eve.hears(t))

		// Eve, to whom a wrote, sends that on to b as a's: she can encrypt, but a named her.
		var opened *content
		p := sealed[2]
		require.Equal(t, eve.ID(), p.to)
		opened, err := eve.keys.young.open(a.ID(), eve.ID(), p.packet)
		require.NoError(t, err)
		key, err := newPublicKey(b.keys.young.raw[:])
		require.NoError(t, err)
		refused := b.Stats().Refused
		for _, identity := range [][]byte{opened.identity, eve.own.identity} { // whose key it says it is
			forger := &author{id: a.ID(), key: eve.id.Key(), identity: identity}
			packet, err := forger.seal(b.ID(), key, &content{id: opened.id, stamp: b.now(), reply: opened.reply, clock: opened.clock, body: opened.body})
			require.NoError(t, err)
			c.deliver(carried{a.ID(), b.ID(), packet})
		}
		require.Empty(t, b.hears(t))
		require.Equal(t, refused+2, b.Stats().Refused)
	})
}

// A card counts only from its owner, to who asked, for that question, and soon.
func TestForgedCards(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCarrier()
		a, b, eve := c.node(t), c.node(t), c.node(t)
		now := time.Now().UnixMicro()
		var held []carried
		c.setRule(func(p carried) []carried {
			if p.packet[3] != kindAsk {
				return []carried{p}
			}
			nonce := [nonceLength]byte(p.packet[headLength:])
			mine, err := eve.own.card(a.ID(), nonce, eve.keys.young.raw, now)
			require.NoError(t, err)
			claimed, err := (&author{id: b.ID(), key: eve.id.Key(), identity: b.own.identity}).card(a.ID(), nonce, eve.keys.young.raw, now)
			require.NoError(t, err)
			named, err := (&author{id: b.ID(), key: eve.id.Key(), identity: eve.own.identity}).card(a.ID(), nonce, eve.keys.young.raw, now)
			require.NoError(t, err)
			other, err := b.own.card(eve.ID(), nonce, b.keys.young.raw, now) // for eve
			require.NoError(t, err)
			old, err := b.own.card(a.ID(), [nonceLength]byte{1}, b.keys.young.raw, now)
			require.NoError(t, err)
			real, err := b.own.card(a.ID(), nonce, b.keys.young.raw, now)
			require.NoError(t, err)
			var out []carried
			for _, card := range [][]byte{mine, claimed, named, other, old} {
				out = append(out, carried{b.ID(), a.ID(), card})
			}
			for i := headLength; i < len(real); i++ {
				bad := bytes.Clone(real)
				bad[i] ^= 0x40
				out = append(out, carried{b.ID(), a.ID(), bad})
			}
			held = append(held, carried{b.ID(), a.ID(), real})
			return out
		})
		a.say(t, b, "for b alone")
		require.Empty(t, c.seen(kindSealed))
		<-time.After(askLife + time.Second)
		c.deliver(held[0]) // the real one, held back for too long
		synctest.Wait()
		require.Nil(t, a.contacts.all[b.ID()].key)
		require.Empty(t, c.seen(kindSealed))
		c.setRule(nil)
		a.say(t, b, "again")
		require.Equal(t, []string{"again"}, b.hears(t), "and what waited for too long is gone")
	})
}

// Clocks that are days apart, that drift, jump, or stop for a while.
func TestClocks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var skew time.Duration
		c := newCarrier()
		a := c.node(t)
		b := c.open(t, overlaytest.NewIdentity(t), Config{clock: func() time.Time { return time.Now().Round(0).Add(skew) }})
		both := func(why string) {
			t.Helper()
			// What is refused is sent again, as whoever uses a Signaler does.
			for _, way := range [][2]*node{{a, b}, {b, a}} {
				got := false
				for range 10 {
					way[0].say(t, way[1], why)
					if got = len(way[1].hears(t)) > 0; got {
						break
					}
					<-time.After(500 * time.Millisecond)
				}
				require.True(t, got, why)
			}
		}
		both("equal")
		skew = 40 * 24 * time.Hour
		both("jumped ahead")
		<-time.After(window * 3)
		both("and later")
		skew = 40*24*time.Hour + 10*time.Hour
		both("jumped again")
		for range 100 { // 1 % faster
			<-time.After(10 * time.Minute)
			skew += 6 * time.Second
			both("drifts")
		}
		far := c.open(t, overlaytest.NewIdentity(t), Config{clock: func() time.Time { return time.Now().Round(0).Add(-20 * 365 * 24 * time.Hour) }})
		a.say(t, far, "hello, past")
		require.Equal(t, []string{"hello, past"}, far.hears(t), "any skew that does not change costs nothing")
		far.say(t, b, "hello, future")
		require.Equal(t, []string{"hello, future"}, b.hears(t))
	})
}

// A peer that is started anew has other keys: it says so, and is asked.
func TestRestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCarrier()
		a, b := c.node(t), c.node(t)
		a.say(t, b, "one")
		b.say(t, a, "two")
		b.hears(t)
		require.NoError(t, b.Close())
		<-time.After(time.Minute)
		b = c.open(t, b.id, Config{})
		a.say(t, b, "is lost, but makes b tell")
		a.say(t, b, "three")
		require.Equal(t, []string{"three"}, b.hears(t))
		b.say(t, a, "four")
		require.Equal(t, []string{"two", "four"}, a.hears(t))
	})
}

// Keys are made anew every hour, and who was silent for long enough asks again.
func TestKeysChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCarrier()
		a, b := c.node(t), c.node(t)
		a.say(t, b, "one")
		first := b.keys.young
		<-time.After(keyLife + time.Minute)
		b.say(t, a, "with the next key")
		require.NotEqual(t, first.name, b.keys.young.name)
		a.say(t, b, "two")
		require.Equal(t, b.keys.young.name, keyName(c.seen(kindSealed)[2].packet[headLength:]))
		other := c.node(t)
		other.say(t, b, "three")
		for range 2 {
			<-time.After(keyLife + time.Minute)
			b.say(t, a, "next")
		}
		require.Nil(t, b.keys.named(first.name), "it is gone for ever")
		other.say(t, b, "with a key that is gone")
		other.say(t, b, "four")
		require.Equal(t, []string{"one", "two", "three", "four"}, b.hears(t))
	})
}

// Whatever strangers send, memory stays bounded, and peers that are known are heard.
func TestBounds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCarrier()
		b := c.open(t, overlaytest.NewIdentity(t), Config{MaxPeers: 8})
		friend := c.node(t)
		friend.say(t, b, "first")
		for i := range 40 {
			c.node(t).say(t, b, "stranger "+string(rune('0'+i)))
		}
		friend.say(t, b, "still heard")
		got := b.hears(t)
		require.Len(t, got, 1+7+1)
		require.Equal(t, "still heard", got[len(got)-1])
		require.Len(t, b.seen.all, 8)
		require.Len(t, b.contacts.all, 8)
		require.EqualValues(t, 33, b.Stats().Dropped)
		<-time.After(window + 2*time.Second)
		c.node(t).say(t, b, "there is room again")
		require.Equal(t, []string{"there is room again"}, b.hears(t))

		// What waits for keys that never come.
		for range 20 {
			nobody := overlaytest.NewIdentity(t).ID()
			for i := range 3 * maxWaiting {
				require.NoError(t, b.Send(t.Context(), nobody, bytes.Repeat([]byte{byte(i)}, MaxMessage)))
			}
		}
		require.LessOrEqual(t, b.contacts.bytes, 8*maxWaiting*MaxMessage)
		require.Len(t, b.contacts.all, 8)
		require.Len(t, c.seen(kindStale), 0)
	})
}

// Floods of packets that cost us signatures are cut off, and the rest goes on after.
func TestFlood(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCarrier()
		a, b := c.node(t), c.node(t)
		a.say(t, b, "one")
		b.hears(t)
		stranger := overlaytest.NewIdentity(t).ID()
		for range 3000 {
			c.deliver(carried{stranger, b.ID(), askPacket([nonceLength]byte{})})
			synctest.Wait()
		}
		require.LessOrEqual(t, len(c.seen(kindCard)), 402)
		require.NotZero(t, b.Stats().Dropped)
		<-time.After(3 * time.Second)
		a.say(t, b, "two")
		require.Equal(t, []string{"two"}, b.hears(t))
	})
}

func TestAdmit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCarrier()
		good, bad := c.node(t), c.node(t)
		b := c.open(t, overlaytest.NewIdentity(t), Config{Admit: func(id overlay.PeerID) bool { return id == good.ID() }})
		good.say(t, b, "good")
		bad.say(t, b, "bad")
		require.Equal(t, []string{"good"}, b.hears(t))
		require.Len(t, c.seen(kindCard), 1, "not even the key is told")
	})
}

// The inner Signaler's end is ours.
func TestInnerEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCarrier()
		a := c.node(t)
		require.NoError(t, a.inner.Close())
		_, _, err := a.Recv(t.Context())
		require.ErrorIs(t, err, overlay.ErrClosed)
		require.ErrorIs(t, a.Send(t.Context(), a.ID(), nil), overlay.ErrClosed)
	})
}
