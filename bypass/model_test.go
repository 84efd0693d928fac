package bypass_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// The model is two whole Hosts, on two switches in memory, in virtual time, under a
// schedule that a seed draws: who asks for which flow, what policies say, what the
// control link and the wire do to messages and packets, what the switches refuse, who
// dies. Guests send all the time. After each step all that must never be is looked
// for (modelcheck_test.go).

// Times of the model's hosts.
const (
	modelLease  = 10 * time.Second
	modelOut    = 4 * time.Second // outbound
	modelNotice = 3 * time.Second // until a lost path is left
)

// world is one schedule.
type world struct {
	rnd      *rand.Rand
	start    time.Time
	wire     *bypasstest.Wire
	nodes    [2]*modelNode
	flows    []bypass.Flow   // Src on nodes[0]
	families []bypass.Family // of flows, and of the hosts
	pipes    [2]pipe         // of nodes[0], of nodes[1]
	opts     options
	bug      string
	traced   bool // each step is noted
	count    *bypass.Meetings
	quiet    [3][2]bool              // flows whose guests say nothing, by sender
	hop      int                     // number of the last next hop
	healed   bool                    // no more faults, and no flows but those that are asked for
	spelled  bool                    // there was a spell
	blocks   map[bypass.Family]block // what the wire loses

	mu      sync.Mutex // guards what follows: switches and hosts call from their goroutines
	nextID  uint64
	sent    map[uint64]sentFrame
	native  map[bypass.Flow]int  // packets that were bypassed
	late    map[uint64]sentFrame // packets that were held on the wire
	held    []heldFrame
	holds   *rand.Rand
	trace   []string
	failed  string
	trouble trouble
}

// options are drawn once for each schedule.
type options struct {
	stale                time.Duration // of the switches' caches
	lose, repeat, linger float64       // of control messages
	wireDelay            time.Duration
	steps                int
	faults               bool // hard ones: losses are announced
	stragglers           bool // some packets take seconds
}

// pipe is one direction of the control link.
type pipe struct {
	to    *modelNode
	queue []parcel
}

type parcel struct {
	due time.Time
	msg []byte
}

// modelNode is one host with two workloads, and what the schedule wants of it.
type modelNode struct {
	w        *world
	nr       int
	id       overlay.PeerID
	addrs    map[bypass.Family]netip.Addr
	uplink   tap.MAC
	sw       *bypasstest.Switch
	underlay *bypasstest.Underlay
	host     *bypass.Host
	member   *bypass.Member // nil = dead
	seam     *bypass.Seam
	run      int
	dead     []deadRun
	leaving  chan struct{} // closed when it has left; nil = it stays
	stalled  bool
	down     bool
	failing  bool
	// Last instants at which its policy allowed, its switch could not be programmed,
	// and its switch went on after a stall.
	allowedAt, impaired, unstalled time.Time
	bornAt                         time.Time

	mu     sync.Mutex
	linked bool
	out    [][]byte // what it said since the last step
	allow  bool     // its policy
	away   [2]bool  // workloads that are detached
}

// deadRun is what a killed run's mark was.
type deadRun struct {
	epoch uint16
	at    time.Time
}

func (n *modelNode) peer() *modelNode { return n.w.nodes[1-n.nr] }

func guestIP(f bypass.Family, node, i int) netip.Addr {
	if f == bypass.IPv6 {
		return netip.AddrFrom16([16]byte{0xfd, 7, 15: byte(10*node + i)})
	}
	return netip.AddrFrom4([4]byte{192, 168, 7, byte(10*node + i)})
}

func guestMAC(node, i int) tap.MAC { return tap.MAC{2, 0, 0, 0, byte(node), byte(i)} }

// block is what the wire loses of one family.
type block struct {
	from  netip.Addr
	proto bypass.Proto // 0 = all
}

// guestOf tells whose address a is.
func guestOf(a netip.Addr) (node, i int) { b := a.As16()[15]; return int(b / 10), int(b % 10) }

func newWorld(seed uint64, bug string, count *bypass.Meetings, traced bool) *world {
	w := &world{
		rnd: rand.New(rand.NewPCG(seed, 1)), start: time.Now(), wire: bypasstest.NewWire(), bug: bug, count: count, traced: traced,
		sent: map[uint64]sentFrame{}, native: map[bypass.Flow]int{}, late: map[uint64]sentFrame{}, blocks: map[bypass.Family]block{}, holds: rand.New(rand.NewPCG(seed, 3)),
	}
	w.opts = options{
		stale:      []time.Duration{0, 0, 50 * time.Millisecond, 232 * time.Millisecond}[w.rnd.IntN(4)],
		lose:       []float64{0, 0, 0.05, 0.3}[w.rnd.IntN(4)],
		repeat:     []float64{0, 0, 0.1, 0.3}[w.rnd.IntN(4)],
		linger:     []float64{0, 0, 0.2, 0.5}[w.rnd.IntN(4)],
		wireDelay:  []time.Duration{0, 0, time.Millisecond, 200 * time.Millisecond}[w.rnd.IntN(4)],
		steps:      10 + w.rnd.IntN(30),
		faults:     w.rnd.IntN(3) > 0,
		stragglers: w.rnd.IntN(2) == 0,
	}
	w.trouble.init(w)
	w.drawFlows()
	for i := range w.nodes {
		w.nodes[i] = newModelNode(w, i)
	}
	for i, n := range w.nodes {
		w.pipes[i].to = n.peer()
		for f, local := range n.addrs {
			far := n.peer().addrs[f]
			n.underlay.SetRoute(far, bypass.Route{Local: local, Src: n.uplink, Via: far, NextHop: n.peer().uplink, OnLink: true, MTU: 1500})
		}
	}
	w.wire.Delay(w.opts.wireDelay)
	w.wire.Tap(w.onWire)
	w.wire.Mangle(w.carried)
	for _, n := range w.nodes {
		n.sw.Stale(w.opts.stale)
		n.born()
	}
	w.setLink(true)
	return w
}

// drawFlows draws what the guests speak.
func (w *world) drawFlows() {
	var f bypass.Family
	var p bypass.Proto
	for i, g := range [][2]int{{0, 0}, {1, 1}, {0, 1}} {
		if i == 0 || w.bug != "takes a dead run's tuples" { // tuples of one kind meet sooner
			f = []bypass.Family{bypass.IPv4, bypass.IPv6}[w.rnd.IntN(2)]
			p = []bypass.Proto{bypass.TCP, bypass.UDP}[w.rnd.IntN(2)]
		}
		w.flows = append(w.flows, bypass.Flow{Proto: p,
			Src: netip.AddrPortFrom(guestIP(f, 0, g[0]), 40000), Dst: netip.AddrPortFrom(guestIP(f, 1, g[1]), 80)})
		if !slices.Contains(w.families, f) {
			w.families = append(w.families, f)
		}
	}
}

func newModelNode(w *world, nr int) *modelNode {
	n := &modelNode{w: w, nr: nr, id: overlay.PeerID{byte(nr + 1)}, addrs: map[bypass.Family]netip.Addr{},
		uplink: tap.MAC{2, 0, 0, 1, 0, byte(nr + 1)}, allow: true}
	var prefixes []netip.Prefix
	var addrs []netip.Addr
	for _, f := range w.families {
		a := netip.AddrFrom4([4]byte{10, 0, 0, byte(nr + 1)})
		if f == bypass.IPv6 {
			a = netip.AddrFrom16([16]byte{0xfd, 10, 15: byte(nr + 1)})
		}
		n.addrs[f], addrs, prefixes = a, append(addrs, a), append(prefixes, netip.PrefixFrom(a, 24))
	}
	n.underlay = bypasstest.NewUnderlay(prefixes...)
	n.sw = w.wire.NewSwitch(bypasstest.SwitchConfig{UplinkMAC: n.uplink, Addrs: addrs, Underlay: n.underlay})
	for i := range 2 {
		n.sw.AddPort(n.ofport(i), guestMAC(nr, i), func(f []byte) { w.delivered(n, i, f) })
	}
	n.sw.Tap(func(f []byte) { w.tapped(f) })
	n.sw.Host(func(f []byte) { w.reachedStack(n, f) })
	return n
}

// ofport of a workload; 0 is the uplink.
func (n *modelNode) ofport(i int) uint32 { return uint32(3 + i) }

// born starts the node's next run.
func (n *modelNode) born() {
	w := n.w
	n.run++
	n.bornAt = time.Now()
	var err error
	n.host, err = bypass.NewHost(bypass.HostConfig{Datapath: n.sw.Open, Underlay: n.underlay, Lease: modelLease,
		Quarantine: modelLease, Ports: bypass.PortRange{Base: 0xffc0, Mask: 0xffc0}, Trust: bypass.Trust{MaxRTT: time.Second}})
	if err != nil {
		w.fail("new host: %v", err)
		return
	}
	draws := rand.New(rand.NewPCG(w.rnd.Uint64(), 2))
	n.host.Tweak(func(s *bypass.Seam) {
		n.seam = s
		few := func() uint64 { return draws.Uint64N(2) } // so that ports meet again soon
		s.Chance(draws.Uint64, few)
		if plant := bypass.Bugs[w.bug]; plant != nil {
			plant(s)
		}
		if w.traced {
			s.Trace(func(step string) { w.note("    node %d  %s", n.nr, step) })
		}
		if w.count != nil {
			s.Count(w.count)
		}
	})
	run := n.run
	m, err := n.host.Join(context.Background(), bypass.MemberConfig{
		Network: "model", Self: n.id, MTU: 1400, Policy: n.policy(), Resolve: n.resolve,
		Send:    func(_ overlay.PeerID, msg []byte) bool { return n.say(run, msg) },
		Changed: func(bypass.Status) {},
	})
	if err != nil {
		w.fail("join: %v", err)
		return
	}
	n.member = m
	for i := range 2 {
		n.attach(i)
	}
}

// attach and detach do not wait: the switch may be away.
func (n *modelNode) attach(i int) {
	done, cancel := context.WithCancel(context.Background())
	cancel()
	n.mu.Lock()
	n.away[i] = false
	n.mu.Unlock()
	_ = n.member.Attach(done, bypass.Workload{Ofport: n.ofport(i), MAC: guestMAC(n.nr, i), IPs: n.guestIPs(i)})
}

func (n *modelNode) guestIPs(i int) (ips []netip.Addr) {
	for _, f := range n.w.families {
		ips = append(ips, guestIP(f, n.nr, i))
	}
	return ips
}

func (n *modelNode) policy() bypass.Policy {
	if !n.allow {
		return nil
	}
	responder := n.w.bug == "asks one end only"
	return func(r bypass.Request) bypass.Verdict {
		n.mu.Lock()
		defer n.mu.Unlock()
		return bypass.Verdict{Bypass: n.allow || responder && !r.Initiator, Idle: 5 * time.Second}
	}
}

func (n *modelNode) resolve(f bypass.Flow) (bypass.Ends, bool) {
	node, i := guestOf(f.Src.Addr())
	far, j := guestOf(f.Dst.Addr())
	n.mu.Lock()
	defer n.mu.Unlock()
	return bypass.Ends{Peer: n.peer().id, Ofport: n.ofport(i), LocalMAC: guestMAC(node, i), RemoteMAC: guestMAC(far, j)},
		node == n.nr && far == 1-n.nr && !n.away[i]
}

// say puts a control message on its way: the world collects it after each step.
func (n *modelNode) say(run int, msg []byte) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.linked || run != n.run {
		return false
	}
	n.out = append(n.out, append([]byte(nil), msg...))
	return true
}

func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trace = append(w.trace, fmt.Sprintf("%9.3f  ", time.Since(w.start).Seconds())+fmt.Sprintf(format, args...))
}

// fail notes the first violation.
func (w *world) fail(format string, args ...any) {
	w.note("FAIL "+format, args...)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed == "" {
		w.failed = fmt.Sprintf(format, args...)
	}
}

// runSchedule runs a whole schedule and returns what was violated; "" = nothing.
func runSchedule(seed uint64, bug string, count *bypass.Meetings, traced bool) (violation, trace string) {
	w := newWorld(seed, bug, count, traced)
	w.note("%+v", w.opts)
	w.pass(time.Duration(w.rnd.IntN(400)) * time.Millisecond)
	for range w.opts.steps {
		if w.failed != "" {
			break
		}
		w.act()
		w.pass(w.pause())
	}
	if w.failed == "" {
		w.finish()
	}
	w.stop()
	return w.failed, strings.Join(w.trace, "\n")
}

// pause is how long until the next action: mostly short, sometimes a lease long.
func (w *world) pause() time.Duration {
	switch n := w.rnd.IntN(20); {
	case n < 8:
		return time.Duration(w.rnd.IntN(20)) * time.Millisecond
	case n < 16:
		return time.Duration(w.rnd.IntN(600)) * time.Millisecond
	case n < 19:
		return time.Duration(w.rnd.IntN(4000)) * time.Millisecond
	}
	return time.Duration(w.rnd.IntN(14000)) * time.Millisecond
}
