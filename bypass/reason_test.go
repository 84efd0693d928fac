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

// reasonsOf notes every reason that the two nodes give for flows.
func reasonsOf(p *pair) func(n *node, r bypass.Reason) bool {
	var mu sync.Mutex
	seen := map[*node]map[bypass.Reason]bool{p.a: {}, p.b: {}}
	for n, reasons := range seen {
		n.changed = func(s bypass.Status) {
			mu.Lock()
			defer mu.Unlock()
			reasons[s.Reason] = true
		}
	}
	return func(n *node, r bypass.Reason) bool {
		mu.Lock()
		defer mu.Unlock()
		return seen[n][r]
	}
}

// wants has A ask for the flow for so long, each second.
func (p *pair) wants(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		p.a.member.Request(p.flow, bypass.Verdict{Bypass: true})
		pass(time.Second)
	}
}

// again has both ends know nothing of each other, and then link anew.
func (p *pair) again() {
	p.link(false)
	p.a.member.Forget(p.b.id)
	p.b.member.Forget(p.a.id)
	pass(10 * time.Second)
	p.link(true)
}

// Each of these reasons is given to the flow, at A or (last column) at B.
func TestReasonsOfFlows(t *testing.T) {
	narrow := func(ports ...bypass.PortRange) func(int, *bypass.HostConfig) {
		return func(i int, c *bypass.HostConfig) { c.Ports = ports[i%len(ports)] }
	}
	for _, c := range []struct {
		want   bypass.Reason
		change func(i int, c *bypass.HostConfig)
		do     func(p *pair)
		atB    bool
	}{
		{want: bypass.ReasonProving, do: func(p *pair) {
			p.wire.Block(netip.Addr{}, netip.Addr{}, 0)
			p.again()
			p.wants(2 * time.Second)
			p.wire.Unblock(netip.Addr{}, netip.Addr{}, 0)
		}},
		{want: bypass.ReasonLinkDown, do: func(p *pair) { p.link(false); p.wants(time.Second) }},
		{want: bypass.ReasonSwitchDown, do: func(p *pair) { p.a.sw.Down(); pass(time.Second); p.wants(time.Second); p.a.sw.Up(false) }},
		{want: bypass.ReasonSameHost, do: func(p *pair) {
			p.b.underlay.SetAddrs(netip.PrefixFrom(p.a.addr, 24)) // B says A's own address
			p.b.underlay.SetRoute(p.a.addr, bypass.Route{Local: p.a.addr, Src: p.b.uplink, Via: p.a.addr, NextHop: p.a.uplink, OnLink: true, MTU: 1500})
			p.again()
			p.wants(5 * time.Second)
		}},
		{want: bypass.ReasonPortRange, change: narrow(bypass.PortRange{Base: 0xe000, Mask: 0xf000}, bypass.DefaultPorts),
			do: func(p *pair) { p.wants(5 * time.Second) }},
		{want: bypass.ReasonPorts, change: narrow(bypass.PortRange{Base: 0xf000, Mask: 0xffc0}), do: func(p *pair) {
			p.bypassed(time.Second)
			for i := range 60*60 + 100 { // there are 60 * 60 pairs
				f := p.flow
				f.Src = netip.AddrPortFrom(f.Src.Addr(), uint16(1000+i))
				p.a.member.Request(f, bypass.Verdict{Bypass: true})
				if i%100 == 0 { // not more at once than a switch is let wait for
					pass(50 * time.Millisecond)
				}
			}
			pass(5 * time.Second)
		}},
		{want: bypass.ReasonTimeout, do: func(p *pair) {
			p.bypassed(time.Second)
			f := p.flow
			f.Src = netip.AddrPortFrom(f.Src.Addr(), 1)
			p.b.sw.Stall()
			p.a.member.Request(f, bypass.Verdict{Bypass: true})
			pass(2500 * time.Millisecond)
			p.b.sw.Resume()
			pass(10 * time.Second)
		}},
		{want: bypass.ReasonGlare, atB: true, do: func(p *pair) {
			pass(100 * time.Millisecond) // the path was just seen to work: nobody waits for a ping
			p.a.mu.Lock()
			p.a.tell = func([]byte) { // while A's offer is under way, B makes its own
				p.b.member.Request(p.flow.Reverse(), bypass.Verdict{Bypass: true})
				<-time.After(time.Millisecond)
			}
			p.a.mu.Unlock()
			p.a.member.Request(p.flow, bypass.Verdict{Bypass: true})
			pass(time.Second)
		}},
		{want: bypass.ReasonPeerClosed, do: func(p *pair) {
			p.bypassed(time.Second)
			_ = p.b.member.Detach(context.Background(), ofport)
		}},
		{want: bypass.ReasonDetached, atB: true, do: func(p *pair) {
			p.bypassed(time.Second)
			_ = p.b.member.Detach(context.Background(), ofport)
		}},
		{want: bypass.ReasonFlowLost, do: func(p *pair) {
			p.bypassed(time.Second)
			for _, r := range p.a.sw.Rules() {
				p.a.sw.Forget(r.Epoch, r.Rule.Direction, r.Rule.ID)
			}
		}},
		{want: bypass.ReasonNoPeer, do: func(p *pair) { p.bypassed(time.Second); p.a.member.Forget(p.b.id) }},
		{want: bypass.ReasonShutdown, do: func(p *pair) { p.bypassed(time.Second); _ = p.a.member.Leave(p.a.t.Context()) }},
		{want: bypass.ReasonBackoff, do: func(p *pair) {
			p.bypassed(time.Second)
			p.a.member.SetPolicy(bypass.Never)
			pass(500 * time.Millisecond) // both drain
			p.b.sw.Stall()
			pass(2 * time.Second) // B cannot remove its inbound
			p.a.member.SetPolicy(bypass.Always)
			p.a.member.Request(p.flow, bypass.Verdict{Bypass: true})
			pass(time.Second)
			p.b.sw.Resume()
			pass(5 * time.Second)
		}},
	} {
		t.Run(c.want.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, c.change)
				gave := reasonsOf(p)
				c.do(p)
				synctest.Wait()
				n := map[bool]*node{false: p.a, true: p.b}[c.atB]
				require.True(t, gave(n, c.want), "now: %v; other end: %v", n.status(p.flow), gave(n.peer, c.want))
			})
		})
	}
}

// What the peer refuses is put to its account, not to ours.
func TestPeersRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		gave := reasonsOf(p)
		p.b.member.SetPolicy(nil) // it does not even prove the path
		p.again()
		p.wants(5 * time.Second)
		require.True(t, gave(p.a, bypass.ReasonPeerPolicy), "now: %v", p.a.status(p.flow))
		require.False(t, gave(p.a, bypass.ReasonPolicy))
		p.leave()
	})
}
