package bypass_test

import (
	"bytes"
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/overlay"
)

// secondPort is the port of the workload of another Network on the same host.
const secondPort = ofport + 1

// joinOn makes n's Network a member of its host with a workload at port.
func (n *node) joinOn(network string, port uint32) {
	var err error
	n.member, err = n.host.Join(n.t.Context(), bypass.MemberConfig{
		Network: network, Self: n.id, Policy: bypass.Always, MTU: 1400,
		Resolve: func(f bypass.Flow) (bypass.Ends, bool) {
			return bypass.Ends{Peer: n.peer.id, Ofport: port, LocalMAC: n.mac, RemoteMAC: n.peer.mac},
				f.Src.Addr() == n.ip && f.Dst.Addr() == n.peer.ip
		},
		Send:    func(_ overlay.PeerID, msg []byte) bool { n.peer.receive(bytes.Clone(msg)); return true },
		Changed: func(bypass.Status) {},
	})
	require.NoError(n.t, err)
	require.NoError(n.t, n.member.Attach(n.t.Context(), bypass.Workload{Ofport: port, MAC: n.mac, IPs: []netip.Addr{n.ip}}))
}

// second is another Network of p's two hosts, whose workloads have the MACs, the
// addresses and the ports of p's.
func (p *pair) second() *pair {
	q := &pair{wire: p.wire, flow: p.flow}
	nodes := [2]*node{}
	for i, n := range []*node{p.a, p.b} {
		m := &node{t: n.t, id: overlay.PeerID{byte(11 + i)}, addr: n.addr, uplink: n.uplink, mac: n.mac, ip: n.ip,
			sw: n.sw, underlay: n.underlay, host: n.host}
		m.sw.AddPort(secondPort, m.mac, func(f []byte) { m.mu.Lock(); m.got = append(m.got, f); m.mu.Unlock() })
		nodes[i] = m
	}
	q.a, q.b = nodes[0], nodes[1]
	q.a.peer, q.b.peer = q.b, q.a
	q.a.joinOn("two", secondPort)
	q.b.joinOn("two", secondPort)
	q.link(true)
	n := p.a
	n.t.Cleanup(func() {
		done, cancel := context.WithCancel(context.Background())
		cancel()
		_, _ = q.a.member.Leave(done), q.b.member.Leave(done)
	})
	return q
}

// say sends one segment each way from port to port and tells how many arrived natively.
func (p *pair) say(port uint32, text string) (native int) {
	for _, n := range []*node{p.a, p.b} {
		f := p.flow
		if n == p.b {
			f = f.Reverse()
		}
		n.peer.mu.Lock()
		before := len(n.peer.got)
		n.peer.mu.Unlock()
		n.sw.Send(port, bypasstest.Packet{SrcMAC: n.mac, DstMAC: n.peer.mac, Flow: f, Flags: bypasstest.FlagACK, Payload: []byte(text)}.Frame())
		n.peer.mu.Lock()
		native += len(n.peer.got) - before
		n.peer.mu.Unlock()
	}
	return native
}

// heard fails the test when a workload of p got anything but what was said in its own
// Network.
func (p *pair) heard(text string) {
	for _, n := range []*node{p.a, p.b} {
		n.mu.Lock()
		for _, f := range n.got {
			s, ok := bypasstest.Parse(f)
			require.True(n.t, ok)
			require.Equal(n.t, text, string(s.Payload), "a workload heard another Network")
		}
		n.mu.Unlock()
	}
}

// Two Networks of the same two hosts, whose workloads have the same MACs and addresses
// and use the same five-tuple, stay apart; and what one of them loses the other keeps.
func TestTwoNetworksOnOneHost(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, q *pair){
		"one leaves": func(t *testing.T, q *pair) {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			go func() { _ = q.b.member.Leave(ctx) }()
			require.NoError(t, q.a.member.Leave(ctx))
		},
		"one is told to leave and cannot": func(t *testing.T, q *pair) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			require.Error(t, q.a.member.Leave(ctx))
		},
		"one forgets its peer": func(_ *testing.T, q *pair) { q.a.member.Forget(q.b.id) },
		"one's peer restarts":  func(_ *testing.T, q *pair) { q.a.restarted(q.b) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, nil)
				q := p.second()
				p.bypassed(time.Second)
				q.bypassed(time.Second)
				a, b := p.a.status(p.flow), q.a.status(q.flow)
				require.NotEqual(t, [2]netip.AddrPort{a.Local, a.Remote}, [2]netip.AddrPort{b.Local, b.Remote})
				for range 100 {
					require.Equal(t, 2, p.say(ofport, "one"))
					require.Equal(t, 2, q.say(secondPort, "two"))
					pass(100 * time.Millisecond)
				}
				done := make(chan struct{})
				go func() { defer close(done); end(t, q) }()
				for i := range 200 {
					require.Equal(t, 2, p.say(ofport, "one"), "after %d ms", 50*i)
					q.say(secondPort, "two")
					pass(50 * time.Millisecond)
				}
				<-done
				require.Equal(t, bypass.Bypassed, p.a.status(p.flow).State)
				p.heard("one")
				q.heard("two")
			})
		})
	}
}

// Proofs of one host never listen on one port, so that none can take it from another,
// by chance or by starting anew until it happens.
func TestProofsListenApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		q := p.second()
		for i := range 150 {
			until(t, time.Minute, "both are proven", func() bool {
				a, _ := p.a.member.PathTo(t.Context(), p.b.id, bypass.IPv4)
				b, _ := q.a.member.PathTo(t.Context(), q.b.id, bypass.IPv4)
				return a == bypass.ReasonNone && b == bypass.ReasonNone
			})
			for _, n := range []*node{p.a, p.b} {
				require.Len(t, listening(n), 8, "round %d", i) // two ports, UDP and TCP, of two Networks
			}
			q.a.restarted(q.b)
			synctest.Wait()
		}
	})
}

// listening lists where a host's probes are answered.
func listening(n *node) (at []bypass.Rule) {
	for _, r := range n.sw.Rules() {
		if r.Rule.Direction == bypass.Listen {
			at = append(at, r.Rule)
		}
	}
	return at
}

// restarted tells n's host that peer runs anew.
func (n *node) restarted(peer *node) {
	b, err := bypass.Encode(bypass.Message{Kind: bypass.MsgWant, Epoch: 7})
	require.NoError(n.t, err)
	n.member.Receive(peer.id, b)
}
