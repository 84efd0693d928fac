package bypass_test

import (
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
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
