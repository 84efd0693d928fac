package vias

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/control"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/overlaytest"
)

func TestRedialAfterCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPair(t, overlaytest.Config{}, nil)
		events := a.Events(t.Context())
		<-time.After(time.Minute)
		a.lab.net.Cut(a.ID(), b.ID())
		eventually(t, func() bool { return a.Peers()[0].State == PeerConnecting })
		eventually(t, func() bool { return a.Peers()[0].Err != nil })
		require.ErrorIs(t, a.Peers()[0].Err, overlay.ErrLinkLost)
		<-time.After(3 * time.Minute)
		a.lab.net.Heal(a.ID(), b.ID())
		start := time.Now()
		waitLinked(t, a, b)
		require.Less(t, time.Since(start), lastRetry+patience+time.Second)
		f := ethernet(testMAC(1), testMAC(0), "again")
		a.send(f)
		b.expect(f)
		var kinds []string
		for e := range events {
			switch e.(type) {
			case PeerDown:
				kinds = append(kinds, "down")
			case PeerUp:
				kinds = append(kinds, "up")
			}
			if len(kinds) == 2 {
				break
			}
		}
		require.Equal(t, []string{"down", "up"}, kinds)
	})
}

// A link that is lost a second after each time it came up is made ever less often; one that lasted is
// made again at once.
func TestFlappingPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPair(t, overlaytest.Config{}, nil)
		flap := func() (down time.Duration) {
			a.lab.net.Cut(a.ID(), b.ID())
			eventually(t, func() bool { return a.Peers()[0].State == PeerConnecting && b.Peers()[0].State == PeerConnecting })
			a.lab.net.Heal(a.ID(), b.ID())
			lost := time.Now()
			waitLinked(t, a, b)
			return time.Since(lost)
		}
		<-time.After(time.Minute)
		require.Less(t, flap(), time.Second)
		sent, flaps := a.lab.net.Total().Sent, 0
		for begun := time.Now(); time.Since(begun) < 2*time.Minute; flaps++ {
			<-time.After(time.Second)
			flap()
		}
		require.Greater(t, flaps, 5, "it is not given up")
		require.Less(t, flaps, 25)
		require.Less(t, (a.lab.net.Total().Sent-sent)/uint64(flaps), uint64(20), "messages for each link")
		<-time.After(time.Minute)
		require.Less(t, flap(), time.Second)
	})
}

func TestPeerRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPair(t, overlaytest.Config{}, nil)
		b.lab.net.Crash(b.ID())
		require.Error(t, <-b.ended)
		b.ended <- nil
		again := a.lab.nodeOf(b.config.Identity, nil)
		require.NoError(t, again.Attach(t.Context(), testEndpoint(1)))
		require.NoError(t, again.AddPeer(a.ID()))
		again.run()
		waitLinked(t, a, again)
		f := ethernet(testMAC(1), testMAC(0), "welcome back")
		a.send(f)
		again.expect(f)
	})
}

func TestRemovePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPair(t, overlaytest.Config{}, nil)
		a.RemovePeer(b.ID())
		a.RemovePeer(b.ID())
		require.Empty(t, a.Peers())
		require.Nil(t, a.shared.Ports.Get(b.ID()), "no frame goes there any more")
		synctest.Wait()
		require.Nil(t, a.shared.Stations.View().MAC(testMAC(1)))
		eventually(t, func() bool { return a.Stats().Transport.Refused > 0 || errors.Is(b.Peers()[0].Err, overlay.ErrRefused) })
		require.Equal(t, PeerConnecting, b.Peers()[0].State)
		require.NoError(t, a.AddPeer(b.ID()))
		waitLinked(t, a, b)
	})
}

func TestAddPeer(t *testing.T) {
	n := newLab(t, overlaytest.Config{}).node(nil)
	require.ErrorIs(t, n.AddPeer(overlay.PeerID{}), ErrInvalid)
	require.ErrorIs(t, n.AddPeer(n.ID()), ErrInvalid)
	require.NoError(t, n.AddPeer(overlay.PeerID{1}))
	require.NoError(t, n.AddPeer(overlay.PeerID{1}))
	require.Len(t, n.Peers(), 1)
	n.RemovePeer(overlay.PeerID{1})
	require.Empty(t, n.Peers())
}

func TestAdmittedGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, overlaytest.Config{})
		host := l.node(func(c *Config) { c.Admission = overlay.AdmitFunc(func(overlay.PeerID) bool { return true }) })
		guest := l.node(nil)
		require.NoError(t, host.Attach(t.Context(), testEndpoint(0)))
		require.NoError(t, guest.Attach(t.Context(), testEndpoint(1)))
		require.NoError(t, guest.AddPeer(host.ID()))
		host.run()
		guest.run()
		waitLinked(t, host, guest) // whichever of them has the lower ID
		require.False(t, host.Peers()[0].Added)
		guest.shut()
		<-time.After(2 * guestTime)
		synctest.Wait()
		require.Empty(t, host.Peers(), "a guest that left is forgotten")
	})
}

func TestOtherNetworkRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, overlaytest.Config{})
		a, b := l.node(nil), l.node(func(c *Config) { c.Name = "other" })
		l.mesh(a, b)
		a.run()
		b.run()
		for _, m := range []*node{a, b} {
			eventually(t, func() bool { return m.Peers()[0].Err != nil })
			require.Equal(t, PeerConnecting, m.Peers()[0].State)
			require.Empty(t, m.Peers()[0].Endpoints)
		}
		for _, m := range []*node{a, b} { // both know why, not just who was the first
			require.ErrorIs(t, m.Peers()[0].Err, control.ErrNetwork)
			require.Zero(t, m.Stats().Drops.Total())
		}
	})
}
