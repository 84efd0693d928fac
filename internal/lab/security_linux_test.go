package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/tap"
)

// attacked is a system with one bypassed connection, and ears where nothing of an
// attack may be heard.
type attacked struct {
	*system
	k      *chat
	wire   *capture            // what hosts send to the provider's network
	guests map[string]*capture // what guests get
	stacks map[string]*capture // what hosts' own stacks get
}

func newAttacked(t *testing.T) *attacked {
	a := &attacked{system: newSystem(t), guests: map[string]*capture{}, stacks: map[string]*capture{}}
	a.startNodes()
	a.policies(nodecfg.Bypass)
	a.k = a.startChat(newMarker())
	a.awaitState(10*time.Second, a.k.from(), "bypassed")
	a.wire = a.startCapture()
	for _, h := range a.hosts {
		a.stacks[h.Namespace] = a.listenIn(h.Namespace, bridge)
		for _, g := range h.Containers {
			a.guests[g.Name] = a.listenIn(g.Namespace, "eth0")
		}
	}
	return a
}

// tuple1 is the tuple of the connection as host 1 sends it.
func (a *attacked) tuple1() tuple {
	f, ok := a.flow(1, a.k.from())
	require.True(a.t, ok && f.Local.IsValid())
	return tuple{f.Local, f.Remote}
}

// heard counts a marker at guests.
func (a *attacked) heard(m marker) map[string]int {
	n := map[string]int{}
	for name, c := range a.guests {
		if k := c.count(m.with); k > 0 {
			n[name] = k
		}
	}
	return n
}

// Whoever can send anything from the provider's network reaches a guest by the exact
// tuple of a live flow alone, and no host answers; and no guest gets anything onto that
// network, or to a host, but the packets of a bypassed flow.
func TestIntegrationAttacks(t *testing.T) {
	a := newAttacked(t)
	a.fromUnderlay(true)
	a.fromGuests()
	a.awaitRounds(10*time.Second, a.k, 20, "after the attacks")
	a.policyTakesEffect()
	a.policies(nodecfg.Overlay)
	a.awaitState(10*time.Second, a.k.from(), nodecfg.Overlay)
	a.fromUnderlay(false)
	a.awaitRounds(10*time.Second, a.k, 20, "after all")
	frames, n := a.wire.all(t), a.network()
	n.live = a.live
	classes := a.requireClasses(frames, n, classData, classProbe, classBypass)
	require.Zero(t, a.wire.resets(), "a host's stack has answered")
	icmp := 0
	for _, f := range frames {
		if be.Uint16(f[12:]) == 0x0800 && f[23] == 1 {
			icmp++
		}
	}
	require.Zero(t, icmp, "a host's stack has answered with ICMP: %v", classes)
	a.quiet()
	a.scanned()
}

// fromUnderlay spoofs, while the connection is bypassed or while it is not.
func (a *attacked) fromUnderlay(bypassed bool) {
	t, from, to := a.t, a.hosts[0], a.hosts[1]
	live := tuple{netip.AddrPortFrom(from.Addr, 61444), netip.AddrPortFrom(to.Addr, 61777)}
	if bypassed {
		live = a.tuple1()
	} else { // its inbound rule goes a drain later
		a.await(10*time.Second, "the flow's rules are gone", func() bool {
			out, err := a.ovs[1].Ofctl(t.Context(), "dump-flows", bridge, "table=10")
			require.NoError(t, err)
			return !strings.Contains(out, "priority=100")
		})
	}
	before, node := used(t, a.NodePID(2)), size(t, to.Log())
	swept, shape, hit := newMarker(), newMarker(), newMarker()
	s := a.spoofer(to)
	start, caught, sweep := time.Now(), a.caught(), a.spoofed(from, to, live, swept)
	// A busy machine's switch loses many before they are anybody's.
	var sweeps int
	var last time.Time
	a.await(60*time.Second, "the switch has taken as many spoofed frames as most of a sweep", func() bool {
		if time.Since(last) > 3*time.Second { // counters lag behind
			s.say(8000, sweep...)
			sweeps++
			last = time.Now()
		}
		return grown(caught, a.caught()) > 12_000*80
	})
	for range 5 {
		s.say(100, odd(from, to, live, shape)...)
	}
	swept1 := time.Since(start)
	if bypassed { // behind all others: what is not heard by now never is
		a.await(10*time.Second, "the exact tuple is heard", func() bool {
			s.say(100, packet(to.MAC, from.MAC, bypass.TCP, live.src, live.dst, hit))
			return a.heard(hit)["h2c1"] > 0
		})
		heard := a.heard(swept)
		require.LessOrEqual(t, heard["h2c1"], sweeps, "the live tuple is in a sweep once")
		delete(heard, "h2c1")
		require.Empty(t, heard)
	} else {
		a.awaitRounds(10*time.Second, a.k, 10, "while spoofed")
		require.Empty(t, a.heard(swept))
	}
	require.Empty(t, a.heard(shape))
	if bypassed {
		require.Equal(t, live, a.tuple1(), "the flow has left the bypass meanwhile")
	}
	a.flooded(s, from, to, bypassed)
	require.Equal(t, map[string]int{}, a.others(hit))
	require.Zero(t, a.wire.resets(), "a host's stack has answered")
	t.Logf("bypassed %v: %d spoofed frames in %v; the node: %v, %d bytes of log", bypassed, s.sent, swept1,
		used(t, a.NodePID(2)).since(before), size(t, to.Log())-node)
	require.Less(t, size(t, to.Log())-node, int64(4096), "the node's log")
}

// caught counts the bytes that host 2's switch has taken from the uplink and given to nobody.
func (a *attacked) caught() map[string]uint64 {
	out, err := a.ovs[1].Ofctl(a.t.Context(), "dump-flows", bridge)
	require.NoError(a.t, err)
	return counters(parseFlows(out), func(f dumped) bool {
		return slices.ContainsFunc(f.actions, func(a string) bool { return strings.HasPrefix(a, "CONTROLLER") || a == "drop" })
	})
}

// flooded has random pairs come as fast as one core can send them.
func (a *attacked) flooded(s *mouth, from, to *Host, bypassed bool) {
	t, m := a.t, newMarker()
	var frames [][]byte
	for range 1000 {
		frames = append(frames, packet(to.MAC, from.MAC, bypass.TCP, netip.AddrPortFrom(from.Addr, guess()), netip.AddrPortFrom(to.Addr, guess()), m))
	}
	vswitchd, err := a.ovs[1].readPID("ovs-vswitchd")
	require.NoError(t, err)
	node, sw, sent, said, log := used(t, a.NodePID(2)), used(t, vswitchd), s.sent, a.k.said(), size(t, to.Log())
	start := time.Now()
	for time.Since(start) < 2*time.Second {
		s.say(1_000_000, frames...)
	}
	took := time.Since(start)
	t.Logf("bypassed %v: flooded with %.0f frames a second: the node %v; ovs-vswitchd %v; the connection made %.0f rounds a second", bypassed,
		float64(s.sent-sent)/took.Seconds(), used(t, a.NodePID(2)).since(node), used(t, vswitchd).since(sw), float64(a.k.said()-said)/took.Seconds())
	require.Less(t, size(t, to.Log())-log, int64(4096), "the node's log")
	a.awaitRounds(20*time.Second, a.k, 20, "after the flood")
	require.LessOrEqual(t, len(a.heard(m)), 1)
}

// others counts a marker at guests other than the one that it is for.
func (a *attacked) others(m marker) map[string]int {
	n := a.heard(m)
	delete(n, "h2c1")
	return n
}

// lie is a frame that a guest may not get through.
type lie struct {
	what  string // for whoever reads the table
	frame []byte
}

// fromGuests lies from the guest of the connection, and from the other one of its host.
func (a *attacked) fromGuests() {
	t, h1, h2 := a.t, a.hosts[0], a.hosts[1]
	me, other, far := a.guest(1, 1), a.guest(1, 2), a.guest(2, 1)
	flow := tuple{a.k.from(), netip.AddrPortFrom(far.Addr, chatPort)}
	m := newMarker()
	tcp := func(dst, src tap.MAC, from, to netip.AddrPort) []byte {
		return packet(dst, src, bypass.TCP, from, to, m)
	}
	at := func(ip netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(ip, port) }
	exact := tcp(far.MAC, me.MAC, flow.src, flow.dst)
	a.awaitState(20*time.Second, a.k.from(), "bypassed") // the flood may have cost it its path
	live := a.tuple1()
	own := []lie{ // from the guest of the flow itself
		{"its flow, tagged", tagged(exact, workloadTag)}, {"its flow, with another tag", tagged(exact, 1)},
		{"its flow, priority-tagged", tagged(exact, 1<<13)}, {"its flow, tagged twice", tagged(tagged(exact, workloadTag), 1)},
		{"its flow, to the host's MAC", tcp(h1.MAC, me.MAC, flow.src, flow.dst)},
		{"its flow, to the peer's host's MAC", tcp(h2.MAC, me.MAC, flow.src, flow.dst)},
		{"its flow, from another MAC", tcp(far.MAC, other.MAC, flow.src, flow.dst)},
		{"its flow, from the uplink's MAC", tcp(far.MAC, h1.MAC, flow.src, flow.dst)},
	}
	for i, f := range fragments(exact, 24) {
		own = append(own, lie{fmt.Sprint("its flow, fragment ", i), f})
	}
	alien := []lie{ // from a guest that has no part in it
		{"another guest's flow", exact}, {"another guest's flow, own MAC", tcp(far.MAC, other.MAC, flow.src, flow.dst)},
		{"the other direction", tcp(me.MAC, far.MAC, flow.dst, flow.src)},
		{"as the peer's guest", tcp(far.MAC, far.MAC, flow.dst, flow.src)},
	}
	for _, mac := range []tap.MAC{h1.MAC, h2.MAC, {0x02, 0x99, 0, 0, 0, 0xfe}, far.MAC} {
		for _, src := range []tap.MAC{other.MAC, h1.MAC} {
			alien = append(alien, lie{"the underlay's tuple", tcp(mac, src, live.src, live.dst)},
				lie{"its answer", tcp(mac, src, live.dst, live.src)},
				lie{"as its host to the peer's", tcp(mac, src, at(h1.Addr, 4000), at(h2.Addr, 22))},
				lie{"as the peer's host to its own", tcp(mac, src, at(h2.Addr, 4000), at(h1.Addr, 22))},
				lie{"to its host", tcp(mac, src, at(other.Addr, 4000), at(h1.Addr, signalPort))},
				lie{"to a reserved port", tcp(mac, src, at(other.Addr, 4000), at(h1.Addr, 61500))},
				lie{"to a port of probes", packet(mac, src, bypass.UDP, at(h2.Addr, 65500), at(h1.Addr, 65500), m)},
				lie{"ARP as the gateway", claim(mac, src, 2, gateway(), h1.Addr, m)},
				lie{"ARP as the host", claim(tap.MAC{255, 255, 255, 255, 255, 255}, src, 1, h1.Addr, h2.Addr, m)},
				lie{"ARP for its host", claim(tap.MAC{255, 255, 255, 255, 255, 255}, src, 1, other.Addr, h1.Addr, m)})
		}
	}
	out := a.mouth(me.Namespace, "eth0")
	a.await(30*time.Second, "lies while the flow is bypassed", func() bool {
		before, _ := a.flow(1, a.k.from())
		a.lies(me, own)
		a.lies(other, alien)
		// The last one is true, and what was sent before it has been through the switch.
		truth := newMarker()
		out.say(100, packet(far.MAC, me.MAC, bypass.TCP, flow.src, flow.dst, truth))
		a.awaitRounds(10*time.Second, a.k, 10, "after the lies")
		after, _ := a.flow(1, a.k.from())
		return before.State == "bypassed" && after.State == "bypassed" && after.Since.Equal(before.Since) && a.wire.count(truth.with) > 0
	})
	require.Zero(t, a.wire.count(m.with), "on the provider's network")
	for ns, c := range a.stacks {
		require.Zero(t, c.count(m.with), "at the host %s", ns)
	}
	t.Logf("%d lies of guests", 3*(len(own)+len(alien)))
}

// lies has a guest send each lie three times.
func (a *attacked) lies(g Container, list []lie) {
	out := a.mouth(g.Namespace, "eth0")
	for range 3 {
		for _, l := range list {
			out.say(1000, l.frame)
		}
	}
}

// policyTakesEffect: from the call on there is less than a second in which anything of
// the flow is on the provider's network, whichever end withdraws.
func (a *attacked) policyTakesEffect() {
	t := a.t
	var worst time.Duration
	for i := range 4 {
		a.policies(nodecfg.Bypass)
		a.awaitState(15*time.Second, a.k.from(), "bypassed")
		stop := a.stopwatch()
		a.awaitRounds(10*time.Second, a.k, 20, "on the bypass")
		start := time.Now()
		a.policy(1+i%2, nodecfg.Overlay)
		a.awaitState(10*time.Second, a.k.from(), nodecfg.Overlay)
		a.awaitRounds(10*time.Second, a.k, 20, "on the overlay")
		last := stop().Sub(start)
		require.Greater(t, last, -5*time.Second, "no frame in clear before")
		t.Logf("host %d withdraws: the last frame in clear after %v", 1+i%2, last)
		worst = max(worst, last)
	}
	require.Less(t, worst, time.Second)
}
