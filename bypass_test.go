package vias

import (
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/overlay/overlaytest"
)

// site is a node with a switch in memory and its one workload at a port of it.
type site struct {
	*node
	sw       *bypasstest.Switch
	underlay *bypasstest.Underlay

	mu  sync.Mutex
	got [][]byte // what the workload received
}

// newSites makes two nodes with real bypass hosts on one provider network.
func newSites(t *testing.T) (*bypasstest.Wire, [2]*site) { return newSitesOf(t, func(*Config) {}) }

func newSitesOf(t *testing.T, change func(*Config)) (wire *bypasstest.Wire, sites [2]*site) {
	wire = bypasstest.NewWire()
	l := newLab(t, overlaytest.Config{})
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 0, byte(i + 1)}) }
	uplink := func(i int) [6]byte { return [6]byte{2, 0, 0, 0, 1, byte(i + 1)} }
	for i := range sites {
		s := &site{underlay: bypasstest.NewUnderlay(netip.PrefixFrom(addr(i), 24))}
		s.underlay.SetRoute(addr(1-i), bypass.Route{Local: addr(i), Src: uplink(i), Via: addr(1 - i), NextHop: uplink(1 - i), OnLink: true, MTU: 1500})
		s.sw = wire.NewSwitch(bypasstest.SwitchConfig{UplinkMAC: uplink(i), Addrs: []netip.Addr{addr(i)}, Underlay: s.underlay})
		host, err := bypass.NewHost(bypass.HostConfig{Datapath: s.sw.Open, Underlay: s.underlay})
		require.NoError(t, err)
		s.node = l.node(func(c *Config) { c.Bypass, c.Policy = host, bypass.Always; change(c) })
		s.sw.AddPort(uint32(i+1), testMAC(i), func(f []byte) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if f[0]&1 == 0 { // introductions are flooded
				s.got = append(s.got, f)
			}
		})
		s.sw.Tap(func(f []byte) { _ = s.wire.WriteBatch(batch(f)) })
		sites[i] = s
	}
	l.mesh(sites[0].node, sites[1].node)
	for _, s := range sites {
		s.run()
		go s.fromNetwork()
	}
	waitLinked(t, sites[0].node, sites[1].node)
	return wire, sites
}

// fromNetwork gives the switch what the Network delivers, until the wire is closed.
func (s *site) fromNetwork() {
	for s.wire.ReadBatch(s.buffer) == nil {
		for i := range s.buffer.Len() {
			s.sw.FromTap(s.buffer.Frame(i))
		}
	}
}

func (s *site) received() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.got)
}

func (s *site) state(f bypass.Flow) bypass.State { return s.Explain(f).State }

// The whole way: a connection begins on the overlay, moves, comes back when either
// end's policy says so, and moves again.
func TestFlowMovesAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, sites := newSites(t)
		a, b := sites[0], sites[1]
		flow, data := testFlow(0, 1, 40000, 80), tcpFrame(0, 1, 40000, 80, ack, 100)
		sent, native := 0, 0
		send := func() {
			sent++
			a.sw.Send(1, data)
			synctest.Wait()
			require.Equal(t, sent, b.received(), "no packet is lost, whichever way it goes")
		}
		until := func(want bypass.State) {
			t.Helper()
			eventually(t, func() bool {
				send()
				<-time.After(100 * time.Millisecond)
				return a.state(flow) == want && b.state(flow) == want
			})
		}
		until(bypass.Bypassed)
		before := a.lab.net.Total().Sent
		carried, drops := a.Stats().Sent.Frames, a.Stats().Drops.Total() // of introductions that came too early
		for range 50 {
			send()
			native++
		}
		require.Equal(t, carried, a.Stats().Sent.Frames, "none of them came here")
		require.Less(t, a.lab.net.Total().Sent-before, uint64(10), "nor over a link")
		for f := range a.Flows() {
			require.Equal(t, flow, f.Flow)
			require.True(t, f.Local.IsValid() && f.Remote.IsValid(), "the underlay's tuple is shown")
		}

		b.SetPolicy(nil) // at the end that did not ask
		until(bypass.OnOverlay)
		require.Equal(t, bypass.ReasonPeerPolicy, a.Explain(flow).Reason)
		b.SetPolicy(bypass.Always)
		until(bypass.Bypassed)
		a.SetPolicy(nil)
		until(bypass.OnOverlay)
		require.Equal(t, bypass.ReasonPolicy, a.Explain(flow).Reason)
		require.Equal(t, drops, a.Stats().Drops.Total())

		require.NoError(t, a.shut())
		require.NoError(t, b.shut())
		require.Empty(t, a.sw.Rules())
		require.Empty(t, b.sw.Rules())
	})
}

// A SYN to a peer whose path is proven goes natively itself.
func TestSYNGoesNatively(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, sites := newSites(t)
		a, b := sites[0], sites[1]
		warm := tcpFrame(0, 1, 1, 80, ack, 10)
		eventually(t, func() bool {
			a.sw.Send(1, warm)
			<-time.After(100 * time.Millisecond)
			return a.state(testFlow(0, 1, 1, 80)) == bypass.Bypassed
		})
		had, over := b.received(), b.Stats().Received.Frames
		a.sw.Send(1, tcpFrame(0, 1, 40001, 80, syn, 0))
		<-time.After(bypass.MaxHold)
		synctest.Wait()
		require.Equal(t, had+1, b.received())
		require.Equal(t, over, b.Stats().Received.Frames, "not over the overlay")
		require.Equal(t, uint64(1), a.Stats().Injected)
	})
}

// A lost link is not a lost path: what is bypassed stays so.
func TestBypassOutlivesLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, sites := newSites(t)
		a, b := sites[0], sites[1]
		flow, data := testFlow(0, 1, 40000, 80), tcpFrame(0, 1, 40000, 80, ack, 100)
		eventually(t, func() bool {
			a.sw.Send(1, data)
			<-time.After(100 * time.Millisecond)
			return a.state(flow) == bypass.Bypassed && b.state(flow) == bypass.Bypassed
		})
		a.lab.net.Cut(a.ID(), b.ID())
		eventually(t, func() bool { return a.Peers()[0].State == PeerConnecting })
		require.Equal(t, bypass.Bypassed, a.state(flow))
		had := b.received()
		a.sw.Send(1, data)
		require.Equal(t, had+1, b.received())
		a.lab.net.Heal(a.ID(), b.ID())
		waitLinked(t, a.node, b.node)
		synctest.Wait()
		require.Equal(t, bypass.Bypassed, a.state(flow), "and the new link does not disturb it")
	})
}
