package bypass_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/overlay"
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

// A flow falls idle at one end while the link is down: the other end cannot be told, so
// it stays, and with it all other flows of that peer, until there is a link again.
func TestIdleWhileLinkDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.bypassed(time.Second)
		p.link(false)
		for range 120 { // only B sends: A's outbound falls idle
			after(time.Second)
			native, overlay := p.says(p.b)
			require.True(t, native && !overlay, "B sends into nothing, or where no overlay is")
		}
		require.Equal(t, bypass.Bypassed, p.a.status(p.flow).State)
		require.Equal(t, bypass.Bypassed, p.b.status(p.flow).State)
		p.link(true)
		p.onOverlay(45 * time.Second)
		require.Equal(t, bypass.ReasonIdle, p.a.status(p.flow).Reason)
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

// left is all that a host that has gone may not leave behind.
func (n *node) left() string {
	_, guarded, _ := n.underlay.Guarded()
	base, _ := n.sw.Base()
	return fmt.Sprintf("%d rules, %d leases, guarded %v, %v, %d workloads, %d hops",
		len(n.sw.Rules()), len(n.sw.Leases()), guarded, base.Guard, len(base.Workloads), len(base.Hops))
}

const nothing = "0 rules, 0 leases, guarded [], [], 0 workloads, 0 hops"

// A peer that does not answer is no reason to leave a healthy switch full of rules. But its
// own may send for a lease, and what comes by them must not reach the host's stack.
func TestLeaveWithoutPeer(t *testing.T) {
	for name, before := range map[string]func(p *pair){
		"dead":      func(p *pair) { p.b.host.Kill(); p.link(false) },
		"mute":      func(p *pair) { p.b.host.Kill() },
		"link down": func(p *pair) { p.link(false) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, nil)
				p.bypassed(time.Second)
				before(p)
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				start := time.Now()
				require.ErrorIs(t, p.a.member.Leave(ctx), context.DeadlineExceeded)
				require.LessOrEqual(t, time.Since(start), 3*time.Second+100*time.Millisecond)
				base, _ := p.a.sw.Base()
				require.Equal(t, bypass.Base{Epoch: base.Epoch, Ports: base.Ports, Lease: 30 * time.Second,
					Guard: []bypass.AddrPair{{Local: p.a.addr, Remote: p.b.addr}}}, base)
				require.Empty(t, p.a.sw.Rules())
				require.Empty(t, p.a.sw.Leases())
				_, guarded, _ := p.a.underlay.Guarded()
				require.Empty(t, guarded)
			})
		})
	}
}

// The same with another Network on the host: that one keeps what it has.
func TestLeaveOneOfTwoWithoutPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.bypassed(time.Second)
		changed := 0
		p.a.changed = func(bypass.Status) { changed++ }
		other, err := p.a.host.Join(t.Context(), bypass.MemberConfig{Network: "two", Self: p.a.id, MTU: 1400,
			Resolve: func(bypass.Flow) (bypass.Ends, bool) { return bypass.Ends{}, false },
			Send:    func(overlay.PeerID, []byte) bool { return false }, Changed: func(bypass.Status) {}})
		require.NoError(t, err)
		require.NoError(t, other.Attach(t.Context(), bypass.Workload{Ofport: 8, MAC: tap.MAC{2, 8}}))
		p.b.host.Kill()
		p.link(false)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		require.ErrorIs(t, p.a.member.Leave(ctx), context.DeadlineExceeded)
		changed = 0
		base, _ := p.a.sw.Base()
		require.Len(t, base.Workloads, 1)
		require.Empty(t, p.a.sw.Rules())
		require.Empty(t, p.a.sw.Leases())
		after(2 * time.Minute)
		require.Zero(t, changed, "told of a flow after it had left")
		require.NoError(t, other.Leave(t.Context()))
		require.Equal(t, nothing, p.a.left())
	})
}

// A switch that takes nothing does not hold Leave for long after its context.
func TestLeaveWhileSwitchStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.bypassed(time.Second)
		for i := range 30 {
			f := p.flow
			f.Src = netip.AddrPortFrom(f.Src.Addr(), uint16(41000+i))
			p.a.member.Request(f, bypass.Verdict{Bypass: true})
		}
		after(time.Second)
		p.a.sw.Stall()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		require.Error(t, p.a.member.Leave(ctx))
		require.LessOrEqual(t, time.Since(start), 6*time.Second)
		p.a.sw.Resume()
	})
}

// Who waits for the switch, or asks for anything, is told when the Member leaves.
func TestCallsEndWithLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.a.sw.Down()
		synctest.Wait()
		m := p.a.member
		long, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		calls := map[string]func() error{
			"attach": func() error { return m.Attach(long, bypass.Workload{Ofport: 9, MAC: tap.MAC{2, 8}}) },
			"detach": func() error { return m.Detach(long, ofport) },
		}
		var wg sync.WaitGroup
		for name, call := range calls {
			wg.Go(func() { require.ErrorIs(t, call(), bypass.ErrLeft, name) })
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_ = m.Leave(ctx)
		wg.Wait()
		for name, call := range calls {
			require.ErrorIs(t, call(), bypass.ErrLeft, name)
		}
		r, _ := m.PathTo(t.Context(), p.b.id, bypass.IPv4)
		require.Equal(t, bypass.ReasonShutdown, r)
	})
}

// A removed peer is forgotten, though it had flows: their end is its end.
func TestForgottenPeerIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.bypassed(time.Second)
		p.link(false)
		p.a.member.Forget(p.b.id)
		after(2 * time.Minute)
		_, guarded, _ := p.a.underlay.Guarded()
		base, _ := p.a.sw.Base()
		require.Empty(t, guarded)
		require.Empty(t, base.Guard)
		require.Empty(t, p.a.sw.Leases())
		p.b.member.Forget(p.a.id)
		p.link(true) // it comes back
		p.bypassed(90 * time.Second)
		p.a.member.Forget(p.b.id)
		p.link(true) // and again, before its flows have settled
		after(2 * time.Minute)
		_, guarded, _ = p.a.underlay.Guarded()
		require.NotEmpty(t, guarded)
		p.leave()
	})
}

// What a guest's port scan queues does not cost a peer's Close.
func TestRequestFloodLosesNoClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.bypassed(time.Second)
		block := make(chan struct{})
		var once sync.Once
		p.a.changed = func(bypass.Status) { once.Do(func() { <-block }) } // the loop is busy for a moment
		f := p.flow
		f.Dst = netip.AddrPortFrom(p.b.ip, 81)
		for i := range 9000 {
			f.Src = netip.AddrPortFrom(f.Src.Addr(), uint16(1000+i))
			p.a.member.Request(f, bypass.Verdict{Bypass: true})
		}
		synctest.Wait()
		p.b.member.SetPolicy(bypass.Never)
		after(10 * time.Millisecond)
		close(block)
		synctest.Wait()
		require.NotEqual(t, bypass.Bypassed, p.a.status(p.flow).State)
		_, overlay := p.says(p.a)
		require.True(t, overlay)
	})
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
