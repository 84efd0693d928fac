package bypass_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
)

// A second controller deletes all that is in a switch. The flow goes back to the
// overlay at once; when it is bypassed again, the switch has the gates for it.
func TestForeignControllerDeletesAll(t *testing.T) {
	for i := range 2 {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t, nil)
			p.bypassed(time.Second)
			n := []*node{p.a, p.b}[i]
			for range 3 {
				n.sw.Wipe()
				until(t, 100*time.Millisecond, "both have left the bypass", func() bool {
					return p.a.status(p.flow).State != bypass.Bypassed && p.b.status(p.flow).State != bypass.Bypassed
				})
				require.Zero(t, p.exchange())
				until(t, 500*time.Millisecond, "the slow half is back", func() bool {
					_, set := n.sw.Base()
					return set
				})
				p.bypassed(10 * time.Second)
				start := time.Now()
				for time.Since(start) < 5*time.Second {
					require.Equal(t, 2, p.exchange(), "%v after it was bypassed again", time.Since(start))
					<-time.After(100 * time.Millisecond)
				}
			}
			p.leave()
		})
	}
}

// Whichever end's switch restarts, the path is proven again at once: the other one does
// not wait until it misses the answers to its probes.
func TestSwitchRestartOfEitherEnd(t *testing.T) {
	for i := range 2 {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t, nil)
			p.bypassed(time.Second)
			n := []*node{p.a, p.b}[i]
			n.sw.Down()
			synctest.Wait()
			n.sw.Up(true)
			until(t, time.Second, "proven again", func() bool {
				for _, n := range []*node{p.a, p.b} {
					if r, _ := n.member.PathTo(t.Context(), n.peer.id, bypass.IPv4); r != bypass.ReasonNone {
						return false
					}
				}
				_, set := n.sw.Base()
				return set && p.a.status(p.flow).State != bypass.Bypassed
			})
			p.bypassed(4 * time.Second)
			require.Equal(t, 2, p.exchange())
			p.leave()
		})
	}
}
