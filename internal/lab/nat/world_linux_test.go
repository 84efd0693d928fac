package nat

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/itest"
)

// The Internet of the tests: one segment, to which all routers are connected. Servers have two
// addresses of each family, as RFC 5780 needs.
var (
	servers4 = [2]netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")}
	servers6 = [2]netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")}
)

// world is namespaces: the Internet, routers, nodes.
type world struct {
	t     *testing.T
	tag   string
	nodes int
	*servers
}

// place is where a node is.
type place struct {
	ns      string   // the node's
	number  int      // in its addresses
	routers []string // from the node to the Internet
	*remote          // the node's program; nil until start
}

func newWorld(t *testing.T, programs ...string) *world {
	t.Helper()
	itest.Require(t, append([]string{"ip", "nft"}, programs...)...)
	itest.RequireNFT(t)
	tag := strings.ToLower(t.Name()[len("TestIntegration"):])
	w := &world{t: t, tag: "vn" + fmt.Sprint(pid) + tag[:min(4, len(tag))]}
	w.namespace("net")
	// Without an address of its own it takes its lowest port's, and who knew another is in the
	// dark until ARP asks anew.
	w.ip("net", "link add br0 address 02:00:00:00:00:01 type bridge", "link set br0 up")
	for i := range servers4 {
		w.ip("net", fmt.Sprintf("addr add %s/24 dev br0", servers4[i]), fmt.Sprintf("addr add %s/64 dev br0 nodad", servers6[i]))
	}
	w.forward("net")
	// What is sent to private addresses is lost, without an error to the sender: coturn ends an
	// allocation at one.
	w.namespace("void")
	w.veth("net", "void", "void", "eth0")
	w.ip("net", "link set void arp off", "route add default dev void")
	w.servers = startServers(w)
	return w
}

// namespace makes one, for as long as the test runs.
func (w *world) namespace(name string) {
	w.t.Helper()
	w.run("", "ip", "netns", "add", w.tag+name)
	w.t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", w.tag+name).Run() })
	// While a link-local address is being tried (RFC 4862, section 5.4) nobody is solicited from it.
	w.run("", "ip", "netns", "exec", w.tag+name, "sh", "-c", "cd /proc/sys/net/ipv6/conf && echo 0 >all/accept_dad && echo 0 >default/accept_dad && ip link set lo up")
}

func (w *world) run(stdin, name string, args ...string) {
	w.t.Helper()
	c := exec.Command(name, args...)
	c.Stdin = strings.NewReader(stdin)
	out, err := c.CombinedOutput()
	require.NoError(w.t, err, "%s %s: %s\n%s", name, strings.Join(args, " "), out, stdin)
}

func (w *world) ip(ns string, lines ...string) {
	w.t.Helper()
	w.run(strings.Join(lines, "\n"), "ip", "-n", w.tag+ns, "-batch", "-")
}

func (w *world) forward(ns string) {
	w.t.Helper()
	w.run("", "ip", "netns", "exec", w.tag+ns, "sh", "-c",
		"echo 1 >/proc/sys/net/ipv4/ip_forward && echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
}

// rules makes a namespace's kernel that router.
func (w *world) rules(ns string, r Router) {
	w.t.Helper()
	text, err := r.Rules()
	require.NoError(w.t, err)
	w.run(text, "ip", "netns", "exec", w.tag+ns, "nft", "-f", "-")
}

// veth joins two namespaces; an end on the Internet is plugged into its bridge.
func (w *world) veth(ns, name, otherNS, other string) {
	w.t.Helper()
	w.ip(ns, fmt.Sprintf("link add %s type veth peer name %s netns %s", name, other, w.tag+otherNS), "link set "+name+" up")
	if otherNS == "net" {
		w.ip(otherNS, "link set "+other+" master br0 up")
	} else {
		w.ip(otherNS, "link set "+other+" up")
	}
}

// number is what tells this place's addresses from others'.
func (w *world) number() int {
	w.nodes++
	return w.nodes
}

func outer(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, byte(10 + i)}) }

// router makes one with those families, connected to the Internet, and no inner interface.
func (w *world) router(i int, r Router, v4, v6 bool) (name string) {
	w.t.Helper()
	name = fmt.Sprintf("r%d", i)
	w.namespace(name)
	w.forward(name)
	w.veth(name, "wan", "net", fmt.Sprintf("p%d", i))
	r.Outer = outer(i)
	if v4 {
		w.ip(name, fmt.Sprintf("addr add %s/24 dev wan", r.Outer))
	}
	if v6 {
		w.ip(name, fmt.Sprintf("addr add 2001:db8::%x/64 dev wan nodad", 16+i), "route add default via "+servers6[0].String())
		w.ip("net", fmt.Sprintf("route add 2001:db8:%x::/48 via 2001:db8::%x", i, 16+i))
	}
	w.rules(name, r)
	return name
}

// lan makes an inner interface of a router with a node at it.
func (w *world) lan(router string, i, k int, v4, v6 bool) *place {
	w.t.Helper()
	p := &place{ns: fmt.Sprintf("n%d-%d", i, k), number: i, routers: []string{router}}
	w.namespace(p.ns)
	w.connect(p, "eth0", fmt.Sprintf("lan%d", k), i, k, v4, v6)
	return p
}

// connect plugs a place's node into its router.
func (w *world) connect(p *place, dev, lan string, i, k int, v4, v6 bool) {
	w.t.Helper()
	router := p.routers[0]
	w.veth(p.ns, dev, router, lan)
	if v4 {
		w.ip(router, fmt.Sprintf("addr add 10.%d.%d.1/24 dev %s", i, k, lan))
		w.ip(p.ns, fmt.Sprintf("addr add 10.%d.%d.2/24 dev %s", i, k, dev), fmt.Sprintf("route add default via 10.%d.%d.1 dev %s", i, k, dev))
	}
	if v6 {
		w.ip(router, fmt.Sprintf("addr add 2001:db8:%x:%x::1/64 dev %s nodad", i, k, lan))
		w.ip(p.ns, fmt.Sprintf("addr add 2001:db8:%x:%x::2/64 dev %s nodad", i, k, dev), fmt.Sprintf("route add default via 2001:db8:%x:%x::1 dev %s", i, k, dev))
	}
}

// behind is a node behind a router of its own.
func (w *world) behind(r Router) *place { return w.behindFamilies(r, true, false) }

func (w *world) behindFamilies(r Router, v4, v6 bool) *place {
	w.t.Helper()
	i := w.number()
	return w.lan(w.router(i, r, v4, v6), i, 1, v4, v6)
}

// open is a node with an outer address of its own.
func (w *world) open() *place {
	w.t.Helper()
	i := w.number()
	p := &place{ns: fmt.Sprintf("n%d", i), number: i}
	w.namespace(p.ns)
	w.veth(p.ns, "eth0", "net", fmt.Sprintf("p%d", i))
	w.ip(p.ns, fmt.Sprintf("addr add %s/24 dev eth0", outer(i)))
	return p
}

// double is a node behind a router behind another's.
func (w *world) double(inner, r Router) *place {
	w.t.Helper()
	i := w.number()
	carrier := w.router(i, r, true, false)
	home := w.lan(carrier, i, 1, true, false)
	return w.home(home, inner, i, 101)
}

// home makes a place a router, and returns a node behind it.
func (w *world) home(at *place, r Router, i, k int) *place {
	w.t.Helper()
	w.ip(at.ns, "link set eth0 down", "link set eth0 name wan", "link set wan up",
		fmt.Sprintf("route add default via 10.%d.%d.1 dev wan", i, k-100))
	w.forward(at.ns)
	r.Outer = netip.AddrFrom4([4]byte{10, byte(i), byte(k - 100), 2})
	w.rules(at.ns, r)
	p := w.lan(at.ns, i, k, true, false)
	p.routers = append(p.routers, at.routers...)
	return p
}

// neighbours are two nodes on one network behind a router. Its switch is elsewhere: where
// br_netfilter is loaded the router's rules would see what it switches.
func (w *world) neighbours(router string, i int) (a, b *place) {
	w.t.Helper()
	at := fmt.Sprintf("s%d", i)
	w.namespace(at)
	w.ip(at, "link add br0 type bridge", "link set br0 up")
	w.veth(router, "lan1", at, "router")
	w.ip(at, "link set router master br0")
	w.ip(router, fmt.Sprintf("addr add 10.%d.1.1/24 dev lan1", i))
	var list [2]*place
	for k := range list {
		p := &place{ns: fmt.Sprintf("n%d-%d", i, k+1), number: i, routers: []string{router}}
		w.namespace(p.ns)
		w.veth(p.ns, "eth0", at, fmt.Sprintf("p%d", k))
		w.ip(at, fmt.Sprintf("link set p%d master br0", k))
		w.ip(p.ns, fmt.Sprintf("addr add 10.%d.1.%d/24 dev eth0", i, k+2), fmt.Sprintf("route add default via 10.%d.1.1", i))
		list[k] = p
	}
	return list[0], list[1]
}
