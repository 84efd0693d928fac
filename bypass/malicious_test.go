package bypass_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// trio is a pair, A and B, and a third host M that both members of the network admit
// and A has proven the path to: an authenticated peer. What M says is up to the test.
type trio struct {
	*pair
	m *node

	mu     sync.Mutex
	toB    []bypass.Message // what A said to B, and to M
	toM    []bypass.Message
	mute   bool           // what A says reaches M's own host no more
	hold   bool           // what A says reaches B no more
	fromM  bypass.Message // the last that M's own host said
	round  uint64         // of the proof between A and M
	logged atomic.Int64   // bytes in A's log
}

// newTrio has the flow of the pair bypassed and the path between A and M proven; idM
// says whether M's PeerID is lower than A's. change may alter A's configuration.
func newTrio(t *testing.T, idM byte, change func(*bypass.HostConfig)) *trio {
	tr := &trio{}
	tr.pair = &pair{wire: bypasstest.NewWire()}
	tr.flow = bypass.Flow{Proto: bypass.TCP, Src: netip.MustParseAddrPort("192.168.7.5:40000"), Dst: netip.MustParseAddrPort("192.168.7.6:80")}
	tr.a, tr.b, tr.m = newNode(t, tr.wire, 5, false), newNode(t, tr.wire, 6, false), newNode(t, tr.wire, idM, false)
	tr.a.peer, tr.b.peer, tr.m.peer = tr.b, tr.a, tr.a
	nodes := []*node{tr.a, tr.b, tr.m}
	for _, n := range nodes {
		for _, o := range nodes {
			if n != o {
				n.underlay.SetRoute(o.addr, bypass.Route{Local: n.addr, Src: n.uplink, Via: o.addr, NextHop: o.uplink, OnLink: true, MTU: 1500})
			}
		}
		cfg := bypass.HostConfig{Datapath: n.sw.Open, Underlay: n.underlay}
		if n == tr.a {
			cfg.Logger = countLog(&tr.logged)
			if change != nil {
				change(&cfg)
			}
		}
		var err error
		n.host, err = bypass.NewHost(cfg)
		require.NoError(t, err)
		tr.join(n)
	}
	t.Cleanup(func() {
		done, cancel := context.WithCancel(context.Background())
		cancel()
		for _, n := range nodes {
			_ = n.member.Leave(done)
		}
	})
	for _, l := range [][2]*node{{tr.a, tr.b}, {tr.b, tr.a}, {tr.a, tr.m}, {tr.m, tr.a}} {
		l[0].linked = true
		l[0].member.LinkUp(l[1].id)
	}
	until(t, 10*time.Second, "A and M are proven", func() bool {
		r, _ := tr.a.member.PathTo(t.Context(), tr.m.id, bypass.IPv4)
		q, _ := tr.m.member.PathTo(t.Context(), tr.a.id, bypass.IPv4)
		return r == bypass.ReasonNone && q == bypass.ReasonNone
	})
	tr.bypassed(10 * time.Second)
	return tr
}

func (tr *trio) join(n *node) {
	var err error
	n.member, err = n.host.Join(n.t.Context(), bypass.MemberConfig{
		Network: "test", Self: n.id, Policy: bypass.Always, MTU: 1400,
		Resolve: func(f bypass.Flow) (bypass.Ends, bool) {
			for _, o := range []*node{tr.a, tr.b, tr.m} {
				if o != n && f.Dst.Addr() == o.ip && f.Src.Addr() == n.ip {
					return bypass.Ends{Peer: o.id, Ofport: ofport, LocalMAC: n.mac, RemoteMAC: o.mac}, true
				}
			}
			return bypass.Ends{}, false
		},
		Send:    func(to overlay.PeerID, msg []byte) bool { tr.carry(n, to, bytes.Clone(msg)); return true },
		Changed: func(bypass.Status) {},
	})
	require.NoError(n.t, err)
	require.NoError(n.t, n.member.Attach(n.t.Context(), bypass.Workload{Ofport: ofport, MAC: n.mac, IPs: []netip.Addr{n.ip}}))
}

// carry is the links between the three.
func (tr *trio) carry(from *node, to overlay.PeerID, b []byte) {
	m, err := bypass.Decode(b)
	require.NoError(from.t, err)
	tr.mu.Lock()
	held := false
	switch {
	case from == tr.m:
		tr.fromM = m
		if m.Kind == bypass.MsgResult {
			tr.round = m.ID
		}
		held = tr.mute
	case from == tr.a && to == tr.m.id:
		tr.toM = append(tr.toM, m)
		held = tr.mute
	case from == tr.a:
		tr.toB = append(tr.toB, m)
		held = tr.hold
	}
	tr.mu.Unlock()
	for _, n := range []*node{tr.a, tr.b, tr.m} {
		if n.id == to && !held {
			n.member.Receive(from.id, b)
		}
	}
}

// forge is M saying m to A, of its own run unless m names another.
func (tr *trio) forge(m bypass.Message) {
	tr.mu.Lock()
	if m.Epoch == 0 {
		m.Epoch = tr.fromM.Epoch
	}
	if m.PeerEpoch == 0 {
		m.PeerEpoch = tr.fromM.PeerEpoch
	}
	tr.mu.Unlock()
	b, err := bypass.Encode(m)
	require.NoError(tr.m.t, err)
	tr.a.member.Receive(tr.m.id, b)
}

// answers is what A has said to M, or to B, since it was asked last.
func (tr *trio) answers(from *[]bypass.Message) []bypass.Message {
	synctest.Wait()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	said := *from
	*from = nil
	return said
}

// silence ends the say of M's own host: from now on only the test speaks for it.
func (tr *trio) silence() {
	tr.answers(&tr.toM)
	tr.mu.Lock()
	tr.mute = true
	tr.mu.Unlock()
}

// offer is an Offer that A takes.
func (tr *trio) offer(id uint64, port uint16) bypass.Message {
	return bypass.Message{Kind: bypass.MsgOffer, ID: id, Proto: bypass.TCP, Proof: tr.round,
		Src: netip.AddrPortFrom(tr.m.ip, port), Dst: netip.AddrPortFrom(tr.a.ip, 80), SrcMAC: tr.m.mac, DstMAC: tr.a.mac,
		Local: netip.AddrPortFrom(tr.m.addr, 61500), Remote: netip.AddrPortFrom(tr.a.addr, 61501)}
}

// unharmed fails the test when anything between A and B has suffered, or when A's
// switch has a rule for M that is not M's to have.
func (tr *trio) unharmed(what string) {
	t := tr.a.t
	t.Helper()
	require.Equal(t, bypass.Bypassed, tr.a.status(tr.flow).State, what)
	require.Equal(t, 2, tr.exchange(), what)
	require.Empty(t, tr.a.stack, what)
	for _, r := range tr.a.sw.Rules() {
		if r.Rule.Direction == bypass.Listen {
			continue
		}
		o := tr.b
		if r.Rule.Remote.Addr() == tr.m.addr {
			o = tr.m
		}
		require.Equal(t, []any{o.addr, tr.a.addr, o.mac, tr.a.mac, tr.a.ip, o.ip, uint32(ofport)},
			[]any{r.Rule.Remote.Addr(), r.Rule.Local.Addr(), r.Rule.RemoteMAC, r.Rule.LocalMAC, r.Rule.Flow.Src.Addr(),
				r.Rule.Flow.Dst.Addr(), r.Rule.Ofport}, "%s: %v", what, r.Rule)
		for _, p := range []netip.AddrPort{r.Rule.Local, r.Rule.Remote} {
			require.True(t, bypass.DefaultPorts.Contains(p.Port()) && p.Port() < 65280, "%s: port %d", what, p.Port())
		}
	}
}

// rulesFor counts A's rules towards M.
func (tr *trio) rulesFor(n *node) (count int) {
	for _, r := range tr.a.sw.Rules() {
		if r.Rule.Direction != bypass.Listen && r.Rule.Remote.Addr() == n.addr {
			count++
		}
	}
	return count
}

// Offers of a peer that lies about endpoints, addresses, ports, proof or run.
func TestForgedOffers(t *testing.T) {
	for _, id := range []byte{1, 9} { // M is the lower end, or the higher
		synctest.Test(t, func(t *testing.T) {
			tr := newTrio(t, id, nil)
			tr.silence()
			at := func(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }
			for i, c := range []struct {
				what string
				lie  func(*bypass.Message)
			}{
				{"speaks for B's workload", func(m *bypass.Message) { m.Src, m.SrcMAC = at(tr.b.ip, 4000), tr.b.mac }},
				{"speaks for B's workload, own MAC", func(m *bypass.Message) { m.Src = at(tr.b.ip, 4000) }},
				{"takes over the live flow", func(m *bypass.Message) {
					m.Src, m.Dst, m.SrcMAC = tr.flow.Dst, tr.flow.Src, tr.b.mac
				}},
				{"speaks for our own workload", func(m *bypass.Message) { m.Src, m.SrcMAC = at(tr.a.ip, 4000), tr.a.mac }},
				{"to a workload that is not here", func(m *bypass.Message) { m.Dst, m.DstMAC = at(tr.b.ip, 80), tr.b.mac }},
				{"to our host", func(m *bypass.Message) { m.Dst, m.DstMAC = at(tr.a.addr, 22), tr.a.uplink }},
				{"from our host", func(m *bypass.Message) { m.Src = at(tr.a.addr, 22) }},
				{"with B's MAC", func(m *bypass.Message) { m.SrcMAC = tr.b.mac }},
				{"to another MAC", func(m *bypass.Message) { m.DstMAC = tap.MAC{255, 255, 255, 255, 255, 255} }},
				{"from B's underlay address", func(m *bypass.Message) { m.Local = at(tr.b.addr, 61500) }},
				{"from our underlay address", func(m *bypass.Message) { m.Local = at(tr.a.addr, 61500) }},
				{"from a public address", func(m *bypass.Message) { m.Local = netip.MustParseAddrPort("8.8.8.8:61500") }},
				{"to another underlay address", func(m *bypass.Message) { m.Remote = at(netip.MustParseAddr("10.0.0.77"), 0) }},
				{"port of SSH", func(m *bypass.Message) { m.Local = at(tr.m.addr, 22) }},
				{"port 0", func(m *bypass.Message) { m.Local = at(tr.m.addr, 0) }},
				{"port below the range", func(m *bypass.Message) { m.Local = at(tr.m.addr, 61439) }},
				{"port of probes", func(m *bypass.Message) { m.Local = at(tr.m.addr, 65300) }},
				{"another proof", func(m *bypass.Message) { m.Proof++ }},
				{"no proof", func(m *bypass.Message) { m.Proof = 0 }},
				{"to another run of ours", func(m *bypass.Message) { m.PeerEpoch = 12345 }},
				{"ICMP", func(m *bypass.Message) { m.Proto = 1 }},
				{"no addresses", func(m *bypass.Message) { m.Src, m.Dst = netip.AddrPort{}, netip.AddrPort{} }},
				{"IPv6", func(m *bypass.Message) { m.Local = netip.MustParseAddrPort("[fd00::1]:61500") }},
			} {
				m := tr.offer(uint64(1000+i), uint16(41000+i))
				c.lie(&m)
				tr.forge(m)
				for _, said := range tr.answers(&tr.toM) {
					require.NotEqual(t, bypass.MsgAccept, said.Kind, c.what)
				}
				require.Zero(t, tr.rulesFor(tr.m), c.what)
				tr.unharmed(c.what)
			}
			tr.replays()
		})
	}
}

// replays says true things again, or in the place of others.
func (tr *trio) replays() {
	t := tr.a.t
	honest := tr.offer(1, 40001)
	tr.forge(honest) // an honest one is taken
	require.Equal(t, bypass.MsgAccept, tr.answers(&tr.toM)[0].Kind)
	require.Equal(t, 1, tr.rulesFor(tr.m))
	tr.forge(honest) // replayed
	again := tr.offer(1, 40002)
	tr.forge(again) // its transaction for another flow
	for _, said := range tr.answers(&tr.toM) {
		require.Equal(t, bypass.MsgReject, said.Kind)
	}
	require.Equal(t, 1, tr.rulesFor(tr.m))
	tr.unharmed("replays")
	tr.forge(bypass.Message{Kind: bypass.MsgConfirm, ID: 1}) // it says it has installed its own: only now
	synctest.Wait()
	require.Equal(t, 2, tr.rulesFor(tr.m))
	tr.forge(bypass.Message{Kind: bypass.MsgConfirm, ID: 1})
	synctest.Wait()
	require.Equal(t, 2, tr.rulesFor(tr.m))
	tr.forge(bypass.Message{Kind: bypass.MsgWant, Epoch: 4711}) // another run of M knows nothing of the old
	pass(3 * time.Second)
	require.Zero(t, tr.rulesFor(tr.m))
	tr.unharmed("a new run")
}

// Answers of a peer to what was not said to it, and false ones to what was.
func TestForgedAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTrio(t, 9, nil)
		tr.silence()
		live := tr.a.status(tr.flow)
		var ids []uint64
		for _, said := range tr.answers(&tr.toB) {
			if said.Kind == bypass.MsgOffer || said.Kind == bypass.MsgAccept {
				ids = append(ids, said.ID)
			}
		}
		require.NotEmpty(t, ids)
		for kind := range bypass.MsgSync + 2 { // of a transaction between A and B
			if kind == bypass.MsgOffer {
				continue // which would be M's own
			}
			m := tr.offer(ids[0], 4000)
			m.Kind, m.IDs = kind, ids
			m.Remote = live.Local
			tr.forge(m)
			synctest.Wait()
			tr.unharmed(fmt.Sprint("another's transaction, ", kind))
		}
		require.Equal(t, live, tr.a.status(tr.flow))
		tr.answers(&tr.toB)

		tr.mu.Lock()
		tr.hold = true // B does not get A's next Offer
		tr.mu.Unlock()
		other := tr.flow
		other.Src = netip.AddrPortFrom(tr.a.ip, 40009)
		tr.a.member.Request(other, bypass.Verdict{Bypass: true})
		offered := tr.answers(&tr.toB)[0]
		require.Equal(t, bypass.MsgOffer, offered.Kind)
		accept := tr.offer(offered.ID, 80)
		accept.Kind, accept.Src, accept.Dst = bypass.MsgAccept, other.Dst, other.Src
		accept.Remote = offered.Local
		tr.forge(accept)
		synctest.Wait()
		require.Zero(t, tr.rulesFor(tr.m))
		require.Equal(t, bypass.Moving, tr.a.status(other).State, "it waits for B")
		tr.mu.Lock()
		tr.hold = false
		tr.mu.Unlock()

		tr.falseAccepts()
	})
}

// falseAccepts answer A's Offers to M.
func (tr *trio) falseAccepts() {
	t := tr.a.t
	for i, lie := range []func(*bypass.Message){
		func(m *bypass.Message) { m.Local = netip.AddrPortFrom(tr.m.addr, 22) },
		func(m *bypass.Message) { m.Local = netip.AddrPortFrom(tr.m.addr, 65300) },
		func(m *bypass.Message) { m.Local = netip.AddrPortFrom(tr.b.addr, 61500) },
		func(m *bypass.Message) { m.Local = netip.MustParseAddrPort("8.8.8.8:61500") },
		func(m *bypass.Message) { m.Remote = netip.AddrPortFrom(tr.a.addr, 22) },
		func(m *bypass.Message) { m.Remote = netip.AddrPortFrom(tr.b.addr, m.Remote.Port()) },
	} {
		f := bypass.Flow{Proto: bypass.TCP, Src: netip.AddrPortFrom(tr.a.ip, uint16(42000+i)), Dst: netip.AddrPortFrom(tr.m.ip, 80)}
		tr.answers(&tr.toM)
		tr.a.member.Request(f, bypass.Verdict{Bypass: true})
		o := tr.answers(&tr.toM)[0]
		require.Equal(t, bypass.MsgOffer, o.Kind)
		m := bypass.Message{Kind: bypass.MsgAccept, ID: o.ID, Proto: bypass.TCP, Src: f.Dst, Dst: f.Src, SrcMAC: o.DstMAC, DstMAC: o.SrcMAC,
			Local: netip.AddrPortFrom(tr.m.addr, 61500), Remote: o.Local}
		lie(&m)
		tr.forge(m)
		synctest.Wait()
		require.Equal(t, bypass.OnOverlay, tr.a.status(f).State, i)
		require.Zero(t, tr.rulesFor(tr.m), i)
	}
	tr.unharmed("false Accepts")
}
