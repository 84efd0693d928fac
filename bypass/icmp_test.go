package bypass_test

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
)

// errorPort is a Datapath to which a test can hand ICMP errors.
type errorPort struct {
	bypass.Datapath

	mu     sync.Mutex // one event at a time
	events func(bypass.Event)
}

func (d *errorPort) Watch(ctx context.Context, f func(bypass.Event)) error {
	one := func(e bypass.Event) {
		d.mu.Lock()
		defer d.mu.Unlock()
		f(e)
	}
	d.mu.Lock()
	d.events = one
	d.mu.Unlock()
	return d.Datapath.Watch(ctx, one)
}

// comes hands an error to the host.
func (d *errorPort) comes(frame []byte) {
	d.mu.Lock()
	f := d.events
	d.mu.Unlock()
	f(bypass.PacketIn{Kind: bypass.PacketError, Frame: frame})
}

// icmpPair is a pair of which the first host can be handed ICMP errors.
type icmpPair struct {
	*pair
	port         *errorPort
	router       netip.Addr
	ours, theirs netip.Addr // underlay
}

func newICMPPair(t *testing.T, proto bypass.Proto, family bypass.Family) *icmpPair {
	p := &icmpPair{port: &errorPort{}, router: netip.MustParseAddr("10.0.0.254")}
	p.pair = newPairWith(t, [2]bool{true, true}, func(i int, c *bypass.HostConfig) {
		open := c.Datapath
		if i == 0 {
			c.Datapath = func(ctx context.Context) (bypass.Datapath, error) {
				d, err := open(ctx)
				p.port.Datapath = d
				return p.port, err
			}
		}
	})
	p.flow.Proto = proto
	p.ours, p.theirs = p.a.addr, p.b.addr
	if family == bypass.IPv6 {
		p.flow.Src, p.flow.Dst = netip.AddrPortFrom(p.a.ip6, 40000), netip.AddrPortFrom(p.b.ip6, 80)
		p.ours, p.theirs, p.router = p.a.addr6, p.b.addr6, netip.MustParseAddr("fd0a::fe")
	}
	p.bypassed(5 * time.Second)
	return p
}

// wire is the flow as it leaves the first host.
func (p *icmpPair) wire() bypass.Flow {
	s := p.a.status(p.flow)
	return bypass.Flow{Proto: p.flow.Proto, Src: s.Local, Dst: s.Remote}
}

// tooBig says that the next hop takes no more than mtu of a packet of wire.
func (p *icmpPair) tooBig(wire bypass.Flow, mtu uint32) []byte {
	q := bypass.PacketOf(p.a.t, wire, 1350)
	if p.ours.Is6() {
		return bypass.ErrorFrame(p.router, p.ours, 2, 0, mtu, q[:100])
	}
	return bypass.ErrorFrame(p.router, p.ours, 3, 4, mtu, q[:100])
}

// unreachable says that the packet of wire gets no further, because of code.
func (p *icmpPair) unreachable(from netip.Addr, wire bypass.Flow, code uint8) []byte {
	kind := uint8(3)
	if p.ours.Is6() {
		kind = 1
	}
	return bypass.ErrorFrame(from, p.ours, kind, code, 0, bypass.PacketOf(p.a.t, wire, 60))
}

// got is what the first host's guest got natively since the last time.
func (p *icmpPair) got() [][]byte {
	synctest.Wait()
	p.a.mu.Lock()
	defer p.a.mu.Unlock()
	got := p.a.got
	p.a.got = nil
	return got
}

// An error that quotes a live flow reaches the guest, as from the other guest; one that
// quotes anything else reaches nobody.
func TestICMPOfLiveFlows(t *testing.T) {
	for _, kind := range []struct {
		bypass.Proto
		bypass.Family
	}{{bypass.TCP, bypass.IPv4}, {bypass.UDP, bypass.IPv4}, {bypass.TCP, bypass.IPv6}, {bypass.UDP, bypass.IPv6}} {
		t.Run(kind.Proto.String()+" "+kind.Family.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newICMPPair(t, kind.Proto, kind.Family)
				wire := p.wire()
				p.port.comes(p.tooBig(wire, 1300))
				got := p.got()
				require.Len(t, got, 1)
				bypass.RequireTooBig(t, got[0], p.flow, p.a.mac, p.b.mac, 1350, 1300)
				p.port.comes(p.unreachable(p.router, wire, 1))
				require.Len(t, p.got(), 1)

				other := wire
				other.Src = netip.AddrPortFrom(wire.Src.Addr(), wire.Src.Port()^1)
				away := wire
				away.Dst = netip.AddrPortFrom(p.router, wire.Dst.Port())
				for what, frame := range map[string][]byte{
					"another port":        p.unreachable(p.router, other, 1),
					"another host":        p.unreachable(p.router, away, 1),
					"the way back":        p.unreachable(p.router, wire.Reverse(), 1),
					"the guest's own":     p.unreachable(p.router, p.flow, 1),
					"the peer's stack":    p.unreachable(p.theirs, wire, map[bypass.Family]uint8{bypass.IPv4: 3, bypass.IPv6: 4}[kind.Family]),
					"another error":       bypass.ErrorFrame(p.router, p.ours, map[bypass.Family]uint8{bypass.IPv4: 11, bypass.IPv6: 3}[kind.Family], 0, 0, bypass.PacketOf(t, wire, 60)),
					"no error":            bypass.ErrorFrame(p.router, p.ours, map[bypass.Family]uint8{bypass.IPv4: 8, bypass.IPv6: 128}[kind.Family], 0, 0, bypass.PacketOf(t, wire, 60)),
					"nothing of the sort": []byte("nothing"),
				} {
					<-time.After(time.Second)
					p.port.comes(frame)
					require.Empty(t, p.got(), what)
				}

				p.a.member.SetPolicy(bypass.Never)
				synctest.Wait()
				require.Equal(t, bypass.Leaving, p.a.status(p.flow).State)
				p.port.comes(p.unreachable(p.router, wire, 1))
				require.Empty(t, p.got(), "the flow leaves")
				p.onOverlay(10 * time.Second)
				p.port.comes(p.unreachable(p.router, wire, 1))
				require.Empty(t, p.got(), "the flow is over")
				p.leave()
			})
		})
	}
}

// From the moment in which a flow begins to leave, its port may soon be another guest's.
func TestICMPNotAfterDetach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newICMPPair(t, bypass.TCP, bypass.IPv4)
		wire := p.wire()
		done := make(chan error, 1)
		go func() { done <- p.a.member.Detach(t.Context(), ofport) }()
		for range 100 {
			p.port.comes(p.unreachable(p.router, wire, 1))
		}
		require.NoError(t, <-done)
		p.got()
		p.port.comes(p.unreachable(p.router, wire, 1))
		require.Empty(t, p.got())
	})
}

// However many come, a guest gets few, and others' errors still pass.
func TestICMPFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newICMPPair(t, bypass.TCP, bypass.IPv4)
		frame := p.unreachable(p.router, p.wire(), 1)
		for range 1000 {
			p.port.comes(frame)
		}
		n := len(p.got())
		require.NotZero(t, n)
		require.LessOrEqual(t, n, 4, "of a thousand")
		for range 10 { // seconds
			for range 1000 {
				p.port.comes(frame)
				<-time.After(time.Millisecond)
			}
		}
		n = len(p.got())
		require.Greater(t, n, 30)
		require.LessOrEqual(t, n, 45, "of ten thousand")
		require.Equal(t, 2, p.exchange(), "the flow is not harmed")
	})
}

// A path that has become narrower is found to be, and left; it is taken again when it is
// wide.
func TestICMPPathNarrows(t *testing.T) {
	for _, family := range []bypass.Family{bypass.IPv4, bypass.IPv6} {
		synctest.Test(t, func(t *testing.T) { narrows(t, newICMPPair(t, bypass.TCP, family)) })
	}
}

func narrows(t *testing.T, p *icmpPair) {
	p.wire1300()
	took := until(t, 5*time.Second, "the path is known to be narrow", func() bool {
		return p.a.status(p.flow).Reason == bypass.ReasonMTU && p.b.status(p.flow).Reason != bypass.ReasonNone
	})
	t.Logf("after %v", took)
	require.Less(t, took, 2*time.Second)
	p.onOverlay(10 * time.Second)
	<-time.After(10 * time.Second)
	r, _ := p.a.member.PathTo(t.Context(), p.b.id, bypass.FamilyOf(p.ours))
	require.Equal(t, bypass.ReasonMTU, r)
	p.pair.wire.MTU(0)
	p.bypassed(40 * time.Second)
	require.Equal(t, 2, p.exchange())
}

// A path that takes nothing at all is not called narrow, whatever is said of it.
func TestICMPSilentPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newICMPPair(t, bypass.TCP, bypass.IPv4)
		frame := p.tooBig(p.wire(), 1300)
		p.pair.wire.Block(p.a.addr, p.b.addr, 0)
		p.port.comes(frame)
		until(t, 5*time.Second, "the path is given up", func() bool {
			return p.a.status(p.flow).State != bypass.Bypassed
		})
		require.Equal(t, bypass.ReasonProofTimeout, p.a.status(p.flow).Reason)
	})
}

// wire1300 makes the path narrow, and says so.
func (p *icmpPair) wire1300() {
	frame := p.tooBig(p.wire(), 1300)
	p.pair.wire.MTU(1300)
	p.port.comes(frame)
}

// Whoever says so of a path that is as wide as it was changes nothing, and costs next to
// nothing.
func TestICMPFalseTooBig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newICMPPair(t, bypass.TCP, bypass.IPv4)
		frame := p.tooBig(p.wire(), 600)
		before, _ := p.pair.wire.Counters()
		for range 200 {
			p.port.comes(frame)
			<-time.After(50 * time.Millisecond)
			require.Equal(t, bypass.Bypassed, p.a.status(p.flow).State)
		}
		after, _ := p.pair.wire.Counters()
		pings := uint64(10 * 4 * 2 * 4) // in 10 s, of two protocols, both ways, and answers
		require.Less(t, after-before, pings+100)
		require.Equal(t, 2, p.exchange())
	})
}
