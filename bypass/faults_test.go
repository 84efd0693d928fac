package bypass_test

import (
	"bytes"
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/tap"
)

// after waits, in virtual time, and for all that happens then.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// says sends one segment of n's workload and tells where it went.
func (p *pair) says(n *node) (native, overlay bool) {
	f := p.flow
	if n == p.b {
		f = f.Reverse()
	}
	count := func() (got, tapped int) {
		n.peer.mu.Lock()
		got = len(n.peer.got)
		n.peer.mu.Unlock()
		n.mu.Lock()
		defer n.mu.Unlock()
		return got, n.tapped
	}
	got, tapped := count()
	n.sw.Send(ofport, bypasstest.Packet{SrcMAC: n.mac, DstMAC: n.peer.mac, Flow: f, Flags: bypasstest.FlagACK, Payload: []byte("marker")}.Frame())
	synctest.Wait()
	got2, tapped2 := count()
	return got2 > got, tapped2 > tapped
}

// inClear tells how many frames of guests were on the wire since it was last asked.
func (p *pair) inClear() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.seen {
		if bytes.Contains(f, []byte("marker")) {
			n++
		}
	}
	p.seen = nil
	return n
}

// B withdraws its consent while it cannot tell A: A's guest must be back on the
// overlay in seconds, and the flow must not be lost when the link is back.
func TestWithdrawnWhileLinkDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.bypassed(time.Second)
		p.link(false)
		p.b.member.SetPolicy(bypass.Never)
		start := time.Now()
		for range 100 {
			after(time.Second)
			p.inClear()
			_, overlay := p.says(p.a)
			if n := p.inClear(); time.Since(start) > 6*time.Second {
				require.Zero(t, n, "in clear without B's consent, %v after", time.Since(start))
				require.True(t, overlay)
			}
		}
		p.link(true)
		p.onOverlay(10 * time.Second)
		_, overlay := p.says(p.a)
		require.True(t, overlay)
		p.leave()
	})
}

// A flow falls idle at one end while the link is down; the other end must learn that
// nothing takes its packets any more.
func TestIdleWhileLinkDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.bypassed(time.Second)
		p.link(false)
		for range 120 { // only B sends: A's outbound falls idle
			after(time.Second)
			native, overlay := p.says(p.b)
			require.True(t, native || overlay, "B sends into nothing")
		}
		require.NotEqual(t, bypass.Bypassed, p.b.status(p.flow).State)
		p.link(true)
		p.onOverlay(10 * time.Second)
		p.leave()
	})
}

// The path goes while consent does: each end finds its own end of the flow, in its own
// time, and a new link finds them in step.
func TestLinkDownWhileLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.bypassed(time.Second)
		p.b.sw.Stall()
		p.b.member.SetPolicy(bypass.Never) // linked, but its switch takes nothing
		after(time.Second)
		p.link(false)
		after(5 * time.Second)
		p.inClear()
		_, overlay := p.says(p.a)
		require.True(t, overlay)
		require.Zero(t, p.inClear())
		p.b.sw.Resume()
		after(10 * time.Second)
		p.link(true)
		p.onOverlay(70 * time.Second)
		p.leave()
	})
}

// Once Detach has returned, the port may be another guest's: nothing of the old flows
// comes out of it, whatever became of the peer, and whatever the flow was doing.
func TestDetachedPortIsQuiet(t *testing.T) {
	for name, before := range map[string]func(p *pair){
		"linked":    func(*pair) {},
		"link down": func(p *pair) { p.link(false) },
		"leaving already": func(p *pair) {
			p.link(false)
			p.a.member.SetPolicy(bypass.Never)
			synctest.Wait()
		},
		"draining": func(p *pair) { // the drain is longer than Detach waits
			p.a.member.SetPolicy(bypass.Never)
			synctest.Wait()
		},
		"the switch refuses first": func(p *pair) { p.a.sw.FailNext(1) },
		"leaving, and the switch is slow": func(p *pair) {
			p.link(false)
			p.a.sw.Stall()
			p.a.member.SetPolicy(bypass.Never)
			synctest.Wait()
			time.AfterFunc(100*time.Millisecond, p.a.sw.Resume)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, func(_ int, c *bypass.HostConfig) { c.Drain = 4 * time.Second })
				p.bypassed(time.Second)
				before(p)
				soon, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				require.NoError(t, p.a.member.Detach(soon, ofport))
				other := bypass.Workload{Ofport: ofport, MAC: tap.MAC{2, 9, 9, 9, 9, 9}, IPs: []netip.Addr{netip.MustParseAddr("192.168.7.99")}}
				require.NoError(t, p.a.member.Attach(t.Context(), other))
				for s := range 80 {
					native, _ := p.says(p.b)
					require.False(t, native, "after %d s", s)
					after(time.Second)
				}
				p.link(true)
				p.onOverlay(10 * time.Second)
				p.leave()
			})
		})
	}
}

// One end has nothing of a flow that is active at the other, and no message says so:
// the orphans that come make the two compare, and so does a new link.
func TestResync(t *testing.T) {
	for _, way := range []string{"orphan", "new link"} {
		t.Run(way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, nil)
				p.bypassed(time.Second)
				p.b.member.DropFlow(p.flow)
				after(5 * time.Second)
				if way == "orphan" {
					native, overlay := p.says(p.a)
					require.False(t, native || overlay, "the test must make a hole first")
				} else {
					p.link(false)
					p.link(true)
				}
				after(5 * time.Second)
				require.Equal(t, bypass.OnOverlay, p.a.status(p.flow).State)
				_, overlay := p.says(p.a)
				require.True(t, overlay)
				p.bypassed(20 * time.Second)
				p.leave()
			})
		})
	}
}
