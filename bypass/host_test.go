package bypass_test

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/tap"
)

func TestBypassAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		require.Zero(t, p.exchange())
		p.bypassed(time.Second)
		p.mu.Lock()
		p.seen = nil
		p.mu.Unlock()
		require.Equal(t, 2, p.exchange())
		p.mu.Lock()
		for _, f := range p.seen {
			w, ok := bypasstest.Parse(f)
			require.True(t, ok)
			require.Equal(t, map[bool]netip.Addr{true: p.a.addr, false: p.b.addr}[w.SrcMAC == p.a.uplink], w.Flow.Src.Addr())
			require.True(t, bypass.DefaultPorts.Contains(w.Flow.Src.Port()) && bypass.DefaultPorts.Contains(w.Flow.Dst.Port()))
		}
		require.NotEmpty(t, p.seen)
		p.mu.Unlock()
		a, b := p.a.status(p.flow), p.b.status(p.flow)
		require.Equal(t, bypass.ReasonNone, a.Reason)
		require.Equal(t, a.Local, b.Remote)
		require.Equal(t, a.Remote, b.Local)

		for i := range 40 { // many leases long, it stays, as long as it is used
			<-time.After(5 * time.Second)
			require.Equal(t, 2, p.exchange(), "after %d s", 5*i)
		}
		for _, n := range []*node{p.a, p.b} { // withdrawn at either end
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

func TestPolicyOfEitherEnd(t *testing.T) {
	for i, want := range []bypass.Reason{bypass.ReasonPolicy, bypass.ReasonPeerPolicy} {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t, nil)
			n := []*node{p.a, p.b}[i]
			until(t, time.Second, "proven", func() bool {
				r, _ := p.a.member.PathTo(t.Context(), p.b.id, bypass.IPv4)
				return r == bypass.ReasonNone
			})
			n.member.SetPolicy(func(bypass.Request) bypass.Verdict { return bypass.Verdict{} })
			p.b.member.Request(p.flow.Reverse(), bypass.Verdict{Bypass: i == 0}) // the end that may asks
			p.a.member.Request(p.flow, bypass.Verdict{Bypass: true})
			<-time.After(5 * time.Second)
			require.Zero(t, p.exchange())
			if i == 1 {
				require.Equal(t, want, p.a.status(p.flow).Reason)
			}
			p.leave()
		})
	}
}

func TestLostLinkIsNotLostPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.bypassed(time.Second)
		p.link(false)
		for range 60 {
			<-time.After(2 * time.Second)
			require.Equal(t, 2, p.exchange())
		}
		p.link(true)
		<-time.After(time.Second)
		require.Equal(t, 2, p.exchange())
		p.link(false)
		p.a.member.SetPolicy(bypass.Never) // policy does not wait for the link
		synctest.Wait()
		p.exchange()
		require.Equal(t, bypass.Leaving, p.a.status(p.flow).State)
		p.link(true)
		p.onOverlay(5 * time.Second)
		p.leave()
	})
}

func TestIdle(t *testing.T) {
	eachKind(t, func(t *testing.T, p *pair) {
		p.bypassed(time.Second)
		<-time.After(19 * time.Second)
		require.Equal(t, 2, p.exchange())
		<-time.After(15 * time.Second)
		require.Equal(t, bypass.Bypassed, p.a.status(p.flow).State)
		p.onOverlay(120 * time.Second)
		require.Equal(t, bypass.ReasonIdle, p.a.status(p.flow).Reason)
		p.bypassed(3 * time.Second)
		p.leave()
	})
}

func TestBothAskAtOnce(t *testing.T) {
	eachKind(t, func(t *testing.T, p *pair) {
		until(t, time.Second, "proven", func() bool {
			r, _ := p.a.member.PathTo(t.Context(), p.b.id, p.family())
			return r == bypass.ReasonNone
		})
		for range 20 {
			p.b.member.Request(p.flow.Reverse(), bypass.Verdict{Bypass: true})
			p.a.member.Request(p.flow, bypass.Verdict{Bypass: true})
			p.bypassed(15 * time.Second)
			require.Equal(t, 2, p.exchange())
			p.a.member.SetPolicy(bypass.Never)
			p.onOverlay(5 * time.Second)
			p.a.member.SetPolicy(bypass.Always)
			<-time.After(10 * time.Second)
		}
		p.leave()
	})
}

func TestSwitchFaults(t *testing.T) {
	for name, fault := range map[string]func(p *pair){
		"A's switch restarts": func(p *pair) { p.a.sw.Down(); p.a.sw.Up(true) },
		"B's switch restarts": func(p *pair) { p.b.sw.Down(); p.b.sw.Up(true) },
		"B's connection lost": func(p *pair) {
			p.b.sw.Down()
			p.b.sw.Up(false)
			p.b.member.SetPolicy(bypass.Never)
			p.b.member.SetPolicy(bypass.Always)
		},
		"a foreign deletion, out": func(p *pair) {
			for _, r := range p.a.sw.Rules() {
				p.a.sw.Forget(r.Epoch, r.Rule.Direction, r.Rule.ID)
			}
		},
		"a foreign deletion, in": func(p *pair) {
			for _, r := range p.b.sw.Rules() {
				if r.Rule.Direction == bypass.Inbound {
					p.b.sw.Forget(r.Epoch, r.Rule.Direction, r.Rule.ID)
				}
			}
		},
		"removal unconfirmed": func(p *pair) {
			p.a.sw.UnconfirmedNext(1, false)
			p.a.member.SetPolicy(bypass.Never)
			p.a.member.SetPolicy(bypass.Always)
		},
		"stalled": func(p *pair) { p.a.sw.Stall(); <-time.After(8 * time.Second); p.a.sw.Resume() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, nil)
				p.bypassed(time.Second)
				fault(p)
				synctest.Wait()
				<-time.After(3 * time.Second)
				p.bypassed(60 * time.Second)
				require.Equal(t, 2, p.exchange())
				p.leave()
			})
		})
	}
}

func TestRefusedInstallations(t *testing.T) {
	for i, want := range []bypass.Reason{bypass.ReasonSwitch, bypass.ReasonPeerFailed} {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t, nil)
			until(t, time.Second, "proven", func() bool {
				r, _ := p.a.member.PathTo(t.Context(), p.b.id, bypass.IPv4)
				return r == bypass.ReasonNone
			})
			synctest.Wait()
			[]*node{p.a, p.b}[i].sw.FailNext(1)
			p.a.member.Request(p.flow, bypass.Verdict{Bypass: true})
			until(t, time.Second, "given up", func() bool { return p.a.status(p.flow).Reason == want })
			require.Zero(t, p.exchange())
			p.bypassed(5 * time.Second)
			p.leave()
		})
	}
}

func TestEndpointMoves(t *testing.T) {
	eachKind(t, func(t *testing.T, p *pair) {
		p.bypassed(time.Second)
		p.b.mu.Lock()
		p.b.resolves = false
		p.b.mu.Unlock()
		p.b.member.Recheck()
		synctest.Wait()
		require.Zero(t, p.exchange())
		p.onOverlay(5 * time.Second)
		require.Equal(t, bypass.ReasonDetached, p.b.status(p.flow).Reason)
		p.leave()
	})
}

func TestNextHopChangesItsMAC(t *testing.T) {
	eachKind(t, func(t *testing.T, p *pair) {
		p.bypassed(time.Second)
		router := tap.MAC{2, 0, 0, 0, 9, 9}
		p.wire.Mangle(func(f []byte) []byte { // B moves to another MAC
			if tap.MAC(f[:6]) == router {
				copy(f, p.b.uplink[:])
			}
			return f
		})
		r, err := p.a.underlay.Route(t.Context(), p.at(p.b))
		require.NoError(t, err)
		r.NextHop = router
		p.a.underlay.SetRoute(p.at(p.b), r)
		synctest.Wait()
		p.seen = nil
		require.Equal(t, 2, p.exchange())
		require.Equal(t, router, tap.MAC(p.seen[0][:6]))
		require.Equal(t, bypass.Bypassed, p.a.status(p.flow).State)
		p.leave()
	})
}

// A node that dies leaves rules behind; its next run takes its outbounds off at once,
// its inbounds after a lease, and the peer starts again with it.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.bypassed(time.Second)
		p.link(false)
		p.b.host.Kill()
		first := p.b.sw.Rules()
		require.NotEmpty(t, first)
		p.b.join()
		p.link(true)
		p.exchange() // at most lost; never anywhere but to its workload
		until(t, 3*time.Second, "A is off the old bypass", func() bool { return p.a.status(p.flow).State == bypass.OnOverlay })
		require.Equal(t, bypass.ReasonPeerRestarted, p.a.status(p.flow).Reason)
		p.bypassed(20 * time.Second)
		require.Equal(t, 2, p.exchange())
		for range 16 {
			<-time.After(2 * time.Second)
			p.exchange()
		}
		for _, r := range p.b.sw.Rules() {
			require.NotEqual(t, first[0].Epoch, r.Epoch, "a rule of the dead run is still there")
		}
		p.leave()
	})
}
