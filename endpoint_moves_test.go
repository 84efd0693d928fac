package vias

import (
	"bytes"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/overlay/overlaytest"
)

// moving is three sites: endpoint "a" is at the first, and will be at the third; "b" is
// at the second and talks to it.
type moving struct {
	t     *testing.T
	wire  *bypasstest.Wire
	sites [3]*site
	// arrived counts what was sent to the endpoint and got to its new port.
	arrived atomic.Int64
}

// movedPort is the port at the third site at which the endpoint will be.
const movedPort = 9

func newMoving(t *testing.T) *moving {
	m, l := &moving{t: t, wire: bypasstest.NewWire()}, newLab(t, overlaytest.Config{Delay: time.Millisecond})
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 0, byte(i + 1)}) }
	uplink := func(i int) [6]byte { return [6]byte{2, 0, 0, 0, 1, byte(i + 1)} }
	for i := range m.sites {
		s := &site{underlay: bypasstest.NewUnderlay(netip.PrefixFrom(addr(i), 24))}
		for j := range m.sites {
			s.underlay.SetRoute(addr(j), bypass.Route{Local: addr(i), Src: uplink(i), Via: addr(j), NextHop: uplink(j), OnLink: true, MTU: 1500})
		}
		s.sw = m.wire.NewSwitch(bypasstest.SwitchConfig{UplinkMAC: uplink(i), Addrs: []netip.Addr{addr(i)}, Underlay: s.underlay})
		host, err := bypass.NewHost(bypass.HostConfig{Datapath: s.sw.Open, Underlay: s.underlay})
		require.NoError(t, err)
		s.node = l.node(func(c *Config) { c.Bypass, c.Policy, c.Learn = host, bypass.Always, true })
		s.sw.AddPort(uint32(i+1), testMAC(i), func([]byte) {})
		s.sw.Tap(func(f []byte) { _ = s.wire.WriteBatch(batch(f)) })
		m.sites[i] = s
	}
	m.sites[2].sw.AddPort(movedPort, testMAC(0), func(f []byte) {
		if f[0]&1 == 0 { // and no flood
			m.arrived.Add(1)
		}
	})
	l.mesh(m.sites[0].node, m.sites[1].node, m.sites[2].node)
	for _, s := range m.sites {
		s.run()
		go s.fromNetwork()
	}
	waitLinked(t, m.sites[0].node, m.sites[1].node, m.sites[2].node)
	return m
}

// addr is its underlay address.
func (s *site) addr() netip.Addr {
	list, _ := s.underlay.Addrs(s.lab.tb.Context())
	return list[0].Addr()
}

// flow is that of b to the endpoint.
func (m *moving) flow() bypass.Flow { return testFlow(1, 0, 40000, 80) }

// say has b send something to the endpoint, and the endpoint, which is at that site's
// port, to b.
func (m *moving) say(at *site, port uint32) {
	m.sites[1].sw.Send(2, tcpFrame(1, 0, 40000, 80, ack, 100))
	at.sw.Send(port, tcpFrame(0, 1, 80, 40000, ack, 100))
}

// bypassed waits until the flow is bypassed between b's site and that one.
func (m *moving) bypassed(at *site, port uint32) time.Duration {
	m.t.Helper()
	start := time.Now()
	eventually(m.t, func() bool {
		m.say(at, port)
		<-time.After(50 * time.Millisecond)
		return m.holder() == at && m.sites[1].state(m.flow()) == bypass.Bypassed && at.state(m.flow().Reverse()) == bypass.Bypassed
	})
	return time.Since(start)
}

// holder is the site that, to b's, has the endpoint.
func (m *moving) holder() *site {
	for _, p := range m.sites[1].Peers() {
		for _, e := range p.Endpoints {
			for _, s := range m.sites {
				if e.MAC == testMAC(0) && p.ID == s.ID() {
					return s
				}
			}
		}
	}
	return nil
}

func (m *moving) attach(at *site) {
	m.t.Helper()
	e := testEndpoint(0)
	e.Ofport = movedPort
	require.NoError(m.t, at.Attach(m.t.Context(), e))
}

// An endpoint that moves: back to the overlay first, found on its new host at once, and
// bypassed again.
func TestEndpointMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMoving(t)
		from, b, to := m.sites[0], m.sites[1], m.sites[2]
		m.bypassed(from, 1)
		require.NoError(t, from.Detach(t.Context(), "a"))
		require.NotEqual(t, bypass.Bypassed, from.state(m.flow().Reverse()))
		// What it says before it stops is not a reason to announce it.
		from.sw.Send(1, tcpFrame(0, 1, 80, 40000, ack, 100))
		eventually(t, func() bool { return m.holder() == nil && b.state(m.flow()) == bypass.OnOverlay })
		had := m.arrived.Load()
		m.attach(to)
		found := time.Now()
		eventually(t, func() bool { return m.holder() == to })
		require.Less(t, time.Since(found), 2*time.Second)
		b.sw.Send(2, tcpFrame(1, 0, 40000, 80, ack, 100))
		eventually(t, func() bool { return m.arrived.Load() > had })
		require.Less(t, time.Since(found), 2*time.Second)
		require.Less(t, m.bypassed(to, movedPort), 5*time.Second)
		require.Zero(t, from.Stats().Conflicts+b.Stats().Conflicts+to.Stats().Conflicts, "nobody claimed what is another's")
	})
}

// While both hosts have it, it is where it was, at every peer; it is found on the new one
// when the old one lets it go.
func TestEndpointOnBothHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMoving(t)
		from, b, to := m.sites[0], m.sites[1], m.sites[2]
		m.bypassed(from, 1)
		m.attach(to)
		for range 50 {
			m.say(from, 1)
			<-time.After(100 * time.Millisecond)
			require.Same(t, from, m.holder())
			require.Equal(t, bypass.Bypassed, b.state(m.flow()))
		}
		require.NoError(t, from.Detach(t.Context(), "a"))
		found := time.Now()
		eventually(t, func() bool { return m.holder() == to })
		require.Less(t, time.Since(found), 2*time.Second)
		require.Less(t, m.bypassed(to, movedPort), 5*time.Second)
	})
}

// The switch of the new host is told where the endpoint is, again when the old host has
// let it go, and not when it has gone itself.
func TestEndpointIsIntroduced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMoving(t)
		from, to := m.sites[0], m.sites[2]
		var seen int
		to.sw.Tap(func(f []byte) {
			if bytes.Equal(f, introductionOf(testMAC(0))) {
				seen++
			}
			_ = to.wire.WriteBatch(batch(f))
		})
		m.attach(to)
		<-time.After(10 * time.Second)
		require.Equal(t, introductions, seen)
		require.NoError(t, from.Detach(t.Context(), "a"))
		<-time.After(10 * time.Second)
		require.Equal(t, 2*introductions, seen)
		m.attach(to) // it is there: nothing is new to the switch
		require.NoError(t, to.Detach(t.Context(), "a"))
		<-time.After(10 * time.Second)
		require.LessOrEqual(t, seen, 2*introductions+1)
	})
}

// A host that died in the middle of it holds the endpoint no longer than its link.
func TestEndpointOfDeadHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMoving(t)
		from, b, to := m.sites[0], m.sites[1], m.sites[2]
		m.bypassed(from, 1)
		for _, s := range []*site{b, to} {
			from.lab.net.Cut(from.ID(), s.ID())
			m.wire.Block(s.addr(), from.addr(), 0)
			m.wire.Block(from.addr(), s.addr(), 0)
		}
		had := m.arrived.Load()
		m.attach(to)
		found := time.Now()
		eventually(t, func() bool { m.say(to, movedPort); return m.arrived.Load() > had })
		t.Logf("found after %v", time.Since(found))
		require.Less(t, time.Since(found), 4*time.Second) // 2.5 s of these until the link counts as lost
		// The dead host's switch may go on for a lease; the flow itself waits for two.
		for b.Explain(m.flow()).Peer != to.ID() || b.state(m.flow()) != bypass.Bypassed {
			require.Less(t, time.Since(found), 80*time.Second)
			m.say(to, movedPort)
			<-time.After(100 * time.Millisecond)
		}
		t.Logf("bypassed after %v", time.Since(found))
	})
}
