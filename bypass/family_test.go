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
