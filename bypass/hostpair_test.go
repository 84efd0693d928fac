package bypass_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// node is one host with one workload, everything in memory.
type node struct {
	t        testing.TB
	id       overlay.PeerID
	addr     netip.Addr
	addr6    netip.Addr // invalid = the host has no IPv6
	uplink   tap.MAC
	mac      tap.MAC // of the workload
	ip, ip6  netip.Addr
	sw       *bypasstest.Switch
	underlay *bypasstest.Underlay
	host     *bypass.Host
	member   *bypass.Member
	peer     *node

	mu       sync.Mutex
	linked   bool
	inbox    [][]byte // what the peer sent before our session was up
	tapped   int      // frames that took the overlay
	got      [][]byte // frames that the workload got natively
	stack    [][]byte // frames that reached the host's stack
	changed  func(bypass.Status)
	tell     func([]byte) // sees what it says
	resolves bool
}

const ofport = 3

type pair struct {
	wire *bypasstest.Wire
	a, b *node
	flow bypass.Flow // as A sends it
	mu   sync.Mutex
	seen [][]byte // on the wire
}

// newPair makes two hosts on one wire. change may alter a host's configuration.
// Tests call it inside a synctest bubble, benchmarks outside.
func newPair(t testing.TB, change func(i int, c *bypass.HostConfig)) *pair {
	return newPairWith(t, [2]bool{}, change)
}

// newPairWith gives some of the hosts IPv6 besides.
func newPairWith(t testing.TB, six [2]bool, change func(i int, c *bypass.HostConfig)) *pair {
	p := &pair{wire: bypasstest.NewWire()}
	p.flow = bypass.Flow{Proto: bypass.TCP, Src: netip.MustParseAddrPort("192.168.7.1:40000"), Dst: netip.MustParseAddrPort("192.168.7.2:80")}
	p.wire.Tap(func(f []byte) {
		p.mu.Lock()
		p.seen = append(p.seen, bytes.Clone(f))
		p.mu.Unlock()
	})
	p.a, p.b = newNode(t, p.wire, 1, six[0]), newNode(t, p.wire, 2, six[1])
	p.a.peer, p.b.peer = p.b, p.a
	for i, n := range []*node{p.a, p.b} {
		n.underlay.SetRoute(n.peer.addr, bypass.Route{Local: n.addr, Src: n.uplink, Via: n.peer.addr, NextHop: n.peer.uplink, OnLink: true, MTU: 1500})
		if six[0] && six[1] {
			n.underlay.SetRoute(n.peer.addr6, bypass.Route{Local: n.addr6, Src: n.uplink, Via: n.peer.addr6, NextHop: n.peer.uplink, OnLink: true, MTU: 1500})
		}
		cfg := bypass.HostConfig{Datapath: n.sw.Open, Underlay: n.underlay, Rate: 1_000_000,
			Logger: slog.New(slog.NewTextHandler(t.Output(), nil)).With("node", i)}
		if change != nil {
			change(i, &cfg)
		}
		var err error
		n.host, err = bypass.NewHost(cfg)
		require.NoError(t, err)
		n.join()
	}
	p.link(true)
	t.Cleanup(func() { // a failed test must not leave goroutines in its bubble
		done, cancel := context.WithCancel(context.Background())
		cancel()
		_ = p.a.member.Leave(done)
		_ = p.b.member.Leave(done)
	})
	return p
}

func newNode(t testing.TB, w *bypasstest.Wire, i byte, six bool) *node {
	n := &node{
		t: t, id: overlay.PeerID{i}, addr: netip.AddrFrom4([4]byte{10, 0, 0, i}), uplink: tap.MAC{2, 0, 0, 0, 1, i},
		mac: tap.MAC{2, 0, 0, 0, 0, i}, ip: netip.AddrFrom4([4]byte{192, 168, 7, i}), ip6: netip.AddrFrom16([16]byte{0xfd, 7, 15: i}), resolves: true,
	}
	addrs, prefixes := []netip.Addr{n.addr}, []netip.Prefix{netip.PrefixFrom(n.addr, 24), netip.MustParsePrefix("fe80::1/64")}
	if six {
		n.addr6 = netip.AddrFrom16([16]byte{0xfd, 10, 15: i})
		addrs, prefixes = append(addrs, n.addr6), append(prefixes, netip.PrefixFrom(n.addr6, 64))
	}
	n.underlay = bypasstest.NewUnderlay(prefixes...)
	n.sw = w.NewSwitch(bypasstest.SwitchConfig{UplinkMAC: n.uplink, Addrs: addrs, Underlay: n.underlay})
	n.sw.AddPort(ofport, n.mac, func(f []byte) { n.mu.Lock(); n.got = append(n.got, f); n.mu.Unlock() })
	n.sw.Tap(func([]byte) { n.mu.Lock(); n.tapped++; n.mu.Unlock() })
	n.sw.Host(func(f []byte) {
		if !isARP(f) && !isND(f) { // that is the host's own business
			n.mu.Lock()
			n.stack = append(n.stack, f)
			n.mu.Unlock()
		}
	})
	return n
}

func (n *node) join() {
	var err error
	n.member, err = n.host.Join(n.t.Context(), bypass.MemberConfig{
		Network: "test", Self: n.id, Policy: bypass.Always, MTU: 1400,
		Resolve: func(f bypass.Flow) (bypass.Ends, bool) {
			n.mu.Lock()
			defer n.mu.Unlock()
			return bypass.Ends{Peer: n.peer.id, Ofport: ofport, LocalMAC: n.mac, RemoteMAC: n.peer.mac},
				n.resolves && (f.Src.Addr() == n.ip && f.Dst.Addr() == n.peer.ip || f.Src.Addr() == n.ip6 && f.Dst.Addr() == n.peer.ip6)
		},
		Send: func(peer overlay.PeerID, msg []byte) bool {
			n.mu.Lock()
			ok, tell := n.linked, n.tell
			n.mu.Unlock()
			if ok {
				if tell != nil {
					tell(msg)
				}
				n.peer.receive(bytes.Clone(msg))
			}
			return ok
		},
		Changed: func(s bypass.Status) {
			if n.changed != nil {
				n.changed(s)
			}
		},
	})
	require.NoError(n.t, err)
	require.NoError(n.t, n.member.Attach(n.t.Context(), bypass.Workload{Ofport: ofport, MAC: n.mac, IPs: []netip.Addr{n.ip, n.ip6}}))
}

// receive is the control session handing over a message, in order, LinkUp first.
func (n *node) receive(msg []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.linked {
		n.inbox = append(n.inbox, msg)
		return
	}
	n.member.Receive(n.peer.id, msg)
}

// link makes or loses the control session between the two.
func (p *pair) link(up bool) {
	for _, n := range []*node{p.a, p.b} {
		n.mu.Lock()
		n.linked = up
		if up {
			n.member.LinkUp(n.peer.id)
		} else {
			n.member.LinkDown(n.peer.id)
		}
		for _, msg := range n.inbox {
			if up {
				n.member.Receive(n.peer.id, msg)
			}
		}
		n.inbox = nil
		n.mu.Unlock()
	}
}

// leave shuts both hosts down and checks that nothing of them is left.
func (p *pair) leave() {
	t := p.a.t
	var wg sync.WaitGroup
	for _, n := range []*node{p.a, p.b} {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			require.NoError(t, n.member.Leave(ctx))
		})
	}
	wg.Wait()
	for _, n := range []*node{p.a, p.b} {
		require.Empty(t, n.sw.Rules())
		require.Empty(t, n.sw.Leases())
		require.Zero(t, len(n.stack), "the host's own stack saw bypassed packets")
		_, guarded, _ := n.underlay.Guarded()
		require.Empty(t, guarded)
		base, set := n.sw.Base()
		if set {
			require.Empty(t, base.Workloads)
			require.Empty(t, base.Hops)
			require.Empty(t, base.Guard)
		}
	}
}

func (n *node) status(f bypass.Flow) bypass.Status {
	s, _ := n.member.Status(f)
	return s
}

// until waits, in virtual time, for ok.
func until(t testing.TB, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for tick := 0; ; tick++ {
		synctest.Wait()
		if ok() {
			return time.Since(start)
		}
		if time.Since(start) > limit {
			t.Fatalf("not within %v: %s", limit, what)

		}
		<-time.After(10 * time.Millisecond)
	}
}

// bypass asks for the flow until both ends have it.
func (p *pair) bypassed(limit time.Duration) time.Duration {
	p.a.t.Helper()
	var last time.Time
	defer func() {
		if p.a.t.Failed() {
			p.a.t.Logf("A: %+v\nB: %+v", p.a.status(p.flow), p.b.status(p.flow))
		}
	}()
	return until(p.a.t, limit, "both ends bypassed", func() bool {
		if time.Since(last) >= time.Second {
			p.a.member.Request(p.flow, bypass.Verdict{Bypass: true, Idle: 20 * time.Second})
			last = time.Now()
			synctest.Wait()
		}
		return p.a.status(p.flow).State == bypass.Bypassed && p.b.status(p.flow).State == bypass.Bypassed
	})
}

func (p *pair) onOverlay(limit time.Duration) time.Duration {
	p.a.t.Helper()
	return until(p.a.t, limit, "both ends on the overlay", func() bool {
		return p.a.status(p.flow).State == bypass.OnOverlay && p.b.status(p.flow).State == bypass.OnOverlay
	})
}

// exchange sends a segment each way and tells how many went natively.
func (p *pair) exchange() (native int) {
	for _, n := range []*node{p.a, p.b} {
		f := p.flow
		if n == p.b {
			f = f.Reverse()
		}
		n.peer.mu.Lock()
		before := len(n.peer.got)
		n.peer.mu.Unlock()
		sent := bypasstest.Packet{SrcMAC: n.mac, DstMAC: n.peer.mac, Flow: f, Flags: bypasstest.FlagACK, Payload: []byte("marker")}
		n.sw.Send(ofport, sent.Frame())
		n.peer.mu.Lock()
		for _, g := range n.peer.got[before:] {
			native++
			back, ok := bypasstest.Parse(g)
			require.True(n.t, ok)
			require.NoError(n.t, bypasstest.CheckSums(g))
			require.Equal(n.t, f, back.Flow)
			require.Equal(n.t, sent.SrcMAC, back.SrcMAC)
			require.Equal(n.t, sent.DstMAC, back.DstMAC)
			require.Equal(n.t, sent.Payload, back.Payload)
		}
		n.peer.mu.Unlock()
	}
	return native
}
