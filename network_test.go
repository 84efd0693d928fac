package vias

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
)

func TestFramesBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPair(t, overlaytest.Config{Delay: time.Millisecond}, nil)
		there, back := ethernet(testMAC(1), testMAC(0), "ping"), ethernet(testMAC(0), testMAC(1), "pong")
		a.send(there)
		b.expect(there)
		b.send(back)
		a.expect(back)
		s := a.Stats()
		require.Equal(t, Count{1, 18}, s.Sent)
		require.Equal(t, Count{1, 18}, s.Received)
		require.Zero(t, s.Drops.Total())
		p := a.Peers()[0]
		require.Equal(t, Count{1, 18}, p.Sent)
		require.Equal(t, Count{1, 18}, p.Received)
		require.Equal(t, overlay.PathMemory, p.Path.Kind)
		require.Equal(t, 2*time.Millisecond, p.Path.RTT)
		require.Positive(t, p.Link.Sent.Datagrams)
		require.Positive(t, p.Link.Received.Bytes)
		require.Equal(t, "b", p.Endpoints[0].Name)
		require.Equal(t, "tag-b", p.Endpoints[0].Tag)
		require.True(t, p.Added)
		require.Equal(t, 1500, a.MTU(), "though the links take 1400 only")
	})
}

func TestSuperFrameIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPair(t, overlaytest.Config{}, nil)
		f := tcpFrame(0, 1, 1000, 80, ack, 3000)
		in := tap.NewBatch(1, 4096)
		in.Append(f, tap.Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16, GSO: tap.GSOTCP4, SegmentSize: 1000, HeaderLen: 54})
		require.NoError(t, a.wire.WriteBatch(in))
		synctest.Wait()
		require.NoError(t, b.wire.ReadBatch(b.buffer))
		require.Equal(t, 3, b.buffer.Len())
		for i := range 3 {
			require.Len(t, b.buffer.Frame(i), 1054)
		}
	})
}

func TestFloodAndSplitHorizon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, overlaytest.Config{})
		a, b, c := l.node(nil), l.node(nil), l.node(nil)
		l.mesh(a, b, c)
		for _, m := range []*node{a, b, c} {
			m.run()
		}
		waitLinked(t, a, b, c)
		all, unknown := ethernet(tap.Broadcast, testMAC(0), "all"), ethernet(tap.MAC{2, 9}, testMAC(0), "who")
		last := ethernet(testMAC(0), testMAC(2), "done")
		a.send(all, unknown)
		b.expect(all, unknown)
		c.expect(all, unknown)
		synctest.Wait()
		c.send(last)
		a.expect(last) // and not its own broadcast before
		require.Equal(t, uint64(2), a.Stats().Flooded)
		require.Equal(t, uint64(2), b.Stats().Received.Frames, "a loop")
		require.Zero(t, b.Peers()[0].Sent.Frames+b.Peers()[1].Sent.Frames, "b forwards nothing")

		// A peer that sends us what is another peer's.
		port := a.shared.Ports.Get(b.ID())
		require.NoError(t, port.SendFrame(ethernet(testMAC(2), testMAC(0), "not here"), tap.NewBatch(1, 2048)))
		synctest.Wait()
		require.Equal(t, uint64(1), b.Stats().Drops.InNotHere)
	})
}

func TestSpoofedSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPair(t, overlaytest.Config{}, nil)
		badIP := tcpFrame(0, 1, 1, 2, ack, 0)
		badIP[29] = 77
		a.send(
			ethernet(testMAC(1), tap.MAC{2, 7}, "unknown"),
			ethernet(testMAC(1), testMAC(1), "the peer's"),
			ethernet(testMAC(1), tap.Broadcast, "multicast"),
			badIP,
			ethernet(tap.MAC{1, 0x80, 0xc2, 0, 0, 2}, testMAC(0), "pause"),
			ethernet(testMAC(0), testMAC(0), "local"),
		)
		synctest.Wait()
		d := a.Stats().Drops
		require.Equal(t, Drops{OutSourceMAC: 3, OutSourceIP: 1, OutLinkLocal: 1, OutLocal: 1}, d)

		// The same from a peer whose own checks are off.
		port, one := a.shared.Ports.Get(b.ID()), tap.NewBatch(1, 2048)
		for _, f := range [][]byte{
			ethernet(testMAC(1), tap.MAC{2, 7}, "unknown"),
			ethernet(testMAC(1), testMAC(1), "the receiver's"),
			ethernet(testMAC(1), tap.MAC{}, "zero"),
			badIP,
			ethernet(tap.MAC{1, 0x80, 0xc2, 0, 0, 2}, testMAC(0), "pause"),
			{1, 2, 3},
		} {
			require.NoError(t, port.SendFrame(f, one))
		}
		one.Reset()
		one.Append([]byte{99, 1}, tap.Offload{})
		require.NoError(t, port.Send(one))
		synctest.Wait()
		require.Equal(t, Drops{InSourceMAC: 3, InSourceIP: 1, InLinkLocal: 1, InMalformed: 1, InKind: 1}, b.Stats().Drops)
		require.Zero(t, b.Stats().Received.Frames)
	})
}

func TestNoLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPair(t, overlaytest.Config{}, nil)
		b.shut()
		synctest.Wait()
		a.send(ethernet(tap.Broadcast, testMAC(0), "anybody?"))
		synctest.Wait()
		require.Equal(t, Drops{OutNoPeers: 1}, a.Stats().Drops)
	})
}

func TestLearning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPair(t, overlaytest.Config{}, func(c *Config) { c.Learn = true })
		vm := tap.MAC{2, 5}
		hello := ethernet(tap.Broadcast, vm, "hello")
		a.send(hello)
		eventually(t, func() bool { return len(b.Peers()[0].Endpoints) == 2 })
		synctest.Wait()
		// If the first frame came before its announcement it was dropped; a workload repeats.
		if b.Stats().Received.Frames == 0 {
			a.send(hello)
		}
		b.expect(hello)
		answer := ethernet(vm, testMAC(1), "hi")
		b.send(answer)
		a.expect(answer)
		require.Zero(t, b.Stats().Flooded, "it is known where it is")
		<-time.After(6 * time.Minute)
		synctest.Wait()
		require.Len(t, b.Peers()[0].Endpoints, 1, "silent stations are forgotten")
	})
}

func TestRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPair(t, overlaytest.Config{}, nil)
		require.NoError(t, a.shut())
		require.ErrorIs(t, a.wire.WriteBatch(batch()), tap.ErrClosed)
		require.ErrorIs(t, a.Ready(t.Context()), ErrClosed)
		require.ErrorIs(t, a.Ready(t.Context()), net.ErrClosed)
		require.ErrorIs(t, a.AddPeer(overlay.PeerID{1}), ErrClosed)
		require.ErrorIs(t, a.Attach(t.Context(), testEndpoint(5)), ErrClosed)
		require.ErrorIs(t, a.Run(t.Context()), ErrRunning)
		for range a.Events(t.Context()) {
			t.Fatal("an event of a network that is over")
		}
		synctest.Wait()
		require.Empty(t, b.Peers()[0].Endpoints, "it withdrew what it had announced")
	})
}

func TestRunTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newPair(t, overlaytest.Config{}, nil)
		err := a.Run(t.Context())
		require.ErrorIs(t, err, ErrRunning)
		var op *OpError
		require.ErrorAs(t, err, &op)
		require.Equal(t, "run", op.Op)
	})
}

func TestDeviceDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newPair(t, overlaytest.Config{}, nil)
		require.NoError(t, a.device.Close())
		require.ErrorIs(t, <-a.ended, tap.ErrClosed)
		a.ended <- nil
	})
}

func TestOpenFails(t *testing.T) {
	broken := errors.New("broken")
	l := newLab(t, overlaytest.Config{})
	a := l.node(func(c *Config) {
		c.Device = func(context.Context) (tap.Device, error) { return nil, broken }
	})
	require.ErrorIs(t, a.Run(t.Context()), broken)
	b := l.node(func(c *Config) {
		c.Transport = func(context.Context, overlay.Env) (overlay.Transport, error) { return nil, broken }
	})
	require.ErrorIs(t, b.Run(t.Context()), broken)
	require.ErrorIs(t, b.device.ReadBatch(b.buffer), tap.ErrClosed, "what was open is closed")
	require.ErrorIs(t, b.Ready(t.Context()), ErrClosed)
}

func TestConfigChecked(t *testing.T) {
	good := newLab(t, overlaytest.Config{}).node(nil).config
	for name, spoil := range map[string]func(*Config){
		"no name":   func(c *Config) { c.Name = "" },
		"long name": func(c *Config) { c.Name = string(make([]byte, 256)) },
		"identity":  func(c *Config) { c.Identity = nil },
		"transport": func(c *Config) { c.Transport = nil },
		"device":    func(c *Config) { c.Device = nil },
		"drain":     func(c *Config) { c.Drain = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			spoil(&c)
			_, err := New(c)
			require.ErrorIs(t, err, ErrInvalid)
		})
	}
	_, err := New(good)
	require.NoError(t, err)
}

func TestAttach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPair(t, overlaytest.Config{}, nil)
		ctx := t.Context()
		e := testEndpoint(0)
		for range 3 {
			require.NoError(t, a.Attach(ctx, e))
		}
		synctest.Wait()
		require.Len(t, b.Peers()[0].Endpoints, 1)
		e.MAC = tap.MAC{2, 8}
		require.NoError(t, a.Attach(ctx, e), "the same name replaces")
		synctest.Wait()
		require.Equal(t, e.MAC, b.Peers()[0].Endpoints[0].MAC)
		other := e
		other.Name = "other"
		require.ErrorIs(t, a.Attach(ctx, other), ErrInUse)
		require.NoError(t, a.Detach(ctx, e.Name))
		require.NoError(t, a.Detach(ctx, e.Name))
		require.NoError(t, a.Attach(ctx, other))
		synctest.Wait()
		require.Equal(t, "other", b.Peers()[0].Endpoints[0].Name)
		require.ErrorIs(t, a.Attach(ctx, Endpoint{MAC: testMAC(3)}), ErrInvalid)
		require.ErrorIs(t, a.Attach(ctx, Endpoint{Name: "x", MAC: tap.Broadcast}), ErrInvalid)
	})
}

func TestManyEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, overlaytest.Config{Loss: 0.05, Dup: 0.05, Reorder: 0.1, Seed: 3})
		a, b := l.node(nil), l.node(nil)
		l.mesh(a, b)
		long := string(make([]byte, 255))
		for i := range 400 { // some 120 KB of announcements
			require.NoError(t, a.Attach(t.Context(), Endpoint{Name: long[:250] + string(rune('0'+i/100)) + string(rune('0'+i/10%10)) + string(rune('0'+i%10)), MAC: tap.MAC{6, 0, 0, 0, byte(i >> 8), byte(i)}}))
		}
		a.run()
		b.run()
		eventually(t, func() bool { return len(b.Peers()[0].Endpoints) == 401 })
	})
}

func TestConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, overlaytest.Config{})
		a, b, c := l.node(nil), l.node(nil), l.node(nil)
		l.mesh(a, b, c)
		for _, m := range []*node{a, b, c} {
			m.run()
		}
		waitLinked(t, a, b, c)
		thief := testEndpoint(1)
		thief.Name = "thief"
		require.NoError(t, c.Attach(t.Context(), thief)) // to c itself, what is local wins
		synctest.Wait()
		require.Equal(t, b.ID(), a.shared.Stations.View().MAC(thief.MAC).Peer)
		require.Equal(t, uint64(1), a.Stats().Conflicts)
		b.shut()
		synctest.Wait()
		require.Equal(t, c.ID(), a.shared.Stations.View().MAC(thief.MAC).Peer, "the holder let go")
	})
}
