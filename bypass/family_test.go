package bypass_test

import (
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
)

// turn makes the pair's flow one of another kind.
func (p *pair) turn(proto bypass.Proto, f bypass.Family) {
	p.flow.Proto = proto
	if f == bypass.IPv6 {
		p.flow.Src = netip.AddrPortFrom(p.a.ip6, p.flow.Src.Port())
		p.flow.Dst = netip.AddrPortFrom(p.b.ip6, p.flow.Dst.Port())
	}
}

// family is the flow's, at the address of a host for it.
func (p *pair) family() bypass.Family { return bypass.FamilyOf(p.flow.Src.Addr()) }

func (p *pair) at(n *node) netip.Addr {
	if p.family() == bypass.IPv6 {
		return n.addr6
	}
	return n.addr
}

// both runs f for each family, in a bubble of its own.
func both(t *testing.T, f func(t *testing.T, family bypass.Family)) {
	for _, family := range []bypass.Family{bypass.IPv4, bypass.IPv6} {
		t.Run(family.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(t, family) })
		})
	}
}

// A flow of a family for which one end has no address stays on the overlay; either end
// says so, whichever it is and whoever asks, and the other family goes on.
func TestOneFamily(t *testing.T) {
	for _, six := range [][2]bool{{false, false}, {true, false}, {false, true}} {
		for _, asks := range []int{0, 1} {
			synctest.Test(t, func(t *testing.T) {
				p := newPairWith(t, six, nil)
				four := p.flow
				p.turn(bypass.TCP, bypass.IPv6)
				n, f := p.a, p.flow
				if asks == 1 {
					n, f = p.b, p.flow.Reverse()
				}
				until(t, 5*time.Second, "the reason", func() bool {
					n.member.Request(f, bypass.Verdict{Bypass: true})
					return n.status(f).Reason == bypass.ReasonFamily
				})
				r, _ := n.member.PathTo(t.Context(), n.peer.id, bypass.IPv6)
				require.Equal(t, bypass.ReasonFamily, r)
				p.flow = four
				p.bypassed(5 * time.Second)
				p.leave()
			})
		}
	}
}

// One family's path is lost, and the other's goes on.
func TestOnePathLost(t *testing.T) {
	both(t, func(t *testing.T, lost bypass.Family) {
		p := newPairWith(t, [2]bool{true, true}, nil)
		flows := map[bypass.Family]bypass.Flow{bypass.IPv4: p.flow}
		p.turn(bypass.UDP, bypass.IPv6)
		flows[bypass.IPv6] = p.flow
		for _, f := range flows {
			p.flow = f
			p.bypassed(5 * time.Second)
		}
		p.flow = flows[lost]
		p.wire.Block(p.at(p.a), netip.Addr{}, 0)
		p.flow = flows[bypass.IPv4+bypass.IPv6-lost]
		for range 200 {
			<-time.After(100 * time.Millisecond)
			require.Equal(t, 2, p.exchange())
		}
		p.flow = flows[lost]
		require.NotEqual(t, bypass.Bypassed, p.a.status(p.flow).State)
		require.Zero(t, p.exchange())
		p.wire.Unblock(p.at(p.a), netip.Addr{}, 0)
		p.bypassed(40 * time.Second)
		p.leave()
	})
}

// A host that comes by an address, or a workload with one, later has its path then; and
// it is lost with the address.
func TestAddressComesAndGoes(t *testing.T) {
	for _, i := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			p := newPairWith(t, [2]bool{true, true}, nil)
			n := []*node{p.a, p.b}[i]
			p.turn(bypass.UDP, bypass.IPv6)
			four, six := netip.PrefixFrom(n.addr, 24), netip.PrefixFrom(n.addr6, 64)
			there := n.peer.addr6
			route, err := n.underlay.Route(t.Context(), there)
			require.NoError(t, err)
			for range 2 {
				p.bypassed(15 * time.Second)
				n.underlay.DropRoute(there)
				n.underlay.SetAddrs(four)
				p.onOverlay(10 * time.Second)
				n.member.Request(p.flowFrom(n), bypass.Verdict{Bypass: true})
				until(t, 90*time.Second, "the reason", func() bool {
					p.a.member.Request(p.flow, bypass.Verdict{Bypass: true})
					return n.status(p.flowFrom(n)).Reason == bypass.ReasonFamily || n.peer.status(p.flowFrom(n.peer)).Reason == bypass.ReasonFamily
				})
				n.underlay.SetRoute(there, route)
				n.underlay.SetAddrs(four, six)
			}
			p.bypassed(15 * time.Second)
			p.leave()
		})
	}
}

// flowFrom is the pair's flow as n sends it.
func (p *pair) flowFrom(n *node) bypass.Flow {
	if n == p.b {
		return p.flow.Reverse()
	}
	return p.flow
}

// A host without IPv6 says nothing of it: neither it nor its peer has a second path.
func TestNoIPv6CostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		said := map[bypass.Family]int{}
		p := newPair(t, nil)
		for _, n := range []*node{p.a, p.b} {
			n.mu.Lock()
			n.tell = func(msg []byte) {
				m, err := bypass.Decode(msg)
				mu.Lock()
				defer mu.Unlock()
				require.NoError(t, err)
				said[m.Family]++
			}
			n.mu.Unlock()
		}
		p.link(false)
		p.link(true)
		p.bypassed(5 * time.Second)
		<-time.After(time.Minute)
		synctest.Wait()
		mu.Lock()
		require.Positive(t, said[0])
		require.Len(t, said, 1)
		mu.Unlock()
		p.leave()
	})
}

// eachKind runs f for all kinds of flows.
func eachKind(t *testing.T, f func(t *testing.T, p *pair)) {
	for _, proto := range []bypass.Proto{bypass.TCP, bypass.UDP} {
		for _, family := range []bypass.Family{bypass.IPv4, bypass.IPv6} {
			t.Run(proto.String()+" over "+family.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newPairWith(t, [2]bool{true, true}, nil)
					p.turn(proto, family)
					f(t, p)
				})
			})
		}
	}
}

// Flows of each kind are bypassed both ways between addresses of their own family, and
// come back.
func TestEachKindBypassedAndBack(t *testing.T) {
	eachKind(t, func(t *testing.T, p *pair) {
		require.Zero(t, p.exchange())
		p.bypassed(5 * time.Second)
		p.mu.Lock()
		p.seen = nil
		p.mu.Unlock()
		require.Equal(t, 2, p.exchange())
		p.mu.Lock()
		require.Len(t, p.seen, 2)
		for _, f := range p.seen {
			w, ok := bypasstest.Parse(f)
			require.True(t, ok)
			require.Equal(t, p.flow.Proto, w.Flow.Proto)
			require.Equal(t, bypass.FamilyOf(p.flow.Src.Addr()), bypass.FamilyOf(w.Flow.Src.Addr()))
			require.True(t, bypass.DefaultPorts.Contains(w.Flow.Src.Port()) && bypass.DefaultPorts.Contains(w.Flow.Dst.Port()))
		}
		p.mu.Unlock()
		for range 16 { // many leases long
			<-time.After(5 * time.Second)
			require.Equal(t, 2, p.exchange())
		}
		for _, n := range []*node{p.a, p.b} {
			n.member.SetPolicy(bypass.Never)
			synctest.Wait()
			require.Zero(t, p.exchange(), "withdrawn, and still bypassed")
			p.onOverlay(3 * time.Second)
			require.Equal(t, bypass.ReasonPolicy, n.status(p.flow).Reason)
			require.Equal(t, bypass.ReasonPeerPolicy, n.peer.status(p.flow).Reason)
			n.member.SetPolicy(bypass.Always)
			p.bypassed(15 * time.Second)
		}
		p.leave()
	})
}
