package vias

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
)

func TestSYNHeldAndInjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, h := bypassPair(t, bypass.Always, bypassed)
		first := tcpFrame(0, 1, 1000, 80, syn, 0)
		partial := tap.NewBatch(1, 2048)
		partial.Append(first, tap.Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16})
		partial.Frame(0)[50], partial.Frame(0)[51] = 0xab, 0xcd // whatever the pseudo-header's sum was
		require.NoError(t, a.wire.WriteBatch(partial))
		synctest.Wait()
		require.Len(t, h.injected, 1)
		require.NotEqual(t, []byte{0xab, 0xcd}, h.injected[0][50:52], "its checksum was finished")
		require.Equal(t, first[:50], h.injected[0][:50])
		require.Zero(t, b.Stats().Received.Frames, "released once, and not over the overlay")
		s := a.Stats()
		require.Equal(t, [3]uint64{1, 1, 0}, [3]uint64{s.Held, s.Injected, s.Expired})
		x := a.Explain(testFlow(0, 1, 1000, 80))
		require.Equal(t, bypass.Bypassed, x.State)
		require.Contains(t, x.What, "bypassed")

		// Should a packet of it come nevertheless, it is not lost.
		stray := tcpFrame(0, 1, 1000, 80, ack, 10)
		a.send(stray)
		b.expect(stray)
		require.Equal(t, 1, h.asked())
	})
}

func TestSYNHeldAndExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, h := bypassPair(t, bypass.Always, silent)
		f := tcpFrame(0, 1, 1000, 80, syn, 0)
		start := time.Now()
		a.send(f)
		b.expect(f)
		require.Equal(t, bypass.DefaultHold, time.Since(start))
		require.Equal(t, uint64(1), a.Stats().Expired)
		h.tell(bypass.Status{Flow: testFlow(0, 1, 1000, 80), State: bypass.Bypassed}) // too late
		synctest.Wait()
		require.Empty(t, h.injected)
	})
}

func TestSYNHeldAndRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuse := func(f bypass.Flow, _ bypass.Verdict) *bypass.Status {
			return &bypass.Status{Flow: f, Reason: bypass.ReasonPeerPolicy, RetryAt: time.Now().Add(10 * time.Second)}
		}
		a, b, h := bypassPair(t, bypass.Always, refuse)
		events := a.Events(t.Context())
		f := tcpFrame(0, 1, 1000, 80, syn, 0)
		start := time.Now()
		a.send(f)
		b.expect(f)
		require.Zero(t, time.Since(start), "nothing to wait for")
		x := a.Explain(testFlow(1, 0, 80, 1000)) // asked in the other direction
		require.Equal(t, testFlow(0, 1, 1000, 80), x.Flow)
		require.Equal(t, bypass.ReasonPeerPolicy, x.Reason)
		require.Equal(t, bypass.ReasonPeerPolicy.Remedy(), x.Remedy)
		for e := range events {
			require.Equal(t, FlowChanged{Flow: testFlow(0, 1, 1000, 80), Reason: bypass.ReasonPeerPolicy}, e)
			break
		}
		a.send(f) // the same five-tuple again: refused lately, so not held, not asked
		b.expect(f)
		require.Zero(t, time.Since(start))
		require.Equal(t, 1, h.asked())
		require.Equal(t, uint64(1), a.Stats().Held)
		<-time.After(11 * time.Second)
		a.send(tcpFrame(0, 1, 1000, 80, ack, 5))
		synctest.Wait()
		require.Equal(t, 2, h.asked(), "tried again")
	})
}

func TestInjectFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, h := bypassPair(t, bypass.Always, bypassed)
		h.injectErr = bypass.ErrSwitchDown
		f := tcpFrame(0, 1, 1000, 80, syn, 0)
		a.send(f)
		b.expect(f)
		h.injectErr = bypass.ErrUnconfirmed
		a.send(tcpFrame(0, 1, 1001, 80, syn, 0))
		synctest.Wait()
		require.Equal(t, Drops{OutReleased: 1}, a.Stats().Drops, "it may be out already")
		require.Equal(t, uint64(1), b.Stats().Received.Frames)
	})
}

func TestAskedAfterBytesAndNotTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		after := func(bypass.Request) bypass.Verdict { return bypass.Verdict{Bypass: true, After: 10_000} }
		a, b, h := bypassPair(t, after, silent)
		f := tcpFrame(0, 1, 1000, 80, ack, 1000)
		for range 9 {
			a.send(f)
			b.expect(f)
		}
		require.Zero(t, h.asked())
		require.Equal(t, bypass.ReasonThreshold, a.Explain(testFlow(0, 1, 1000, 80)).Reason)
		for range 20 {
			a.send(f)
			b.expect(f)
		}
		require.Equal(t, 1, h.asked(), "once a second, or each 256 KB")
		for range 250 {
			a.send(f)
			b.expect(f)
		}
		require.Equal(t, 2, h.asked())
		<-time.After(time.Second)
		a.send(f)
		b.expect(f)
		require.Equal(t, 3, h.asked())
		require.Zero(t, a.Stats().Held)
	})
}

func TestResponderDoesNotAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, h := bypassPair(t, bypass.Always, silent)
		f := tcpFrame(1, 0, 5000, 22, syn, 0)
		b.send(f)
		a.expect(f)
		answer := tcpFrame(0, 1, 22, 5000, syn|ack, 0)
		a.send(answer)
		b.expect(answer)
		require.Zero(t, h.asked())
		x := a.Explain(testFlow(0, 1, 22, 5000))
		require.True(t, x.Known)
		require.Contains(t, x.What, "the peer opened it")
		for s := range a.Flows() {
			require.Equal(t, testFlow(0, 1, 22, 5000), s.Flow)
			require.Equal(t, Count{1, 54}, s.Sent)
			require.Equal(t, Count{1, 54}, s.Received)
			require.Equal(t, b.ID(), s.Peer)
		}
	})
}

func TestSetPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, h := bypassPair(t, bypass.Never, silent)
		f := tcpFrame(0, 1, 1000, 80, ack, 5)
		a.send(f)
		b.expect(f)
		require.Equal(t, bypass.ReasonPolicy, a.Explain(testFlow(0, 1, 1000, 80)).Reason)
		var seen bypass.Request
		a.SetPolicy(func(r bypass.Request) bypass.Verdict { seen = r; return bypass.Verdict{Bypass: true} })
		a.send(f)
		b.expect(f)
		require.Equal(t, 1, h.asked(), "a live flow is newly allowed")
		require.Equal(t, bypass.Request{
			Flow: testFlow(0, 1, 1000, 80), Network: "test", Peer: b.ID(), LocalTag: "tag-a", PeerTag: "tag-b", Initiator: true,
		}, seen)
		require.Equal(t, 1, h.count("policy"))
		a.SetPolicy(nil)
		a.send(f)
		b.expect(f)
		require.Equal(t, bypass.ReasonPolicy, a.Explain(testFlow(0, 1, 1000, 80)).Reason)
	})
}

func TestMemberIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, overlaytest.Config{})
		a, b := l.node(nil), l.node(nil)
		ha, hb := &fakeHost{answer: silent}, &fakeHost{answer: silent}
		a.withHost(ha, bypass.Always)
		b.withHost(hb, bypass.Always)
		l.mesh(a, b)
		a.SetPolicy(bypass.Never)
		a.run()
		b.run()
		waitLinked(t, a, b)
		synctest.Wait()
		require.Equal(t, 1, ha.count("up"))
		require.Equal(t, 1, ha.count("attach"), "it was attached before Run")
		require.Positive(t, ha.count("recheck"))

		require.True(t, ha.config.Send(b.ID(), []byte("one")))
		require.True(t, ha.config.Send(b.ID(), []byte("two")))
		require.False(t, ha.config.Send(overlay.PeerID{9}, []byte("nobody")))
		synctest.Wait()
		require.Equal(t, []string{"one", "two"}, hb.received)

		ends, ok := ha.config.Resolve(testFlow(0, 1, 5, 6))
		require.True(t, ok)
		require.Equal(t, bypass.Ends{
			Peer: b.ID(), Ofport: 1, LocalMAC: testMAC(0), RemoteMAC: testMAC(1), LocalTag: "tag-a", RemoteTag: "tag-b",
		}, ends)
		for _, f := range []bypass.Flow{testFlow(1, 0, 5, 6), testFlow(0, 0, 5, 6), testFlow(0, 7, 5, 6), {}} {
			_, ok = ha.config.Resolve(f)
			require.False(t, ok, f)
		}

		require.NoError(t, a.Detach(t.Context(), "a"))
		require.Equal(t, 1, ha.count("detach"))
		ha.attachErr = errors.New("no such port")
		require.ErrorContains(t, a.Attach(t.Context(), testEndpoint(0)), "no such port")
		ha.attachErr = nil
		require.NoError(t, a.Attach(t.Context(), testEndpoint(0)))
		require.Equal(t, 3, ha.count("attach"))

		a.RemovePeer(b.ID())
		synctest.Wait()
		require.Equal(t, 1, ha.count("down"))
		require.Equal(t, 1, ha.count("forget"))
		a.shut()
		require.Equal(t, 1, ha.count("leave"))
		require.Equal(t, "leave", ha.calls[len(ha.calls)-1])
	})
}

func TestExplain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _ := bypassPair(t, bypass.Always, silent)
		ctx := t.Context()
		require.NoError(t, a.Attach(ctx, Endpoint{Name: "local", Ofport: 9, MAC: testMAC(7), IPs: testEndpoint(7).IPs}))
		require.NoError(t, a.Attach(ctx, Endpoint{Name: "portless", MAC: testMAC(8), IPs: testEndpoint(8).IPs}))
		sctp, udp, mixed := testFlow(0, 1, 1, 2), testFlow(0, 1, 1, 2), testFlow(0, 1, 1, 2)
		sctp.Proto, udp.Proto, mixed.Src = 132, bypass.UDP, netipV6
		six := bypass.Flow{Proto: bypass.UDP, Src: netipV6, Dst: netipV6}
		check := func(f bypass.Flow, want bypass.Reason, words string) {
			t.Helper()
			x := a.Explain(f)
			require.Equal(t, want, x.Reason, x)
			require.Contains(t, x.What, words)
			require.False(t, x.Known)
		}
		check(sctp, bypass.ReasonProtocol, "only TCP and UDP")
		check(mixed, bypass.ReasonProtocol, "only TCP and UDP")
		check(bypass.Flow{}, bypass.ReasonProtocol, "only TCP and UDP")
		check(six, bypass.ReasonDetached, "neither")
		check(udp, bypass.ReasonThreshold, "enough")
		check(testFlow(20, 21, 1, 2), bypass.ReasonDetached, "neither")
		check(testFlow(20, 1, 1, 2), bypass.ReasonDetached, "neither")
		check(testFlow(0, 21, 1, 2), bypass.ReasonNoPeer, "no peer announced")
		check(testFlow(0, 7, 1, 2), bypass.ReasonSameHost, "one host")
		check(testFlow(8, 1, 1, 2), bypass.ReasonDetached, "without its port")
		check(testFlow(0, 1, 1, 2), bypass.ReasonNone, "next packet")
		a.SetPolicy(nil)
		check(testFlow(0, 1, 1, 2), bypass.ReasonPolicy, "our policy")
		a.SetPolicy(func(bypass.Request) bypass.Verdict { return bypass.Verdict{Bypass: true, After: 9} })
		check(testFlow(0, 1, 1, 2), bypass.ReasonThreshold, "enough")
		b.lab.net.Cut(a.ID(), b.ID())
		eventually(t, func() bool { return a.Peers()[0].State == PeerConnecting })
		check(testFlow(0, 1, 1, 2), bypass.ReasonLinkDown, "no link")

		b.lab.net.Heal(a.ID(), b.ID())
		x := b.Explain(testFlow(0, 1, 1, 2)) // no host there
		require.Equal(t, bypass.ReasonNoHost, x.Reason)
		require.Equal(t, testFlow(1, 0, 2, 1), x.Flow, "from where it stands")
		require.Contains(t, x.Remedy, "Config.Bypass")
	})
}

var netipV6 = netip.MustParseAddrPort("[fd00::1]:1")
