package underlay

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/tap"
)

var (
	our6  = netip.MustParseAddr("fd98::1")
	peer6 = netip.MustParseAddr("fd98::2")
)

// sysctl sets values in the calling thread's namespace.
func sysctl(t *testing.T, values ...string) {
	t.Helper()
	itest.Exec(t, "sysctl", append([]string{"-qw"}, values...)...)
}

// inPeer runs a program in the peer's namespace.
func inPeer(t *testing.T, peer, line string) {
	t.Helper()
	itest.Exec(t, "ip", append([]string{"netns", "exec", peer}, strings.Fields(line)...)...)
}

func TestIntegrationAddrsIPv6(t *testing.T) {
	withPeer(t, func(string) {
		u := open(t)
		ip := func(line string) { itest.Exec(t, "ip", strings.Fields("-6 addr "+line)...) }
		state := func(addr, state string) func() bool {
			return func() bool { return strings.Contains(itest.Exec(t, "ip", "-6", "addr", "show", "to", addr), state) }
		}
		list := func() (out []string) {
			addrs, err := u.addrs(mustLink(t, u), netlink.FAMILY_V6)
			require.NoError(t, err)
			for _, p := range addrs {
				out = append(out, p.String())
			}
			return out
		}
		require.Equal(t, []string{"fd98::1/64"}, list())
		ip("add fd98::77/64 dev eth0 nodad preferred_lft 0")
		require.Equal(t, []string{"fd98::1/64"}, list(), "a deprecated one")

		sysctl(t, "net.ipv6.conf.eth0.use_tempaddr=2")
		ip("add fd98:0:0:1::1/64 dev eth0 nodad mngtmpaddr valid_lft 3600 preferred_lft 3600")
		until(t, "a temporary one", state("fd98:0:0:1::/64", "temporary"))
		require.ElementsMatch(t, []string{"fd98:0:0:1::1/64", "fd98::1/64"}, list(), "without the temporary one")

		sysctl(t, "net.ipv6.conf.eth0.accept_dad=1", "net.ipv6.conf.eth0.dad_transmits=1")
		ip("add fd98::2/64 dev eth0")
		require.NotContains(t, list(), "fd98::2/64", "tentative")
		until(t, "the peer has it", state("fd98::2", "dadfailed"))
		require.NotContains(t, list(), "fd98::2/64", "duplicate")
	})
}

func mustLink(t *testing.T, u *Underlay) netlink.Link {
	l, err := u.handle.LinkByName("eth0")
	require.NoError(t, err)
	return l
}

func TestIntegrationRouteIPv6(t *testing.T) {
	withPeer(t, func(peer string) {
		u := open(t)
		route := func(to string) bypass.Route {
			t.Helper()
			r, err := u.Route(t.Context(), netip.MustParseAddr(to))
			require.NoError(t, err)
			return r
		}
		want := bypass.Route{Local: our6, Src: ourMAC, Via: peer6, NextHop: peerMAC, OnLink: true, MTU: 1400}
		require.Equal(t, want, route("fd98::2"), "resolved by neighbour discovery")

		itest.Exec(t, "ip", "-n", peer, "-6", "addr", "add", "fe80::98/64", "dev", "p0", "nodad")
		itest.Exec(t, "ip", "-6", "route", "add", "2001:db8::/32", "via", "fe80::98", "dev", "eth0", "mtu", "1300")
		far := want
		far.Via, far.OnLink, far.MTU = netip.MustParseAddr("fe80::98"), false, 1300
		require.Equal(t, far, route("2001:db8::7"), "a router has a link-local address")

		sysctl(t, "net.ipv6.conf.eth0.mtu=1350")
		want.MTU = 1350
		require.Equal(t, want, route("fd98::2"), "the link's MTU for IPv6")
		sysctl(t, "net.ipv6.conf.eth0.mtu=1400")
		want.MTU = 1400

		// The kernel prefers temporary addresses, which are not for being found.
		sysctl(t, "net.ipv6.conf.eth0.use_tempaddr=2")
		itest.Exec(t, "ip", strings.Fields("-6 addr add fd98::9/64 dev eth0 nodad mngtmpaddr valid_lft 3600 preferred_lft 3600")...)
		until(t, "the kernel's choice is temporary", func() bool {
			text := itest.Exec(t, "ip", "-6", "route", "get", "fd98::2")
			return !strings.Contains(text, "src fd98::1 ") && !strings.Contains(text, "src fd98::9 ")
		})
		addrs, err := u.addrs(mustLink(t, u), netlink.FAMILY_V6)
		require.NoError(t, err)
		want.Local = addrs[0].Addr()
		require.Equal(t, want, route("fd98::2"))

		for addr, what := range map[string]string{"fe80::98": "another station on each link", "fd98::1": "address of this host", "ff02::1": "not a unicast"} {
			_, err := u.Route(t.Context(), netip.MustParseAddr(addr))
			require.ErrorContains(t, err, what, addr)
		}
	})
}

// What a router tells of a narrower path is in the next Route.
func TestIntegrationPathMTU(t *testing.T) {
	withPeer(t, func(peer string) {
		u := open(t)
		for _, line := range []string{
			"sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
			"ip link add narrow mtu 1280 type bridge", "ip link set narrow up",
			"ip route add 198.51.100.0/24 dev narrow", "ip -6 route add 2001:db8::/32 dev narrow",
		} {
			inPeer(t, peer, line)
		}
		itest.Exec(t, "ip", "route", "add", "198.51.100.0/24", "via", peerAddr.String())
		itest.Exec(t, "ip", "-6", "route", "add", "2001:db8::/32", "via", peer6.String())
		for _, to := range []string{"198.51.100.7", "2001:db8::7"} {
			addr := netip.MustParseAddr(to)
			r, err := u.Route(t.Context(), addr)
			require.NoError(t, err)
			require.Equal(t, 1400, r.MTU)
			c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 9)))
			require.NoError(t, err)
			defer c.Close()
			until(t, "the kernel has heard of it: "+to, func() bool {
				_, _ = c.Write(make([]byte, 1320)) // fails once the kernel knows
				r, err = u.Route(t.Context(), addr)
				return err == nil && r.MTU == 1280
			})
			other, err := u.Route(t.Context(), addr.Next())
			require.NoError(t, err)
			require.Equal(t, 1400, other.MTU, "of that destination only")
		}
	})
}

// The host's stack is elsewhere than the uplink: others must not learn the uplink's MAC.
func TestIntegrationRouteHostMAC(t *testing.T) {
	withPeer(t, func(string) {
		itest.Exec(t, "ip", "link", "add", "card", "address", "02:98:00:00:00:aa", "type", "bridge")
		u, err := Open(Config{Device: "eth0", Uplink: "card"})
		require.NoError(t, err)
		defer u.Close()
		r, err := u.Route(t.Context(), peer6)
		for range 5 { // a busy machine may answer after the second that Route waits
			if err == nil {
				break
			}
			r, err = u.Route(t.Context(), peer6)
		}
		require.NoError(t, err)
		require.Equal(t, tap.MAC{2, 0x98, 0, 0, 0, 0xaa}, r.Src)
		require.Equal(t, ourMAC, r.HostMAC)
	})
}

// A next hop changes its MAC without a word. The kernel takes the answer to a question
// that it has not asked itself, and Watch and Route tell.
func TestIntegrationSolicit(t *testing.T) {
	itest.RequireNFT(t)
	withPeer(t, func(peer string) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		// It asks for its neighbours when its MAC changes, which would tell them.
		inPeer(t, peer, "nft table inet quiet { chain out { type filter hook output priority 0; icmpv6 type nd-neighbor-solicit drop; }; }")
		sysctl(t, "net.ipv4.neigh.eth0.locktime=0")
		u := open(t)
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		require.NoError(t, err)
		defer unix.Close(fd)
		news := make(chan struct{}, 1)
		ended := make(chan error, 1)
		go func() {
			ended <- u.Watch(ctx, func() {
				select {
				case news <- struct{}{}:
				default:
				}
			})
		}()
		to := &unix.SockaddrLinklayer{Ifindex: mustLink(t, u).Attrs().Index}
		for i, hop := range []netip.Addr{peerAddr, peer6} {
			old, err := u.Route(ctx, hop)
			require.NoError(t, err)
			for _, anywhere := range []bool{false, true} {
				require.NoError(t, unix.Sendto(fd, old.Solicit(anywhere), 0, to))
			}
			moved := tap.MAC{2, 0x98, 0, 0, 1, byte(i)}
			itest.Exec(t, "ip", "-n", peer, "link", "set", "p0", "address", moved.String())
			r, err := u.Route(ctx, hop)
			require.NoError(t, err)
			require.Equal(t, old, r, "nobody has said anything")
			for deadline := time.After(5 * time.Second); r.NextHop != moved; {
				require.NoError(t, unix.Sendto(fd, r.Solicit(true), 0, to))
				select {
				case <-news:
				case <-deadline:
					require.FailNow(t, "the kernel has not learned the new MAC of "+hop.String())
				}
				r, err = u.Route(ctx, hop)
				require.NoError(t, err)
			}
		}
		cancel()
		require.NoError(t, <-ended)
	})
}

// Addresses, routes and neighbours of both families are news.
func TestIntegrationWatchIPv6(t *testing.T) {
	withPeer(t, func(peer string) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		u := open(t)
		_, err := u.Route(ctx, peer6)
		require.NoError(t, err)
		news := make(chan struct{}, 1000)
		ended := make(chan error, 1)
		go func() { ended <- u.Watch(ctx, func() { news <- struct{}{} }) }()
		<-news // subscribed
		inPeer(t, peer, "sysctl -qw net.ipv6.conf.p0.ndisc_notify=1")
		moved := tap.MAC{2, 0x98, 0, 0, 0, 0x33}
		for _, c := range []struct {
			what, line string
			seen       func() bool
		}{
			{"an address", "ip -6 addr add fd98:1::1/64 dev eth0 nodad", func() bool {
				addrs, err := u.Addrs(ctx)
				return err == nil && len(addrs) == 3
			}},
			{"a route", "ip -6 route add 2001:db8::/32 via fd98::2", func() bool {
				r, err := u.Route(ctx, netip.MustParseAddr("2001:db8::1"))
				return err == nil && r.Via == peer6
			}},
			{"a neighbour", "ip -n " + peer + " link set p0 address " + moved.String(), func() bool {
				r, err := u.Route(ctx, peer6)
				return err == nil && r.NextHop == moved
			}},
		} {
			for len(news) > 0 {
				<-news
			}
			words := strings.Fields(c.line)
			itest.Exec(t, words[0], words[1:]...)
			for deadline := time.After(5 * time.Second); ; {
				select {
				case <-news:
				case <-deadline:
					require.FailNow(t, "not noticed: "+c.what)
				}
				if c.seen() {
					break
				}
			}
		}
		cancel()
		require.NoError(t, <-ended)
	})
}

func TestIntegrationGuardChanges(t *testing.T) {
	itest.RequireNFT(t)
	withPeer(t, func(peer string) {
		u, ctx := open(t), t.Context()
		guard := func(peers ...netip.Addr) { require.NoError(t, u.Guard(ctx, bypass.DefaultPorts, peers)) }
		inPeer(t, peer, "ip -6 addr add fd98::3/64 dev p0 nodad")
		other6 := netip.MustParseAddr("fd98::3")
		guard(peerAddr, peer6)
		require.False(t, answers(t, peer, peer6, "[fd98::1]:61500"))
		require.True(t, answers(t, peer, peer6, "[fd98::1]:5000"), "another port")
		require.False(t, answers(t, peer, other6, "[fd98::1]:61501"), "no reset, to another peer neither")
		guard(peerAddr, other6, other6)
		rules := itest.Exec(t, "nft", "list", "ruleset")
		require.NotContains(t, rules, "fd98::2")
		require.Contains(t, rules, "fd98::3")
		require.Contains(t, rules, peerAddr.String())
		require.Equal(t, 1, strings.Count(rules, "counter packets 0"), "the rules go on counting; IPv4 met none")
		guard(other6)
		require.NotContains(t, itest.Exec(t, "nft", "list", "ruleset"), peerAddr.String())
	})
}

func TestChanges(t *testing.T) {
	a, b, c := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::1")
	list := func(a ...netip.Addr) []netip.Addr { return a }
	require.Empty(t, changes("t", list(a, c), list(c, a, a)))
	require.Equal(t, "; add element inet t peers4 { 10.0.0.1, 10.0.0.2 }; add element inet t peers6 { fd00::1 }", changes("t", nil, list(c, b, a)))
	require.Equal(t, "; delete element inet t peers6 { fd00::1 }; add element inet t peers4 { 10.0.0.2 }", changes("t", list(a, c), list(a, b)))
	require.Equal(t, "; delete element inet t peers4 { 10.0.0.1 }", changes("t", list(a), nil))
}

// IPv6 is a remark, whatever there is of it; a translation to reserved ports is no remark.
func TestIntegrationPreflightIPv6(t *testing.T) {
	itest.RequireNFT(t)
	withPeer(t, func(string) {
		cfg := CheckConfig{Config: Config{Uplink: "eth0"}}
		finding := func(what string) Finding {
			for _, f := range Preflight(t.Context(), cfg) {
				if strings.HasPrefix(f.What, what) {
					return f
				}
			}
			require.FailNow(t, "no such finding: "+what)
			return Finding{}
		}
		says := func(what string) {
			t.Helper()
			f := finding("IPv6")
			require.True(t, f.OK)
			require.Empty(t, f.Remedy)
			require.Contains(t, f.Detail, what)
		}
		says("[fd98::1]")
		cfg.Trust = []netip.Prefix{netip.MustParsePrefix("2001:db8::/32")}
		says("[fd98::1] is in no trusted prefix")
		cfg.Trust = []netip.Prefix{netip.MustParsePrefix("fd98::/64")}
		sysctl(t, "net.ipv6.conf.eth0.forwarding=1", "net.ipv6.conf.eth0.accept_ra=1")
		says("accept_ra=2")
		sysctl(t, "net.ipv6.conf.eth0.accept_ra=2")
		require.NotContains(t, finding("IPv6").Detail, "accept_ra")
		itest.Exec(t, "ip", "-6", "addr", "del", "fd98::1/64", "dev", "eth0")
		says("IPv4 only: IPv6 flows stay on the overlay")

		const nat = "no address translation"
		require.True(t, finding(nat).OK)
		itest.Exec(t, "nft", "table ip6 host_nat { chain out { type nat hook postrouting priority 100; oifname eth0 masquerade; }; }")
		require.Contains(t, finding(nat).Detail, "masquerade")
	})
}
