package bypass_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
)

func TestPathNotProven(t *testing.T) {
	none := netip.Addr{}
	for name, c := range map[string]struct {
		spoil  func(p *pair)
		change func(i int, c *bypass.HostConfig)
		want   bypass.Reason
	}{
		"nat": {spoil: func(p *pair) {
			p.wire.Mangle(func(f []byte) []byte { // B sees A by another address
				w, ok := bypasstest.Parse(f)
				if !ok || w.Flow.Src.Addr() != p.at(p.a) {
					return f
				}
				w.Flow.Src = netip.AddrPortFrom(p.at(p.a).Next().Next().Next(), w.Flow.Src.Port())
				return append([]byte(nil), remake(f, w)...)
			})
		}, want: bypass.ReasonProofNAT},
		"a router":     {spoil: func(p *pair) { p.wire.Hops(1) }, want: bypass.ReasonProofHops},
		"no tcp":       {spoil: func(p *pair) { p.wire.Block(none, none, bypass.TCP) }, want: bypass.ReasonProofTCP},
		"no tcp to A":  {spoil: func(p *pair) { p.wire.Block(p.at(p.b), p.at(p.a), bypass.TCP) }, want: bypass.ReasonProofTCP},
		"nothing":      {spoil: func(p *pair) { p.wire.Block(none, none, 0) }, want: bypass.ReasonProofTimeout},
		"no syn":       {spoil: func(p *pair) { p.wire.Drop(func(w bypasstest.Packet) bool { return w.Flags&bypasstest.FlagSYN != 0 }) }, want: bypass.ReasonProofTCP},
		"too slow":     {spoil: func(p *pair) { p.wire.Delay(5 * time.Millisecond) }, want: bypass.ReasonProofRTT},
		"too narrow":   {spoil: func(p *pair) { p.wire.MTU(1000) }, want: bypass.ReasonMTU},
		"other domain": {change: func(i int, c *bypass.HostConfig) { c.Trust.Domain = fmt.Sprint(i) }, want: bypass.ReasonDomain},
		"outside trust": {change: func(i int, c *bypass.HostConfig) {
			c.Trust.Prefixes = []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/32", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd0a::%d/128", i+1))}
		}, want: bypass.ReasonUntrusted},
		"no route":         {spoil: func(p *pair) { p.b.underlay.DropRoute(p.at(p.a)) }, want: bypass.ReasonNoRoute},
		"a stack answers":  {spoil: func(p *pair) { resetBy(p) }, want: bypass.ReasonHostStack},
		"no guard":         {spoil: func(p *pair) { p.b.underlay.FailGuard(errors.New("no nft")) }, want: bypass.ReasonGuard},
		"the switch fails": {spoil: func(p *pair) { p.b.sw.FailNext(1000) }, want: bypass.ReasonSwitch},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, f bypass.Family) {
				p := newPairWith(t, [2]bool{f == bypass.IPv6, f == bypass.IPv6}, c.change)
				p.turn(bypass.TCP, f)
				if c.spoil != nil { // proven once, then spoiled: withdrawn, and not proven again
					c.spoil(p)
					p.link(false)
					p.a.member.Forget(p.b.id)
					p.b.member.Forget(p.a.id)
					synctest.Wait()
					p.link(true)
				}
				p.a.member.Request(p.flow, bypass.Verdict{Bypass: true})
				<-time.After(10 * time.Second)
				synctest.Wait()
				p.a.member.Request(p.flow, bypass.Verdict{Bypass: true})
				synctest.Wait()
				require.Zero(t, p.exchange())
				require.Equal(t, c.want.String(), p.a.status(p.flow).Reason.String())
				require.NotEmpty(t, p.a.status(p.flow).Reason.String())
				for _, f := range p.seen {
					require.NotContains(t, string(f), "marker")
				}
				p.b.sw.FailNext(0)
				p.b.underlay.FailGuard(nil)
				p.leave()
			})
		})
	}
}

// remake is frame f with the addresses of w.
func remake(f []byte, w bypasstest.Packet) []byte {
	out := w.Frame()
	if at := 22; bypass.FamilyOf(w.Flow.Src.Addr()) == bypass.IPv4 { // TTL
		out[at] = f[at]
	} else {
		out[at-1] = f[at-1]
	}
	return out
}

// resetBy has B's own stack answer A's SYNs with RST, as a kernel does that sees them.
func resetBy(p *pair) {
	w := p.wire
	w.Tap(func(f []byte) {
		s, ok := bypasstest.Parse(f)
		if !ok || s.Flags&bypasstest.FlagSYN == 0 || s.Flags&bypasstest.FlagACK != 0 || s.Flow.Src.Addr() != p.at(p.a) {
			return
		}
		w.Send(bypasstest.Packet{SrcMAC: p.b.uplink, DstMAC: p.a.uplink, Flow: s.Flow.Reverse(), Flags: bypasstest.FlagRST | bypasstest.FlagACK, Ack: s.Seq + 1}.Frame())
	})
}

// A path that failed for long is tried as often after a new link as a new one.
func TestNewLinkStartsAfresh(t *testing.T) {
	eachKind(t, func(t *testing.T, p *pair) {
		p.bypassed(time.Second)
		p.wire.Block(p.at(p.a), p.at(p.b), 0)
		p.onOverlay(70 * time.Second)
		<-time.After(time.Minute)
		p.link(false)
		p.link(true)
		<-time.After(3500 * time.Millisecond) // a round is lost
		p.wire.Unblock(p.at(p.a), p.at(p.b), 0)
		require.LessOrEqual(t, p.bypassed(40*time.Second), 5*time.Second)
		p.leave()
	})
}

func TestPathLostAndFound(t *testing.T) {
	for _, proto := range []bypass.Proto{0, bypass.TCP, bypass.UDP} {
		eachKind(t, func(t *testing.T, p *pair) {
			p.bypassed(time.Second)
			p.wire.Block(p.at(p.a), p.at(p.b), proto)
			lost := until(t, 5*time.Second, "native packets stop", func() bool {
				before := p.a.tapped
				p.exchange()
				return p.a.tapped > before
			})
			require.LessOrEqual(t, lost, 3*time.Second, "traffic must be on the overlay again within 3 s")
			p.onOverlay(70 * time.Second)
			p.wire.Unblock(p.at(p.a), p.at(p.b), proto)
			p.bypassed(40 * time.Second)
			require.Equal(t, 2, p.exchange())
			p.leave()
		})
	}
}
