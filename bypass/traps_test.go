package bypass_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
)

// Traps of docs/traps.md that no other test shows.

// Behind 1:1 NAT (trap 2) the overlay may know a host by a public address. It does not
// count: each end offers, and the other probes, the uplink's own private address, also
// where the uplink has a public one too.
func TestPrivateAddressIsProbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		public := netip.MustParsePrefix("203.0.113.0/24")
		p := newPair(t, func(i int, c *bypass.HostConfig) {
			own := netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})
			u := c.Underlay.(*bypasstest.Underlay)
			u.SetAddrs(netip.PrefixFrom(public.Addr().Next(), 24), netip.PrefixFrom(own, 24))
		})
		p.bypassed(time.Second)
		require.Equal(t, 2, p.exchange())
		p.mu.Lock()
		defer p.mu.Unlock()
		require.NotEmpty(t, p.seen)
		for _, f := range p.seen {
			w, ok := bypasstest.Parse(f)
			require.True(t, ok)
			require.False(t, public.Contains(w.Flow.Src.Addr()) || public.Contains(w.Flow.Dst.Addr()), "%v", w.Flow)
		}
	})
}

// Two nodes on one host, which have one underlay address (trap 5): nothing of theirs
// leaves by the uplink, not even a probe.
func TestOneUnderlayAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := netip.MustParseAddr("10.0.0.9")
		p := newPair(t, func(_ int, c *bypass.HostConfig) {
			u := c.Underlay.(*bypasstest.Underlay)
			u.SetAddrs(netip.PrefixFrom(shared, 24))
			u.SetRoute(shared, bypass.Route{Local: shared, NextHop: [6]byte{2, 9}, OnLink: true, MTU: 1500})
		})
		for range 2 { // it is tried again
			p.a.member.Request(p.flow, bypass.Always(bypass.Request{}))
			p.b.member.Request(p.flow.Reverse(), bypass.Always(bypass.Request{}))
			pass(9 * time.Second)
		}
		require.Zero(t, p.exchange())
		for _, n := range []*node{p.a, p.b} {
			require.Equal(t, bypass.ReasonSameHost.String(), n.status(p.flow).Reason.String())
		}
		require.Empty(t, p.seen, "on the wire")
		p.leave()
	})
}

// A five-tuple is used again (trap 14). While its bypass is live a new connection runs
// over it from its SYN on; the guests' TCP, not ours, says whether it may be opened.
// Afterwards it is a transaction like any other, between other ports.
func TestFiveTupleIsUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.bypassed(time.Second)
		first := p.a.status(p.flow)
		for _, flags := range []byte{bypasstest.FlagFIN | bypasstest.FlagACK, bypasstest.FlagRST, bypasstest.FlagSYN} {
			tapped, got := p.a.tapped, len(p.b.got)
			p.a.sw.Send(ofport, bypasstest.Packet{SrcMAC: p.a.mac, DstMAC: p.b.mac, Flow: p.flow, Flags: flags}.Frame())
			require.Equal(t, got+1, len(p.b.got), "flags %#x", flags)
			require.Equal(t, tapped, p.a.tapped)
			p.a.member.Request(p.flow, bypass.Verdict{Bypass: true}) // as for each SYN
			p.b.member.Request(p.flow.Reverse(), bypass.Verdict{Bypass: true})
			synctest.Wait()
		}
		require.Equal(t, 2, p.exchange())
		pass(5 * time.Second)
		require.Equal(t, first, p.a.status(p.flow), "the same bypass")
		require.Len(t, flowRules(p.a), 2)

		p.onOverlay(120 * time.Second) // nobody has said anything for long
		p.bypassed(5 * time.Second)
		again := p.a.status(p.flow)
		require.NotEqual(t, [2]netip.AddrPort{first.Local, first.Remote}, [2]netip.AddrPort{again.Local, again.Remote})
		require.Equal(t, 2, p.exchange())
		require.Len(t, flowRules(p.a), 2, "nothing of the first one is left")
		p.leave()
	})
}

// flowRules are a switch's rules for flows.
func flowRules(n *node) (rules []bypass.RuleStat) {
	for _, r := range n.sw.Rules() {
		if r.Rule.Direction != bypass.Listen {
			rules = append(rules, r)
		}
	}
	return rules
}

// A flow that moves while it sends (trap 17) loses nothing, either way. On the way to
// the faster path those packets are overtaken that were under way on the slower one:
// those sent in the time by which it is slower. On the way back none are.
func TestOrderAtTheSwitchOver(t *testing.T) {
	const (
		overlay, native, every = 5 * time.Millisecond, 500 * time.Microsecond, time.Millisecond
		packets, back          = 3000, 2000
		bound                  = int((overlay - native + every - 1) / every)
	)
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.wire.Delay(native)
		p.a.sw.Tap(func(f []byte) {
			f = bytes.Clone(f)
			time.AfterFunc(overlay, func() { p.b.sw.FromTap(f) })
		})
		moved := 0 // the first packet that went natively
		p.wire.Tap(func(f []byte) {
			if w, ok := bypasstest.Parse(f); ok && moved == 0 && len(w.Payload) == 8 {
				moved = int(binary.BigEndian.Uint64(w.Payload))
			}
		})
		for i := 1; i <= packets; i++ {
			switch i {
			case 500:
				p.a.member.Request(p.flow, bypass.Verdict{Bypass: true})
			case back:
				p.a.member.SetPolicy(bypass.Never)
			}
			f := bypasstest.Packet{SrcMAC: p.a.mac, DstMAC: p.b.mac, Flow: p.flow, Flags: bypasstest.FlagACK,
				Payload: binary.BigEndian.AppendUint64(nil, uint64(i))}
			p.a.sw.Send(ofport, f.Frame())
			<-time.After(every)
		}
		pass(time.Second)
		require.True(t, moved >= 500 && moved < back, "it moved at packet %d", moved)
		p.b.mu.Lock()
		defer p.b.mu.Unlock()
		require.Len(t, p.b.got, packets, "each arrives once")
		newest := 0
		for _, f := range p.b.got {
			w, ok := bypasstest.Parse(f)
			require.True(t, ok)
			n := int(binary.BigEndian.Uint64(w.Payload))
			if n < newest {
				require.True(t, n < moved && n >= moved-bound, "packet %d came after %d; the flow moved at %d", n, newest, moved)
			}
			newest = max(newest, n)
		}
		t.Logf("moved at packet %d; at most %d are overtaken", moved, bound)
	})
}

// A firewall lets in what answers something that went out (trap 3). Each end's probes
// have ports of their own, so those of one end open no way for the other's, which a
// guest's SYN would not find.
func TestProbesPunchNoHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.link(false)
		p.a.member.Forget(p.b.id)
		p.b.member.Forget(p.a.id)
		synctest.Wait()
		var mu sync.Mutex // both hosts' workers send
		opened := map[bypass.Flow]bool{}
		p.wire.Drop(func(w bypasstest.Packet) bool {
			mu.Lock()
			defer mu.Unlock()
			if w.Flow.Src.Addr() == p.a.addr {
				opened[w.Flow] = true
				return false
			}
			return !opened[w.Flow.Reverse()]
		})
		p.link(true)
		for range 3 {
			p.a.member.Request(p.flow, bypass.Always(bypass.Request{}))
			pass(9 * time.Second)
			for _, n := range []*node{p.a, p.b} {
				r, _ := n.member.PathTo(t.Context(), n.peer.id, bypass.IPv4)
				require.NotEqual(t, bypass.ReasonNone, r)
			}
		}
		mu.Lock()
		require.NotEmpty(t, opened)
		mu.Unlock()
		require.Zero(t, p.exchange())
		p.wire.Drop(nil)
		p.bypassed(40 * time.Second)
		p.leave()
	})
}

// A host gets another underlay address while a flow is bypassed (trap 4): the flow
// leaves, and comes back between the new addresses.
func TestUnderlayAddressChanges(t *testing.T) {
	for i := range 2 { // the lower end, which starts rounds of proof, or the higher
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t, nil)
			p.bypassed(time.Second)
			n := []*node{p.a, p.b}[i]
			fresh := netip.AddrFrom4([4]byte{10, 0, 0, 77})
			there, err := n.peer.underlay.Route(t.Context(), n.addr)
			require.NoError(t, err)
			there.Via = fresh
			n.peer.underlay.SetRoute(fresh, there)
			back, err := n.underlay.Route(t.Context(), n.peer.addr)
			require.NoError(t, err)
			back.Local = fresh
			n.underlay.SetRoute(n.peer.addr, back)
			n.underlay.SetAddrs(netip.PrefixFrom(fresh, 24))
			until(t, time.Second, "it leaves", func() bool { return n.status(p.flow).State != bypass.Bypassed })
			p.bypassed(20 * time.Second)
			require.Equal(t, 2, p.exchange())
			require.Equal(t, fresh, n.status(p.flow).Local.Addr())
			require.Equal(t, fresh, n.peer.status(p.flow).Remote.Addr())
			p.leave()
		})
	}
}

// An Offer that comes when its sender has closed it already (trap 10) leaves nothing.
func TestCloseBeforeOffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTrio(t, 1, nil)
		tr.answers(&tr.toM)
		tr.forge(bypass.Message{Kind: bypass.MsgClose, ID: 77})
		require.Len(t, tr.answers(&tr.toM), 1, "a Close is always answered")
		tr.forge(tr.offer(77, 41000)) // of which M's own host knows nothing any more
		synctest.Wait()
		said := tr.answers(&tr.toM)
		require.NotEmpty(t, said)
		require.Equal(t, bypass.MsgAccept, said[0].Kind)
		pass(5 * time.Second)
		require.Zero(t, tr.rulesFor(tr.m))
		tr.unharmed("a Close before its Offer")
	})
}
