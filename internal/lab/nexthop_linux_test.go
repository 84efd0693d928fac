package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/tap"
)

// healLimit bounds how long guests may notice that a next hop failed over.
const healLimit = 2 * time.Second

// groupMods is how many groups the switch of a host was told to change since the call.
func (p *inquiry) groupMods(host int) func() int {
	p.t.Helper()
	o := p.OVS(host)
	level := func(level string) {
		_, err := o.Appctl(p.t.Context(), "vlog/set", "vconn:file:"+level)
		require.NoError(p.t, err)
	}
	path := filepath.Join(o.Dir(), "ovs-vswitchd.log")
	before := size(p.t, path)
	level("dbg") // each OpenFlow message is a line
	return func() int {
		p.t.Helper()
		level("info")
		text, err := os.ReadFile(path)
		require.NoError(p.t, err)
		lines := string(text[before:])
		require.Contains(p.t, lines, "OFPT_PACKET_OUT", "the log has all messages")
		return strings.Count(lines, "OFPT_GROUP_MOD")
	}
}

// settled waits until host 1's kernel would believe an ARP reply: not within a second of
// a change of its entry (net.ipv4.neigh.*.locktime).
func (p *inquiry) settled(hop netip.Addr) {
	p.t.Helper()
	p.await(10*time.Second, "the next hop's entry is older than the lock time", func() bool {
		text, err := p.in(p.t.Context(), p.hosts[0].Namespace, "ip", "-s", "neigh", "show", hop.String(), "dev", bridge)
		require.NoError(p.t, err)
		_, text, _ = strings.Cut(text, "used ")
		var used, confirmed, updated int
		_, err = fmt.Sscanf(text, "%d/%d/%d", &used, &confirmed, &updated)
		return err == nil && updated > 1
	})
}

// failsOver does what happens to the next hop of host 1, which has that MAC then: the
// guests' connection goes on there, bypassed all the time, at the price of one change.
func (p *inquiry) failsOver(what string, hop netip.Addr, now tap.MAC, happens func()) {
	p.t.Helper()
	p.settled(hop)
	since, h1, h2 := p.since(), p.groupMods(1), p.groupMods(2)
	from := p.seen.count(everything)
	start := time.Now()
	happens()
	led := func(f []byte) bool { return tap.MAC(f[:6]) == now && tap.MAC(f[6:12]) == p.hosts[0].MAC && isFlow(f) }
	var healed time.Duration
	gap := p.silenceUntil("frames of the bypass have the new MAC", func() bool {
		n := p.seen.countFrom(from, led)
		if n > 0 && healed == 0 {
			healed = time.Since(start)
		}
		return n > 20
	})
	p.bypassed(fmt.Sprintf("%s: frames led anew after %v, silence of %v", what, healed, gap))
	require.LessOrEqual(p.t, gap, healLimit, "the guests' connection stood still")
	require.Equal(p.t, since, p.since(), "the flow was bypassed all the time")
	require.Equal(p.t, 1, h1(), "changes of groups at host 1")
	require.Zero(p.t, h2(), "changes of groups at host 2")
}

func everything([]byte) bool { return true }

// countFrom counts frames from the n-th on.
func (c *capture) countFrom(n int, f func([]byte) bool) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := 0
	for _, frame := range c.frames[min(n, len(c.frames)):] {
		if f(frame) {
			count++
		}
	}
	return count
}

// A router whose MAC changes, and one that another takes over from: first without a
// word, then by gratuitous ARP.
func TestIntegrationNextHopRouter(t *testing.T) {
	beside(t)
	sites, trust := routedSites()
	s := newSystemAt(t, sites)
	p := s.newInquiry(nil)
	p.restart(trust)
	p.bypassed("at first")
	router, ctx := p.cfg.outside(), t.Context()

	// Linux asks for neighbours anew when its own MAC changes, which would tell them.
	p.nft(router, "arp", "quiet", "chain out { type filter hook output priority 0; arp operation request drop; }")
	silent := tap.MAC{2, 0x99, 0, 0, 7, 1}
	p.failsOver("a silent failover", p.cfg.site(1).gateway(), silent, func() {
		require.NoError(t, p.ip(ctx, router, "link set net0 address "+silent.String()))
	})
	p.nft(router, "arp", "quiet", "")

	second, loud := p.cfg.Prefix+"r2", tap.MAC{2, 0x99, 0, 0, 7, 2}
	require.NoError(t, p.router(ctx, second))
	for i := range sites {
		require.NoError(t, p.ips(ctx, router,
			fmt.Sprintf("link add two%d type veth peer name eth%d netns %s", i, i, second),
			fmt.Sprintf("link set two%d master net%d up", i, i)))
	}
	a, b := p.cfg.site(1), p.cfg.site(2)
	require.NoError(t, p.ips(ctx, second, "link set eth0 up", "link set eth1 up", fmt.Sprintf("addr add %s/24 dev eth1", nth(b.Prefix, 253))))
	_, err := p.in(ctx, second, "sysctl", "-qw", "net.ipv4.conf.eth0.arp_notify=1")
	require.NoError(t, err)
	p.failsOver("another router takes over, and says so", a.gateway(), loud, func() {
		require.NoError(t, p.ips(ctx, router, fmt.Sprintf("addr del %s/24 dev net0", a.gateway()), fmt.Sprintf("addr add %s/24 dev net0", nth(a.Prefix, 252))))
		require.NoError(t, p.ips(ctx, second, fmt.Sprintf("addr add %s/24 dev eth0", a.gateway()), "link set eth0 address "+loud.String()))
	})
	p.requireSecret()
}

// A peer on the link has another MAC all of a sudden, and does not know it.
func TestIntegrationNextHopPeer(t *testing.T) {
	beside(t)
	s := newSystem(t)
	p := s.newInquiry(nil)
	p.restart(nodecfg.Trust{})
	p.bypassed("at first")
	old, now := p.hosts[1].MAC, tap.MAC{2, 0x99, 0, 0, 7, 3}
	p.failsOver("a peer's silent failover", p.hosts[1].Addr, now, func() {
		p.nft(p.cfg.outside(), "netdev", "card", strings.NewReplacer("OLD", old.String(), "NOW", now.String()).Replace(
			`chain in { type filter hook ingress device h2 priority 0; policy accept;
				ether saddr OLD ether saddr set NOW;
				arp saddr ether OLD arp saddr ether set NOW; }
			chain out { type filter hook egress device h2 priority 0; policy accept;
				ether daddr OLD drop;
				ether daddr NOW ether daddr set OLD; }`))
	})
	p.requireSecret()
}
