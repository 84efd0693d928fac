package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/tap"
)

// routedSites are two links with public addresses, and one router between them.
func routedSites() (sites []Site, trust nodecfg.Trust) {
	a, b := netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("198.51.100.0/24")
	return []Site{{Prefix: a}, {Prefix: b}}, nodecfg.Trust{Prefixes: []netip.Prefix{a, b}, MaxHops: 1}
}

// reservedPorts is the range of flows and probes, as nft writes it.
func reservedPorts() string {
	return fmt.Sprintf("%d-%d", bypass.DefaultPorts.First(), bypass.DefaultPorts.Last())
}

// Two links and one router: what keeps a path from being proven, and what ends a proof.
func TestIntegrationProofRouted(t *testing.T) {
	beside(t)
	sites, trust := routedSites()
	s := newSystemAt(t, sites)
	p := s.newInquiry(func(_ *Host, c *nodecfg.Config) { // an address will change
		c.Listen = netip.AddrPortFrom(netip.IPv4Unspecified(), overlayPort)
	})
	p.requireTrust(trust)
	p.requireFirewalls(trust)
	p.requireRenewed(trust)
	p.requireSecret()
}

// requireTrust: what configuration says, which is which addresses and how many routers;
// and addresses that are translated on the way.
func (p *inquiry) requireTrust(trust nodecfg.Trust) {
	p.t.Helper()
	router := p.cfg.outside()
	p.restart(nodecfg.Trust{})
	p.refused(bypass.ReasonUntrusted, "public addresses")
	p.restart(nodecfg.Trust{Prefixes: trust.Prefixes})
	p.refused(bypass.ReasonProofHops, "a router")
	require.NoError(p.t, p.ip(p.t.Context(), router, "addr add 198.51.100.77/24 dev net1"))
	for _, kind := range []string{"masquerade", "snat to 198.51.100.77"} {
		p.nft(router, "ip", "nat", "chain out { type nat hook postrouting priority 100; oif net1 "+kind+"; }")
		p.restart(trust)
		p.refused(bypass.ReasonProofNAT, "a router that may be there, but translates: "+kind)
	}
	p.nft(router, "ip", "nat", "")
	p.restart(trust)
	p.bypassed("a router that may be there")
}

// requireFirewalls: one that passes no TCP, one that passes no SYN, and one that passes
// connections whose SYN it saw.
func (p *inquiry) requireFirewalls(trust nodecfg.Trust) {
	p.t.Helper()
	router := p.cfg.outside()
	forward := func(rule string) string {
		return "chain in { type filter hook forward priority 0; tcp dport " + reservedPorts() + " " + rule + "; }"
	}
	loose := func(value string) {
		_, err := p.in(p.t.Context(), router, "sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_loose="+value)
		require.NoError(p.t, err)
	}
	p.nft(router, "ip", "wall", forward("counter drop"))
	p.restart(trust)
	p.refused(bypass.ReasonProofTCP, "no TCP")
	p.nft(router, "ip", "wall", forward("tcp flags & (syn|ack) == syn counter drop"))
	p.restart(trust)
	p.refused(bypass.ReasonProofTCP, "no SYN")
	require.GreaterOrEqual(p.t, p.dropped(router, "ip", "wall"), 6, "SYNs of a whole round")
	p.hangUp() // its SYN is long gone
	proven := p.proofs(1)
	loose("0")
	p.nft(router, "ip", "wall", forward("ct state != { established } tcp flags & (syn|ack) != syn counter drop"))
	p.await(proofLimit, "the proof passes a firewall that sees its SYN", func() bool { return p.proofs(1) > proven })
	p.note("a firewall that knows connections: proven")
	p.requireThroughFirewall()
	p.nft(router, "ip", "wall", "")
	loose("1")
}

// requireThroughFirewall starts connections until one that is bypassed from its SYN on works. What
// was held for too long, on a machine that lets a node wait, took the overlay, and then the firewall has not
// seen all of it: it may take the rest for nobody's.
func (p *inquiry) requireThroughFirewall() {
	p.t.Helper()
	at := netip.AddrPortFrom(p.guest(2, 1).Addr, chatPort+1)
	var ln *net.TCPListener
	inside(p.t, p.guest(2, 1).Namespace, func() (err error) {
		ln, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
		return err
	})
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(onlyWriter{c}, c)
				_ = c.Close()
			}()
		}
	}()
	for try := 1; ; try++ {
		require.LessOrEqual(p.t, try, 10, "no connection whose SYN and answer crossed the bypass came through the firewall")
		syn, answer := p.seen.count(isBypassSYN), p.seen.count(isBypassAnswer)
		said, err := p.converse(at)
		syn, answer = p.seen.count(isBypassSYN)-syn, p.seen.count(isBypassAnswer)-answer
		if syn == 0 || answer == 0 || err != nil {
			p.note("connection %d: %d SYNs and %d answers on the bypass (%v)", try, syn, answer, err)
			continue
		}
		p.await(10*time.Second, "the capture has what was said", func() bool {
			return p.seen.count(func(f []byte) bool { return bytes.Contains(f, said[:]) }) > 0
		})
		p.note("connection %d: through the firewall", try)
		return
	}
}

// converse makes a connection from the first guest, on which a marker goes there and
// back a few times.
func (p *inquiry) converse(to netip.AddrPort) (m marker, err error) {
	m = newMarker()
	var c net.Conn
	inside(p.t, p.guest(1, 1).Namespace, func() error {
		c, err = net.DialTimeout("tcp4", to.String(), 3*time.Second)
		return nil
	})
	if err != nil {
		return m, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return m, err
	}
	for range 20 {
		var back marker
		if _, err := c.Write(m[:]); err != nil {
			return m, err
		}
		if _, err := io.ReadFull(c, back[:]); err != nil {
			return m, err
		}
		if back != m {
			return m, errors.New("something else came back")
		}
	}
	return m, nil
}

// isBypassSYN: a guest's SYN on flows' ports. isBypassAnswer: what answers one.
func isBypassSYN(f []byte) bool { return isFlow(f) && f[47]&0x12 == 2 }

func isBypassAnswer(f []byte) bool { return isFlow(f) && f[47]&0x12 == 0x12 }

// count counts the frames until now for which f says so.
func (c *capture) count(f func([]byte) bool) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, frame := range c.frames {
		if f(frame) {
			n++
		}
	}
	return n
}

// requireRenewed: a live bypass is withdrawn when its path breaks, and its connection
// goes on over the overlay within 3 s; it returns when the path does. It follows the next
// hop's MAC, the route and the peer's address.
func (p *inquiry) requireRenewed(trust nodecfg.Trust) {
	p.t.Helper()
	router := p.cfg.outside()
	p.restart(trust)
	p.bypassed("at first")
	drop := func(what string) string {
		return "chain in { type filter hook forward priority 0; " + what + " dport " + reservedPorts() + " drop; }"
	}
	for _, c := range []struct {
		rules string
		want  bypass.Reason
	}{
		{drop("meta l4proto { tcp, udp } th"), bypass.ReasonProofTimeout},
		{drop("tcp"), bypass.ReasonProofTCP},
		{"chain out { type nat hook postrouting priority 100; oif net1 meta l4proto { tcp, udp } th dport " +
			reservedPorts() + " masquerade; }", bypass.ReasonProofNAT},
	} {
		p.nft(router, "ip", "wall", c.rules)
		gap := p.silenceUntil("the flow is on the overlay", func() bool { return !p.isAnywhere(nodeapi.FlowBypassed) })
		require.LessOrEqual(p.t, gap, 3*time.Second, "the guests' connection stood still")
		p.refused(c.want, fmt.Sprintf("silence of %v", gap))
		p.nft(router, "ip", "wall", "")
		p.bypassed("the path is back")
	}
	p.requireNewMAC()
	p.requireNewRoute()
	p.requireNewAddress()
}

// requireNewMAC gives the hosts' router another MAC, as a failover does: the bypass
// stays, and its frames go to the new one.
func (p *inquiry) requireNewMAC() {
	p.t.Helper()
	router, a, since := p.cfg.outside(), p.hosts[0], p.since()
	fresh := tap.MAC{2, 0x99, 0, 0, 7, 0xfe}
	_, err := p.in(p.t.Context(), router, "sysctl", "-qw", "net.ipv4.conf.net0.arp_notify=1")
	require.NoError(p.t, err)
	require.NoError(p.t, p.ip(p.t.Context(), router, "link set net0 address "+fresh.String()))
	gap := p.silenceUntil("frames of the bypass have the router's new MAC", func() bool {
		return p.seen.count(func(f []byte) bool {
			return tap.MAC(f[:6]) == fresh && tap.MAC(f[6:12]) == a.MAC && isFlow(f)
		}) > 20
	})
	require.LessOrEqual(p.t, gap, 3*time.Second)
	p.bypassed(fmt.Sprintf("the next hop has another MAC; silence of %v", gap))
	require.Equal(p.t, since, p.since(), "the flow was bypassed all the time")
}

// requireNewRoute leads host 1 by another router: the path is proven anew.
func (p *inquiry) requireNewRoute() {
	p.t.Helper()
	router, a, since, proven := p.cfg.outside(), p.hosts[0], p.since(), p.proofs(1)
	via := nth(p.cfg.site(1).Prefix, 253)
	require.NoError(p.t, p.ip(p.t.Context(), router, fmt.Sprintf("addr add %s/24 dev net0", via)))
	require.NoError(p.t, p.ip(p.t.Context(), a.Namespace, "route replace default via "+via.String()))
	gap := p.silenceUntil("the path is proven anew", func() bool { return p.proofs(1) > proven && p.since().After(since) })
	require.LessOrEqual(p.t, gap, 3*time.Second)
	p.bypassed(fmt.Sprintf("another route; silence of %v", gap))
}

// requireNewAddress moves host 2 to another address, on which neither link nor path
// survive.
func (p *inquiry) requireNewAddress() {
	p.t.Helper()
	b, since := p.hosts[1], p.since()
	old := b.Addr
	b.Addr = nth(p.cfg.site(2).Prefix, 22)
	require.NoError(p.t, p.ips(p.t.Context(), b.Namespace,
		fmt.Sprintf("addr del %s/24 dev %s", old, bridge),
		fmt.Sprintf("addr add %s/24 dev %s", b.Addr, bridge), "route replace default via "+p.cfg.site(2).gateway().String()))
	gap := p.silenceUntil("the path to the new address is proven", func() bool { return p.since().After(since) })
	p.bypassed(fmt.Sprintf("another address; silence of %v", gap))
	f, _ := p.flow(1, p.k.from())
	require.Equal(p.t, b.Addr, f.Remote.Addr())
}

// since is when the first node had the flow bypassed; zero = it has not.
func (p *inquiry) since() time.Time {
	if f, ok := p.flow(1, p.k.from()); ok && f.State == nodeapi.FlowBypassed {
		return f.Since
	}
	return time.Time{}
}

// isFlow: TCP between reserved ports that is no probe.
func isFlow(f []byte) bool {
	return len(f) >= 54 && be.Uint16(f[12:]) == 0x0800 && f[23] == 6 && f[22] != 255 &&
		bypass.DefaultPorts.Contains(be.Uint16(f[34:])) && bypass.DefaultPorts.Contains(be.Uint16(f[36:]))
}

// Two clouds with the same private range, joined by nothing but public addresses; then
// by a layer-2 tunnel, of which only the round trip tells.
func TestIntegrationProofSameRange(t *testing.T) {
	beside(t)
	private := netip.MustParsePrefix("10.99.0.0/24")
	s := newSystemAt(t, []Site{
		{Prefix: private, Outside: netip.MustParsePrefix("203.0.113.1/24")},
		{Prefix: private, Outside: netip.MustParsePrefix("198.51.100.1/24")},
	})
	stun := netip.MustParseAddrPort("203.0.113.254:3478")
	p := s.newInquiry(func(h *Host, c *nodecfg.Config) {
		c.STUN = []string{stun.String()}
		if h.Index != 1 {
			c.Signal.TCP = netip.MustParseAddrPort("203.0.113.1:7401")
		}
	})
	p.serveSTUN(s.cfg.outside(), stun)
	p.restart(nodecfg.Trust{})
	p.refused(bypass.ReasonNoRoute, "nobody here has the peer's address")
	leave := p.strangers()
	p.refused(bypass.ReasonProofStranger, "somebody else has the peer's address")
	leave()
	vpn := p.startTunnel(40 * time.Millisecond)
	p.restart(nodecfg.Trust{}) // the pauses between rounds are long by now
	p.refused(bypass.ReasonProofRTT, "a tunnel between the two")
	vpn.delay.Store(0)
	p.bypassed("a tunnel that is as fast as a cable, which no proof can tell")
	vpn.delay.Store(int64(40 * time.Millisecond))
	p.refused(bypass.ReasonProofRTT, "a path that becomes longer")
	p.requireSecret()
}

// strangers puts a machine with the other site's host's address in each of the two.
func (p *inquiry) strangers() (leave func()) {
	p.t.Helper()
	ctx := p.t.Context()
	for i, h := range p.hosts {
		ns, other := fmt.Sprintf("%sx%d", p.cfg.Prefix, h.Index), p.hosts[1-i]
		require.NoError(p.t, p.namespace(ctx, ns))
		require.NoError(p.t, p.noIPv6(ctx, ns))
		require.NoError(p.t, p.ips(ctx, h.Provider,
			fmt.Sprintf("link add stranger type veth peer name eth0 netns %s", ns),
			fmt.Sprintf("link set stranger master %s up", p.cfg.site(h.Index).bridge)))
		require.NoError(p.t, p.ips(ctx, ns, fmt.Sprintf("addr add %s/24 dev eth0", other.Addr), "link set eth0 up"))
		reaches(p.t, p.Lab, h.Namespace, other.Addr, 100, "the stranger")
	}
	return func() {
		for _, h := range p.hosts {
			require.NoError(p.t, p.ips(ctx, h.Provider, "link del stranger"))
			require.NoError(p.t, p.ips(ctx, h.Namespace, "neigh flush dev "+bridge))
		}
	}
}
