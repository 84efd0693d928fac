package ofpath_test

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/bypass/ofpath"
	"github.com/viasnet/vias/internal/ovstest"
	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// hostEnd is one bypass.Host on an Open vSwitch of its own, with one workload. Its
// uplink is a cable to the other one's; its control link is a call.
type hostEnd struct {
	tb       testing.TB
	ovs      *ovstest.Switch
	id       overlay.PeerID
	addr, ip netip.Addr
	uplink   tap.MAC
	mac      tap.MAC // of the workload
	ofport   uint32
	count    counting     // what the host does to the switch
	witness  ofctl.Switch // another connection to it
	under    *bypasstest.Underlay
	member   *bypass.Member
	peer     *hostEnd
	lease    time.Duration

	mu      sync.Mutex
	states  map[bypass.Flow]bypass.State
	n       map[bypass.State]int
	reasons map[bypass.Reason]int // of flows that came to the overlay
	changed chan struct{}         // of length 1
	told    func(bypass.Status)
}

// scaleBridge and scaleUplink are names in each switch's own namespace.
const (
	scaleBridge = "br0"
	scaleUplink = "up0"
)

// newHosts makes two hosts whose switches are joined by a cable, proves the path, and
// takes them down, checking that nothing is left, when the test ends.
func newHosts(tb testing.TB, lease time.Duration) (a, b *hostEnd) {
	a, b = newHostEnd(tb, 1), newHostEnd(tb, 2)
	a.peer, b.peer, a.lease, b.lease = b, a, lease, lease
	a.ovs.IP("-n", a.ovs.Netns, "link", "add", scaleUplink, "type", "veth", "peer", "name", scaleUplink, "netns", b.ovs.Netns)
	for _, e := range []*hostEnd{a, b} {
		e.connect()
	}
	for _, e := range []*hostEnd{a, b} {
		e.join()
	}
	a.member.LinkUp(b.id)
	b.member.LinkUp(a.id)
	require.Eventually(tb, func() bool {
		ra, _ := a.member.PathTo(tb.Context(), b.id, bypass.IPv4)
		rb, _ := b.member.PathTo(tb.Context(), a.id, bypass.IPv4)
		return ra == bypass.ReasonNone && rb == bypass.ReasonNone
	}, 20*time.Second, 10*time.Millisecond, "the path is not proven")
	return a, b
}

func newHostEnd(tb testing.TB, i byte) *hostEnd {
	e := &hostEnd{
		tb: tb, ovs: ovstest.Start(tb), id: overlay.PeerID{i},
		addr: netip.AddrFrom4([4]byte{10, 1, 0, i}), ip: netip.AddrFrom4([4]byte{192, 168, 7, i}),
		uplink: tap.MAC{2, 0, 0, 0, 1, i}, mac: tap.MAC{2, 0, 0, 0, 0, i},
		states: map[bypass.Flow]bypass.State{}, n: map[bypass.State]int{}, reasons: map[bypass.Reason]int{},
		changed: make(chan struct{}, 1),
	}
	e.ovs.Bridge(scaleBridge)
	return e
}

// connect builds the bridge: uplink, one workload, NORMAL for the rest.
func (e *hostEnd) connect() {
	e.ovs.IP("-n", e.ovs.Netns, "link", "set", scaleUplink, "up")
	e.ovs.MustVsctl("set", "port", scaleBridge, "trunks=0", "--", "add-port", scaleBridge, scaleUplink, "trunks=0",
		"--", "set", "interface", scaleUplink, "ofport_request=1")
	require.Equal(e.tb, "1", e.ovs.MustVsctl("get", "interface", scaleUplink, "ofport"))
	require.Equal(e.tb, "2", e.ovs.Port(scaleBridge, "w0", "xw0"))
	e.ovs.MustVsctl("set", "port", "w0", "tag=7")
	e.ofport = 2
	sw, err := ofctl.Dial(e.tb.Context(), e.ovs.Mgmt(scaleBridge), ofctl.Config{})
	require.NoError(e.tb, err)
	e.witness = sw
	e.tb.Cleanup(func() { require.NoError(e.tb, sw.Close()) })
	other{e.tb, sw}.normal()
}

func (e *hostEnd) join() {
	e.under = bypasstest.NewUnderlay(netip.PrefixFrom(e.addr, 24))
	e.under.SetRoute(e.peer.addr, bypass.Route{Local: e.addr, Src: e.uplink, Via: e.peer.addr, NextHop: e.peer.uplink, OnLink: true, MTU: 1500})
	host, err := bypass.NewHost(bypass.HostConfig{
		Datapath: ofpath.Open(ofpath.Config{Dial: e.dial, Uplink: scaleUplink}),
		Underlay: e.under, Lease: e.lease, Rate: 1_000_000, // all flows are one workload's
		Trust:  bypass.Trust{MaxRTT: time.Second}, // the machine may be busy
		Logger: slog.New(slog.NewTextHandler(e.tb.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})).With("host", e.id[0]),
	})
	require.NoError(e.tb, err)
	e.member, err = host.Join(e.tb.Context(), bypass.MemberConfig{
		Network: "scale", Self: e.id, Policy: bypass.Always, MTU: 1400,
		Resolve: e.resolve, Changed: e.note,
		Send: func(_ overlay.PeerID, msg []byte) bool { e.peer.member.Receive(e.id, msg); return true },
	})
	require.NoError(e.tb, err)
	e.tb.Cleanup(e.leave)
	require.NoError(e.tb, e.member.Attach(e.tb.Context(), bypass.Workload{Ofport: e.ofport, MAC: e.mac, IPs: []netip.Addr{e.ip}}))
}

// dial is ofpath.Config.Dial.
func (e *hostEnd) dial(ctx context.Context) (ofctl.Switch, error) {
	sw, err := ofctl.Dial(ctx, e.ovs.Mgmt(scaleBridge), ofctl.Config{})
	if err != nil {
		return nil, err
	}
	e.count.Switch = sw
	return &e.count, nil
}

func (e *hostEnd) resolve(f bypass.Flow) (bypass.Ends, bool) {
	return bypass.Ends{Peer: e.peer.id, Ofport: e.ofport, LocalMAC: e.mac, RemoteMAC: e.peer.mac},
		f.Src.Addr() == e.ip && f.Dst.Addr() == e.peer.ip
}

// note is MemberConfig.Changed.
func (e *hostEnd) note(s bypass.Status) {
	e.mu.Lock()
	if was, known := e.states[s.Flow]; known {
		e.n[was]--
	}
	e.states[s.Flow] = s.State
	e.n[s.State]++
	if s.State == bypass.OnOverlay {
		e.reasons[s.Reason]++
	}
	told := e.told
	e.mu.Unlock()
	if told != nil {
		told(s)
	}
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// tell has f called with every change.
func (e *hostEnd) tell(f func(bypass.Status)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.told = f
}

// flow is the i'th flow from e's workload to the peer's.
func (e *hostEnd) flow(i int) bypass.Flow {
	return bypass.Flow{Proto: bypass.TCP,
		Src: netip.AddrPortFrom(e.ip, uint16(1024+i%60000)), Dst: netip.AddrPortFrom(e.peer.ip, uint16(80+i/60000))}
}

// await returns when n flows are in state.
func (e *hostEnd) await(state bypass.State, n int, limit time.Duration) {
	e.tb.Helper()
	late := time.After(limit)
	for {
		e.mu.Lock()
		have := e.n[state]
		e.mu.Unlock()
		if have == n {
			return
		}
		select {
		case <-e.changed:
		case <-late:
			e.mu.Lock()
			defer e.mu.Unlock()
			e.tb.Fatalf("host %d: not %d %v within %v: states %v, reasons %v", e.id[0], n, state, limit, e.n, e.reasons)
		}
	}
}

// exactPriority is that of exact rules; what sends ICMP errors up stands below them.
const exactPriority = 100

// rules counts the flows in a table of the switch that are exact rules.
func (e *hostEnd) rules(table uint8) int {
	e.tb.Helper()
	stats, err := e.witness.Flows(context.Background(), ofctl.FlowFilter{Table: table, Cookie: 0x7661 << 48, CookieMask: 0xffff << 48})
	require.NoError(e.tb, err)
	n := 0
	for _, s := range stats {
		if s.Priority == exactPriority {
			n++
		}
	}
	return n
}

// leave takes the host down; then the switch is as it was before.
func (e *hostEnd) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	e.tell(nil)
	if err := e.member.Leave(ctx); err != bypass.ErrLeft {
		require.NoError(e.tb, err)
	}
}

// empty requires that nothing of the host is in the switch.
func (e *hostEnd) empty() {
	e.tb.Helper()
	flows := e.ovs.DumpFlows(scaleBridge)
	require.Len(e.tb, flows, 1, "more than NORMAL: %s", strings.Join(flows[:min(5, len(flows))], "\n"))
	groups, err := e.witness.Groups(context.Background())
	require.NoError(e.tb, err)
	require.Empty(e.tb, groups)
}
