package underlay

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/tap"
)

// TestMain lets the test binary play the process that is killed.
func TestMain(m *testing.M) {
	if os.Getenv("VIAS_TEST_GUARD_HELPER") == "1" {
		guardHelper()
	}
	os.Exit(m.Run())
}

// guardHelper puts up a guard, says so, and waits to be killed.
func guardHelper() {
	u, err := Open(Config{Uplink: "eth0"})
	if err == nil {
		err = u.Guard(context.Background(), bypass.DefaultPorts, []netip.Addr{peerAddr})
	}
	fmt.Println("guard:", err)
	select {}
}

var (
	ourAddr   = netip.MustParseAddr("10.98.0.1")
	peerAddr  = netip.MustParseAddr("10.98.0.2")
	otherAddr = netip.MustParseAddr("10.98.0.3") // also the peer's, but not listed
	ourMAC    = tap.MAC{2, 0x98, 0, 0, 0, 1}
	peerMAC   = tap.MAC{2, 0x98, 0, 0, 0, 2}
)

// withPeer runs f in a namespace whose eth0 leads to another one, named peer.
func withPeer(t *testing.T, f func(peer string)) {
	itest.Require(t, "ip", "nft", "sysctl")
	peer := fmt.Sprintf("viastest-%d-%s", os.Getpid(), strings.ToLower(t.Name()[len(t.Name())-6:]))
	itest.Namespace(t, func() {
		ip := func(line string) { itest.Exec(t, "ip", strings.Fields(line)...) }
		ip("netns add " + peer)
		t.Cleanup(func() { itest.Exec(t, "ip", "netns", "del", peer) })
		// Neighbour discovery waits for our own link-local address otherwise.
		itest.Exec(t, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
		itest.Exec(t, "ip", "netns", "exec", peer, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
		ip("link add eth0 address " + ourMAC.String() + " type veth peer name p0 netns " + peer)
		ip("addr add 10.98.0.1/24 dev eth0")
		ip("-6 addr add fd98::1/64 dev eth0 nodad")
		ip("link set eth0 mtu 1400 up")
		ip("-n " + peer + " link set p0 address " + peerMAC.String() + " up")
		ip("-n " + peer + " addr add 10.98.0.2/24 dev p0")
		ip("-n " + peer + " addr add 10.98.0.3/24 dev p0")
		ip("-n " + peer + " -6 addr add fd98::2/64 dev p0 nodad")
		awaitUp(t, "eth0")
		in(t, peer, func() { awaitUp(t, "p0") })
		f(peer)
	})
}

// awaitUp waits until the kernel sends by an interface: on a busy machine it notices a carrier late, and
// what it should have sent before is lost.
func awaitUp(t *testing.T, name string) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(20 * time.Second); ; {
		link, err := netlink.LinkByName(name)
		require.NoError(t, err)
		if link.Attrs().OperState == netlink.OperUp {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			require.FailNow(t, "no carrier", name)
		}
	}
}

// in runs f in the named namespace, on this very thread.
func in(t *testing.T, name string, f func()) {
	here, err := netns.Get()
	require.NoError(t, err)
	defer here.Close()
	there, err := netns.GetFromName(name)
	require.NoError(t, err)
	defer there.Close()
	require.NoError(t, netns.Set(there))
	defer func() { require.NoError(t, netns.Set(here)) }()
	f()
}

// until polls on this thread (require.Eventually would leave the namespace).
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); <-time.After(10 * time.Millisecond) {
		require.True(t, time.Now().Before(end), what)
	}
}

func open(t *testing.T) *Underlay {
	u, err := Open(Config{Uplink: "eth0", ResolveTimeout: 2 * time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, u.Close()) })
	return u
}

func TestIntegrationRoute(t *testing.T) {
	withPeer(t, func(string) {
		ctx := t.Context()
		u := open(t)
		addrs, err := u.Addrs(ctx)
		require.NoError(t, err)
		require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.98.0.1/24"), netip.MustParsePrefix("fd98::1/64")}, addrs)

		want := bypass.Route{Local: ourAddr, Src: ourMAC, Via: peerAddr, NextHop: peerMAC, OnLink: true, MTU: 1400}
		r, err := u.Route(ctx, peerAddr)
		require.NoError(t, err)
		require.Equal(t, want, r, "resolved by ARP")

		itest.Exec(t, "ip", "route", "add", "198.51.100.0/24", "via", peerAddr.String(), "mtu", "1300")
		want.OnLink, want.MTU = false, 1300
		r, err = u.Route(ctx, netip.MustParseAddr("198.51.100.7"))
		require.NoError(t, err)
		require.Equal(t, want, r, "behind a gateway")

		r, err = u.Route(ctx, netip.MustParseAddr("fd98::2"))
		require.NoError(t, err)
		require.Equal(t, peerMAC, r.NextHop)
		require.Equal(t, netip.MustParseAddr("fd98::1"), r.Local)
	})
}

func TestIntegrationRouteErrors(t *testing.T) {
	withPeer(t, func(string) {
		itest.Exec(t, "ip", "route", "add", "203.0.113.0/24", "dev", "lo")
		itest.Exec(t, "ip", "route", "add", "blackhole", "192.0.2.0/24")
		u := open(t)
		u.cfg.ResolveTimeout = 50 * time.Millisecond
		for addr, what := range map[string]string{
			"10.98.0.1":    "address of this host",
			"203.0.113.9":  "does not use eth0",
			"192.0.2.1":    "route to 192.0.2.1",
			"198.51.100.1": "unreachable",
			"224.0.0.1":    "route to 224.0.0.1",
			"10.98.0.77":   "no answer",
		} {
			_, err := u.Route(t.Context(), netip.MustParseAddr(addr))
			require.ErrorContains(t, err, what, addr)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := u.Route(ctx, netip.MustParseAddr("10.98.0.78"))
		require.ErrorIs(t, err, context.Canceled)
		gone, err := Open(Config{Uplink: "eth7"})
		require.NoError(t, err, "the device may come later")
		defer gone.Close()
		_, err = gone.Addrs(t.Context())
		require.ErrorContains(t, err, "eth7")
	})
}

func TestIntegrationWatchNextHop(t *testing.T) {
	withPeer(t, func(peer string) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		itest.Exec(t, "sysctl", "-qw", "net.ipv4.neigh.eth0.locktime=0")
		u := open(t)
		_, err := u.Route(ctx, peerAddr)
		require.NoError(t, err)
		news := make(chan struct{}, 100)
		ended := make(chan error, 1)
		go func() { ended <- u.Watch(ctx, func() { news <- struct{}{} }) }()
		<-news // subscribed

		moved := tap.MAC{2, 0x98, 0, 0, 0, 0x22}
		itest.Exec(t, "ip", "netns", "exec", peer, "sysctl", "-qw", "net.ipv4.conf.p0.arp_notify=1")
		itest.Exec(t, "ip", "-n", peer, "link", "set", "p0", "address", moved.String())
		for deadline := time.After(5 * time.Second); ; {
			select {
			case <-news:
			case <-deadline:
				require.Fail(t, "the new next hop was not noticed")
			}
			r, err := u.Route(ctx, peerAddr)
			require.NoError(t, err)
			if r.NextHop == moved {
				break
			}
		}
		cancel()
		require.NoError(t, <-ended)
	})
}

// answers tells whether somebody answers SYNs at addr (with SYN or RST).
func answers(t *testing.T, peer string, from netip.Addr, to string) (ok bool) {
	in(t, peer, func() {
		d := net.Dialer{Timeout: 300 * time.Millisecond, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
		c, err := d.Dial("tcp", to)
		if err == nil {
			_ = c.Close()
		}
		ok = err == nil || strings.Contains(err.Error(), "refused")
	})
	return ok
}

func tables(t *testing.T) string { return itest.Exec(t, "nft", "list", "tables") }

func TestIntegrationGuard(t *testing.T) {
	itest.RequireNFT(t)
	withPeer(t, func(peer string) {
		u, ctx := open(t), t.Context()
		const reserved, free = "10.98.0.1:61500", "10.98.0.1:5000"
		const closed = "10.98.0.1:61501"
		require.True(t, answers(t, peer, peerAddr, reserved), "without a guard the host answers RST")
		ln, err := net.Listen("tcp", reserved)
		require.NoError(t, err)
		defer ln.Close()
		require.NoError(t, u.Guard(ctx, bypass.PortRange{}, nil), "nothing to remove")
		require.NoError(t, u.Guard(ctx, bypass.PortRange{}, []netip.Addr{peerAddr, netip.MustParseAddr("fd98::2")}))
		require.False(t, answers(t, peer, peerAddr, reserved), "guarded")
		require.False(t, answers(t, peer, netip.MustParseAddr("fd98::2"), "[fd98::1]:65535"), "guarded, IPv6")
		require.True(t, answers(t, peer, peerAddr, free), "another port")
		require.True(t, answers(t, peer, otherAddr, reserved), "another peer")
		require.False(t, answers(t, peer, otherAddr, closed), "no reset, to another peer neither")
		require.NotContains(t, itest.Exec(t, "nft", "list", "ruleset"), "counter packets 0", "all rules counted")

		require.NoError(t, u.Guard(ctx, bypass.PortRange{}, []netip.Addr{otherAddr}))
		require.True(t, answers(t, peer, peerAddr, reserved), "no longer listed")
		require.False(t, answers(t, peer, otherAddr, reserved), "now listed")
		require.NoError(t, u.Guard(ctx, bypass.PortRange{Base: 0x1000, Mask: 0xf000}, []netip.Addr{otherAddr}))
		require.True(t, answers(t, peer, otherAddr, closed), "another range")
		require.False(t, answers(t, peer, otherAddr, free), "another range")

		require.NoError(t, u.Guard(ctx, bypass.PortRange{}, nil))
		require.Empty(t, tables(t), "an empty list leaves no trace")
		require.NoError(t, u.Guard(ctx, bypass.PortRange{}, []netip.Addr{peerAddr}))
		require.Contains(t, tables(t), fmt.Sprintf("vias_guard_%d", os.Getpid()))
		require.NoError(t, u.Close())
		require.Empty(t, tables(t), "closed")
		require.ErrorIs(t, u.Guard(ctx, bypass.PortRange{}, []netip.Addr{peerAddr}), os.ErrClosed)
	})
}

func TestIntegrationGuardManyPeers(t *testing.T) {
	itest.RequireNFT(t)
	withPeer(t, func(string) {
		u := open(t)
		var peers []netip.Addr
		for a := netip.MustParseAddr("172.16.0.0"); len(peers) < 5000; a = a.Next() {
			peers = append(peers, a)
		}
		require.NoError(t, u.Guard(t.Context(), bypass.DefaultPorts, peers))
		require.NoError(t, u.Guard(t.Context(), bypass.DefaultPorts, peers[1:]))
		list := itest.Exec(t, "nft", "list", "ruleset")
		require.NotContains(t, list, "172.16.0.0,")
		require.Contains(t, list, peers[4999].String())
	})
}

func TestIntegrationGuardRefused(t *testing.T) {
	itest.RequireNFT(t)
	withPeer(t, func(string) {
		u := open(t)
		s, err := startNFT(u)
		require.NoError(t, err)
		require.ErrorIs(t, s.run(t.Context(), "add rule inet nowhere x drop"), errRefused)
		require.NoError(t, s.run(t.Context(), "add table inet somewhere { flags owner; }"), "it goes on after a refusal")
		require.Contains(t, tables(t), "somewhere")
		require.NoError(t, s.close())
		require.Empty(t, tables(t))
		require.Error(t, s.run(t.Context(), "list tables"), "it is closed")
	})
}

func TestIntegrationGuardRevived(t *testing.T) {
	itest.RequireNFT(t)
	withPeer(t, func(string) {
		u := open(t)
		require.NoError(t, u.Guard(t.Context(), bypass.DefaultPorts, []netip.Addr{peerAddr}))
		u.guardMu.Lock()
		old := u.guard.shell
		u.guardMu.Unlock()
		require.NoError(t, old.cmd.Process.Kill())
		until(t, "a new child", func() bool {
			u.guardMu.Lock()
			defer u.guardMu.Unlock()
			return u.guard.shell != old
		})
		require.Contains(t, itest.Exec(t, "nft", "list", "ruleset"), peerAddr.String())
	})
}

func TestIntegrationGuardDiesWithProcess(t *testing.T) {
	itest.RequireNFT(t)
	withPeer(t, func(string) {
		self, err := os.Executable()
		require.NoError(t, err)
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), "VIAS_TEST_GUARD_HELPER=1")
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		line := make([]byte, 100)
		n, err := out.Read(line)
		require.NoError(t, err)
		require.Equal(t, "guard: <nil>\n", string(line[:n]))
		require.Contains(t, tables(t), fmt.Sprintf("vias_guard_%d", cmd.Process.Pid))
		require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
		_ = cmd.Wait()
		until(t, "the table goes with the process", func() bool { return tables(t) == "" })
	})
}

func TestIntegrationPreflight(t *testing.T) {
	itest.RequireNFT(t)
	withPeer(t, func(string) {
		ip := func(line string) { itest.Exec(t, "ip", strings.Fields(line)...) }
		cfg := CheckConfig{Config: Config{Uplink: "eth0", Device: "br0"}, UserspaceDatapath: true}
		ip("link add br0 address " + ourMAC.String() + " type bridge") // stands for the switch
		ip("addr add 10.97.0.1/24 dev br0")
		bad := func() (out []string) {
			for _, f := range Preflight(t.Context(), cfg) {
				require.Equal(t, f.OK, f.Remedy == "", "%+v: a remedy exactly when needed", f)
				if !f.OK {
					out = append(out, f.What)
				}
			}
			return out
		}
		require.Equal(t, []string{"the kernel does not answer on eth0 beside the switch"}, bad(), "equal MACs")
		itest.Exec(t, "nft", "table netdev uplink { chain in { type filter hook ingress device eth0 priority -500; policy drop; }; }")
		require.Empty(t, bad())

		itest.Exec(t, "sysctl", "-qw", "net.ipv4.ip_local_port_range=32768 65535")
		ln, err := net.Listen("tcp4", "10.97.0.1:61999")
		require.NoError(t, err)
		defer ln.Close()
		lo, err := net.Listen("tcp4", "127.0.0.1:62000") // out of the uplink's reach
		require.NoError(t, err)
		defer lo.Close()
		require.Equal(t, []string{"reserved ports 61440-65535 are not ephemeral ports", "no socket of this host uses a reserved port"}, bad())
		itest.Exec(t, "sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=61440-65535")
		require.NoError(t, ln.Close())
		require.Empty(t, bad())
		require.NotContains(t, tables(t), "vias_guard", "the trial guard is gone")

		nat := func(rule string) {
			itest.Exec(t, "nft", "add table ip host_nat; delete table ip host_nat; table ip host_nat { chain out { type nat hook postrouting priority 100; "+rule+"; }; }")
		}
		nat("oifname br0 masquerade")
		require.Equal(t, []string{"no address translation of this host uses a reserved port"}, bad())
		nat("oifname br0 ip protocol tcp masquerade to :1024-61439")
		require.Empty(t, bad())

		itest.Exec(t, "nft", "delete table netdev uplink")
		ip("link set br0 address 02:00:00:00:00:77")
		require.Empty(t, bad(), "different MACs")
		cfg.Device = "br7"
		require.Len(t, bad(), 3)
	})
}
