package vias

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/membership"
	"github.com/viasnet/vias/overlay/overlaytest"
)

// office is an authority and the folders of its members' nodes.
type office struct {
	*membership.Authority
	t    *testing.T
	dirs map[overlay.PeerID]string
}

func newOffice(t *testing.T, network string) *office {
	t.Helper()
	a, err := membership.CreateAuthority(filepath.Join(t.TempDir(), "ca"), network)
	require.NoError(t, err)
	t.Cleanup(func() { _ = a.Close() })
	return &office{a, t, map[overlay.PeerID]string{}}
}

// join changes the Config of a node into a member's, whose rule runs until the test ends.
func (o *office) join(life time.Duration) func(*Config) {
	return func(c *Config) {
		o.t.Helper()
		request, err := membership.Request(c.Identity)
		require.NoError(o.t, err)
		_, err = o.Issue(life, request)
		require.NoError(o.t, err)
		id := c.Identity.ID()
		o.dirs[id] = o.t.TempDir()
		o.give(id)
		rule, err := membership.Open(membership.Config{Network: o.Network(), Self: id, Dir: o.dirs[id], Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
		require.NoError(o.t, err)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { defer close(ended); rule.Run(ctx) }()
		o.t.Cleanup(func() { cancel(); <-ended })
		c.Name, c.Admission = o.Network(), rule
	}
}

// give copies a member's folder to its node.
func (o *office) give(ids ...overlay.PeerID) {
	o.t.Helper()
	for _, id := range ids {
		for _, name := range []string{"ca.pem", "member.pem", "revoked.pem"} {
			text, err := os.ReadFile(filepath.Join(o.Folder(id), name))
			require.NoError(o.t, err)
			require.NoError(o.t, os.WriteFile(filepath.Join(o.dirs[id], name), text, 0o600))
		}
	}
}

// careful is traffic that must not lose a frame.
type careful struct {
	from, to *node
	n        int
}

func (s *careful) run(d time.Duration) {
	for range int(d / (100 * time.Millisecond)) {
		s.n++
		f := ethernet(testMAC(1), testMAC(0), fmt.Sprint("frame ", s.n))
		s.from.send(f)
		s.to.expect(f)
		<-time.After(100 * time.Millisecond)
	}
}

// TestMembershipGoesOn: certificates are renewed before they end, and the authority is
// changed, node by node, under one link that loses nothing.
func TestMembershipGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, "blue")
		a, b := newPair(t, overlaytest.Config{}, o.join(10*time.Minute))
		begun := a.Peers()[0].Since
		s := &careful{from: a, to: b}
		s.run(8 * time.Minute)
		_, err := o.Renew(10 * time.Minute)
		require.NoError(t, err)
		o.give(b.ID())
		s.run(4 * time.Second)
		o.give(a.ID())
		s.run(4 * time.Minute) // the first ones have ended
		require.NoError(t, o.Rotate(10*time.Minute))
		for _, step := range []overlay.PeerID{b.ID(), a.ID()} {
			o.give(step)
			s.run(5 * time.Second)
		}
		require.NoError(t, o.Retire())
		for _, step := range []overlay.PeerID{a.ID(), b.ID()} {
			o.give(step)
			s.run(5 * time.Second)
		}
		require.Equal(t, begun, a.Peers()[0].Since, "it was one link")
		require.Zero(t, a.Stats().Drops.Total()+b.Stats().Drops.Total())

		// Nobody renews them: the link ends with them.
		end := a.config.Admission.(*membership.Member).Status().Until
		s.run(time.Until(end) - time.Second)
		require.Equal(t, PeerLinked, a.Peers()[0].State)
		<-time.After(time.Until(end) + 2*time.Second)
		for _, m := range []*node{a, b} {
			p := m.Peers()[0]
			require.Equal(t, PeerConnecting, p.State)
			require.Empty(t, p.Endpoints)
		}
		eventually(t, func() bool { return hasRefused(a) || hasRefused(b) })
		_, err = o.Renew(0)
		require.NoError(t, err)
		o.give(a.ID(), b.ID())
		waitLinked(t, a, b)
	})
}

func hasRefused(m *node) bool { return m.Stats().Transport.Refused > 0 }

// TestRevokedUnderLiveLink: one node is told, the others hear of it from their peers; link
// and bypassed flows end within the bound, and the rest goes on.
func TestRevokedUnderLiveLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, "blue")
		l := newLab(t, overlaytest.Config{})
		var nodes []*node
		for range 4 {
			nodes = append(nodes, l.node(o.join(0)))
		}
		l.mesh(nodes...)
		for _, m := range nodes {
			m.run()
		}
		waitLinked(t, nodes...)
		bad, rest := nodes[3], nodes[:3]
		require.NoError(t, o.Revoke(bad.ID()))
		o.give(rest[0].ID())
		<-time.After(2*time.Second + time.Second + time.Second) // read, one end, one hop
		for i, m := range rest {
			for _, p := range m.Peers() {
				if p.ID == bad.ID() {
					require.Equal(t, PeerConnecting, p.State, "%d", i)
					require.ErrorIs(t, p.Err, overlay.ErrNotAdmitted)
					require.Empty(t, p.Endpoints)
				} else {
					require.Equal(t, PeerLinked, p.State, "%d", i)
				}
			}
			require.Nil(t, m.shared.Stations.View().MAC(testMAC(3)), "what it announced is gone")
		}
		for _, p := range bad.Peers() {
			require.Equal(t, PeerConnecting, p.State)
		}
		<-time.After(time.Minute)
		for _, p := range bad.Peers() {
			require.ErrorIs(t, p.Err, overlay.ErrRefused, "that is all that it hears")
			require.NotContains(t, p.Err.Error(), "revoked")
			require.Equal(t, PeerConnecting, p.State)
		}
	})
}

// TestRevokedLosesBypass: a bypass that outlives its link does not outlive membership,
// with a link and without.
func TestRevokedLosesBypass(t *testing.T) {
	for _, linked := range []bool{true, false} {
		t.Run(fmt.Sprintf("linked=%v", linked), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOffice(t, "blue")
				_, sites := newSitesOf(t, o.join(0))
				a, b := sites[0], sites[1]
				flow, data := testFlow(0, 1, 40000, 80), tcpFrame(0, 1, 40000, 80, ack, 100)
				eventually(t, func() bool {
					a.sw.Send(1, data)
					<-time.After(100 * time.Millisecond)
					return a.state(flow) == bypass.Bypassed && b.state(flow) == bypass.Bypassed
				})
				if !linked {
					a.lab.net.Cut(a.ID(), b.ID())
					eventually(t, func() bool { return a.Peers()[0].State == PeerConnecting })
					<-time.After(2 * time.Second)
					require.Equal(t, bypass.Bypassed, a.state(flow), "a lost link is not a lost path")
				}
				require.NoError(t, o.Revoke(b.ID()))
				o.give(a.ID())
				<-time.After(4 * time.Second)
				require.NotEqual(t, bypass.Bypassed, a.state(flow))
				had := b.received()
				a.sw.Send(1, data)
				<-time.After(time.Second)
				require.Equal(t, had, b.received())
				require.Empty(t, a.sw.Rules())
				<-time.After(90 * time.Second) // two leases, and then some
				require.Empty(t, a.sw.Leases(), "the path is not proven any more")
			})
		})
	}
}

// TestNetworksApart: Networks in one process, with the same guest addresses and each its
// own rule, admit their own peers only, whatever their names and whoever is asked for.
func TestNetworksApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blue, green, twin := newOffice(t, "blue"), newOffice(t, "green"), newOffice(t, "blue")
		l := newLab(t, overlaytest.Config{})
		var nodes []*node
		for i, change := range []func(*Config){blue.join(0), blue.join(0), green.join(0), green.join(0), twin.join(0), twin.join(0), nil, nil} {
			m := l.node(change)
			require.NoError(t, m.Attach(t.Context(), testEndpoint(i%2)))
			nodes = append(nodes, m)
		}
		list := membership.Allow(nodes[7].ID()) // the last network's rule
		nodes[6].config.Admission = list
		for _, m := range nodes {
			for _, o := range nodes {
				if o != m && m != nodes[7] || o == nodes[6] && m == nodes[7] {
					require.NoError(t, m.AddPeer(o.ID()))
				}
			}
			m.run()
		}
		<-time.After(30 * time.Second)
		for i, m := range nodes {
			for _, p := range m.Peers() {
				if p.ID == nodes[i^1].ID() {
					require.Equal(t, PeerLinked, p.State, "%d", i)
					require.Len(t, p.Endpoints, 1)
					continue
				}
				require.Equal(t, PeerConnecting, p.State, "%d", i)
				require.Empty(t, p.Endpoints)
				require.Error(t, p.Err)
			}
			require.Equal(t, nodes[i^1].ID(), m.shared.Stations.View().MAC(testMAC(1-i%2)).Peer, "%d", i)
			f := ethernet(testMAC(1-i%2), testMAC(i%2), fmt.Sprint("of ", i))
			m.send(f)
			nodes[i^1].expect(f)
		}
		list.Set()
		<-time.After(time.Second)
		require.Equal(t, PeerConnecting, nodes[7].Peers()[0].State, "off the list")
	})
}
