package bypass_test

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/overlay"
)

// pass lets time go by.
func pass(d time.Duration) { <-time.After(d); synctest.Wait() }

// Flows that were wanted while no path was proven are forgotten when nobody asks for
// them any more, and do not all move when the path comes back.
func TestWantedFlowsLapse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.wire.Block(netip.Addr{}, netip.Addr{}, 0)
		p.link(false)
		p.a.member.Forget(p.b.id)
		p.b.member.Forget(p.a.id)
		synctest.Wait()
		p.link(true)
		for i := range 1000 {
			f := p.flow
			f.Src = netip.AddrPortFrom(f.Src.Addr(), uint16(1000+i))
			p.a.member.Request(f, bypass.Verdict{Bypass: true})
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		pass(time.Hour)
		n := len(p.a.member.Flows())
		p.wire.Unblock(netip.Addr{}, netip.Addr{}, 0)
		pass(time.Minute)
		up := 0
		for _, s := range p.a.member.Flows() {
			if s.State == bypass.Bypassed {
				up++
			}
		}
		require.Zero(t, n, "remembered after an hour")
		require.Zero(t, up, "dead flows that were bypassed")
		p.leave()
	})
}

// A policy's consent is for the endpoints as they are: another tag is another question.
func TestTagChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		require.NoError(t, p.b.member.Leave(ctx))
		p.link(false)
		synctest.Wait()
		var tag atomic.Value
		tag.Store("public")
		n := p.b
		m, err := n.host.Join(t.Context(), bypass.MemberConfig{
			Network: "test", Self: n.id, MTU: 1400,
			Policy: func(r bypass.Request) bypass.Verdict { return bypass.Verdict{Bypass: r.PeerTag == "public"} },
			Resolve: func(f bypass.Flow) (bypass.Ends, bool) {
				return bypass.Ends{Peer: n.peer.id, Ofport: ofport, LocalMAC: n.mac, RemoteMAC: n.peer.mac, RemoteTag: tag.Load().(string)}, true
			},
			Send:    func(_ overlay.PeerID, msg []byte) bool { n.peer.receive(append([]byte(nil), msg...)); return true },
			Changed: func(bypass.Status) {},
		})
		require.NoError(t, err)
		n.mu.Lock()
		n.member = m
		n.mu.Unlock()
		require.NoError(t, m.Attach(t.Context(), bypass.Workload{Ofport: ofport, MAC: n.mac, IPs: []netip.Addr{n.ip}}))
		p.link(true)
		p.bypassed(20 * time.Second)
		tag.Store("secret")
		n.member.Recheck()
		pass(5 * time.Second)
		require.Equal(t, bypass.ReasonPolicy, n.status(p.flow).Reason)
		require.Zero(t, p.exchange())
		p.leave()
	})
}

// Nothing is bypassed without the host's guard, and a guard that failed is tried again.
func TestGuardIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, func(i int, c *bypass.HostConfig) {
			if i == 0 {
				c.Underlay.(*bypasstest.Underlay).FailGuard(errors.New("nft: busy"))
			}
		})
		p.a.member.Request(p.flow, bypass.Verdict{Bypass: true})
		pass(5 * time.Second)
		require.Equal(t, bypass.ReasonGuard, p.a.status(p.flow).Reason)
		p.a.underlay.FailGuard(nil)
		p.bypassed(40 * time.Second)
		_, guarded, _ := p.a.underlay.Guarded()
		require.Equal(t, []netip.Addr{p.b.addr}, guarded)
		p.leave()
	})
}

// A switch that does not answer at the start is asked again what earlier runs left.
func TestOldRulesAreListedLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.bypassed(time.Second)
		p.link(false)
		p.b.host.Kill()
		old := p.b.sw.Rules()[0].Epoch
		p.b.sw.Stall()
		time.AfterFunc(7*time.Second, p.b.sw.Resume)
		p.b.join()
		pass(75 * time.Second)
		n := 0
		for _, r := range p.b.sw.Rules() {
			if r.Epoch == old {
				n++
			}
		}
		require.Zero(t, n, "rules of the dead run")
	})
}

// Networks that share a host cannot detach each other's workloads.
func TestDetachOfAnothersPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		m, err := p.a.host.Join(t.Context(), bypass.MemberConfig{
			Network: "two", Self: p.a.id, MTU: 1400,
			Resolve: func(bypass.Flow) (bypass.Ends, bool) { return bypass.Ends{}, false },
			Send:    func(overlay.PeerID, []byte) bool { return false }, Changed: func(bypass.Status) {},
		})
		require.NoError(t, err)
		require.NoError(t, m.Detach(t.Context(), ofport))
		base, _ := p.a.sw.Base()
		require.Len(t, base.Workloads, 1)
		require.NoError(t, m.Leave(t.Context()))
		p.bypassed(5 * time.Second)
		p.leave()
	})
}

// slow is an underlay whose look-ups take a second.
type slow struct {
	*bypasstest.Underlay
	calls atomic.Int32
}

func (u *slow) Route(ctx context.Context, a netip.Addr) (bypass.Route, error) {
	u.calls.Add(1)
	<-time.After(time.Second)
	return u.Underlay.Route(ctx, a)
}

// A peer that repeats its Challenge a thousand times costs a look-up at a time, of the
// newest: not a thousand that everybody else must wait for.
func TestChallengesAreNotQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var u *slow
		p := newPair(t, func(i int, c *bypass.HostConfig) {
			if i == 1 { // the higher end
				u = &slow{Underlay: c.Underlay.(*bypasstest.Underlay)}
				c.Underlay = u
			}
		})
		var challenge atomic.Pointer[[]byte]
		p.a.mu.Lock()
		p.a.tell = func(msg []byte) {
			if bypass.IsChallenge(msg) {
				copied := append([]byte(nil), msg...)
				challenge.Store(&copied)
			}
		}
		p.a.mu.Unlock()
		p.wire.Block(netip.Addr{}, netip.Addr{}, 0)
		pass(time.Minute) // the proof fails, and is tried again: the lower end challenges
		require.NotNil(t, challenge.Load())
		for range 1000 {
			p.b.member.Receive(p.a.id, append([]byte(nil), *challenge.Load()...))
		}
		pass(10 * time.Second)
		before := u.calls.Load()
		pass(time.Minute)
		require.Less(t, u.calls.Load()-before, int32(15), "still looking up what was asked long ago")
		p.wire.Unblock(netip.Addr{}, netip.Addr{}, 0)
		p.bypassed(time.Minute)
		p.leave()
	})
}

// A workload that scans begins only so many flows a second; another one's flow begins
// at once.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, func(_ int, c *bypass.HostConfig) { c.Rate = 10 })
		p.bypassed(time.Second)
		at := func(i int) bypass.Flow {
			f := p.flow
			f.Src = netip.AddrPortFrom(f.Src.Addr(), uint16(1+i))
			return f
		}
		count := func() (up, queued int) {
			for _, s := range p.a.member.Flows() {
				switch {
				case s.State == bypass.Bypassed:
					up++
				case s.Reason == bypass.ReasonQueued:
					queued++
				}
			}
			return up, queued
		}
		for i := range 1000 {
			p.a.member.Request(at(i), bypass.Verdict{Bypass: true})
		}
		pass(100 * time.Millisecond)
		up, queued := count()
		require.InDelta(t, 20, up, 2, "the burst")
		require.Equal(t, 1001, up+queued)
		for range 50 { // what lives asks again
			pass(time.Second)
			for i := range 1000 {
				p.a.member.Request(at(i), bypass.Verdict{Bypass: true})
			}
		}
		pass(100 * time.Millisecond)
		up, _ = count()
		require.InDelta(t, 520, up, 20, "ten a second")
		p.leave()
	})
}

// A flow in one direction only stays while it is used, though the silent end's rule
// runs out again and again.
func TestOneWayFlowStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.bypassed(time.Second)
		for range 100 {
			pass(2 * time.Second)
			native, overlay := p.says(p.b)
			require.True(t, native && !overlay)
		}
		pass(100 * time.Second) // now nobody says anything
		require.Equal(t, bypass.OnOverlay, p.a.status(p.flow).State)
		require.Equal(t, bypass.OnOverlay, p.b.status(p.flow).State)
		p.leave()
	})
}
