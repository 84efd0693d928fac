package bypass_test

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
)

// An end that has no address to offer says so, to its peer too, and goes on once it has
// one.
func TestNoAddressToOffer(t *testing.T) {
	elsewhere := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	for _, ends := range [][]int{{0}, {1}, {0, 1}} {
		for _, want := range []bypass.Reason{bypass.ReasonUntrusted, bypass.ReasonNoRoute} {
			if want == bypass.ReasonNoRoute && ends[0] == 1 {
				continue // this underlay has routes without an address, and needs none to answer
			}
			t.Run(fmt.Sprint(ends, want), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newPair(t, func(i int, c *bypass.HostConfig) {
						for _, end := range ends {
							if end == i && want == bypass.ReasonUntrusted {
								c.Trust.Prefixes = elsewhere
							}
							if end == i && want == bypass.ReasonNoRoute {
								c.Underlay.(*bypasstest.Underlay).SetAddrs()
							}
						}
					})
					for range 2 { // it is tried again
						p.a.member.Request(p.flow, bypass.Always(bypass.Request{}))
						p.b.member.Request(p.flow.Reverse(), bypass.Always(bypass.Request{}))
						<-time.After(9 * time.Second)
						synctest.Wait()
						require.Equal(t, want.String(), p.a.status(p.flow).Reason.String())
						require.Equal(t, want.String(), p.b.status(p.flow).Reason.String())
					}
					if want == bypass.ReasonNoRoute {
						for _, n := range []*node{p.a, p.b} {
							n.underlay.SetAddrs(netip.PrefixFrom(n.addr, 24))
						}
						p.bypassed(20 * time.Second)
					}
					p.leave()
				})
			})
		}
	}
}

// Some other host has the peer's address: it resets our SYNs, and no probe of the peer's
// ever comes.
func TestStrangerAtThePeersAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.link(false)
		p.a.member.Forget(p.b.id)
		p.b.member.Forget(p.a.id)
		synctest.Wait()
		p.wire.Mangle(func(f []byte) []byte {
			if w, ok := bypasstest.Parse(f); ok && w.Flags&bypasstest.FlagRST == 0 {
				return nil
			}
			return f
		})
		p.wire.Tap(func(f []byte) {
			if s, ok := bypasstest.Parse(f); ok && s.Flags == bypasstest.FlagSYN {
				p.wire.Send(bypasstest.Packet{SrcMAC: s.DstMAC, DstMAC: s.SrcMAC, Flow: s.Flow.Reverse(),
					Flags: bypasstest.FlagRST | bypasstest.FlagACK, Ack: s.Seq + 1}.Frame())
			}
		})
		p.link(true)
		p.a.member.Request(p.flow, bypass.Always(bypass.Request{}))
		<-time.After(5 * time.Second)
		synctest.Wait()
		require.Equal(t, bypass.ReasonProofStranger, p.a.status(p.flow).Reason)
		p.leave()
	})
}

// The path breaks, or becomes a longer one, under a live bypass.
func TestPathGoesBad(t *testing.T) {
	for want, c := range map[bypass.Reason]struct {
		spoil func(w *bypasstest.Wire)
		limit time.Duration
	}{
		// A guest's TCP, which backs off, must find the overlay at 1.4 s.
		bypass.ReasonProofTimeout: {func(w *bypasstest.Wire) { w.Block(netip.Addr{}, netip.Addr{}, 0) }, 1400 * time.Millisecond},
		bypass.ReasonProofTCP:     {func(w *bypasstest.Wire) { w.Block(netip.Addr{}, netip.Addr{}, bypass.TCP) }, 1400 * time.Millisecond},
		bypass.ReasonProofRTT:     {func(w *bypasstest.Wire) { w.Delay(5 * time.Millisecond) }, 3 * time.Second},
		bypass.ReasonProofHops:    {func(w *bypasstest.Wire) { w.Hops(1) }, time.Second},
	} {
		t.Run(want.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, nil)
				p.bypassed(time.Second)
				<-time.After(2 * time.Second)
				require.Equal(t, 2, p.exchange())
				c.spoil(p.wire)
				until(t, c.limit, "the bypass is withdrawn", func() bool {
					return p.a.status(p.flow).State != bypass.Bypassed && p.b.status(p.flow).State != bypass.Bypassed
				})
				require.Equal(t, want, p.a.status(p.flow).Reason)
				p.onOverlay(10 * time.Second)
				p.leave()
			})
		})
	}
}

// TCP, or what is of full size, passes only in the middle of a round, or later.
func TestPathOpensLate(t *testing.T) {
	full := func(w bypasstest.Packet) bool { return len(w.Payload) > 1000 }
	syn := func(w bypasstest.Packet) bool { return w.Flags&bypasstest.FlagSYN != 0 }
	for name, lost := range map[string]func(bypasstest.Packet) bool{"full size": full, "SYNs": syn} {
		for _, after := range []time.Duration{400, 500, 600, 700, 800, 5000} {
			t.Run(fmt.Sprint(name, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newPair(t, nil)
					p.link(false)
					p.a.member.Forget(p.b.id)
					p.b.member.Forget(p.a.id)
					synctest.Wait()
					p.wire.Drop(lost)
					p.link(true)
					p.a.member.Request(p.flow, bypass.Always(bypass.Request{}))
					<-time.After(after * time.Millisecond)
					p.wire.Drop(nil)
					p.bypassed(20 * time.Second)
					p.leave()
				})
			})
		}
	}
}

// One slow answer, and one lost ping, are no reason.
func TestPathHiccups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.bypassed(time.Second)
		since := p.a.status(p.flow).Since
		for range 5 {
			p.wire.Delay(10 * time.Millisecond)
			<-time.After(2 * time.Second)
			p.wire.Delay(0)
			<-time.After(time.Second)
		}
		for range 5 {
			p.wire.Block(netip.Addr{}, netip.Addr{}, 0)
			<-time.After(700 * time.Millisecond)
			p.wire.Unblock(netip.Addr{}, netip.Addr{}, 0)
			<-time.After(time.Second)
			require.Equal(t, 2, p.exchange())
		}
		require.Equal(t, since, p.a.status(p.flow).Since, "it was bypassed all the time")
		p.leave()
	})
}

// A path without bypasses is probed seldom, and one lost ping is no reason to prove it
// anew.
func TestIdlePathIsProbedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		<-time.After(time.Second)
		var frames, lost atomic.Int32
		p.wire.Tap(func([]byte) { frames.Add(1) })
		p.wire.Drop(func(bypasstest.Packet) bool { return lost.Add(1) == 1 })
		<-time.After(time.Minute)
		require.Positive(t, lost.Load())
		// Twelve pings and answers, over two protocols, from two ends; and one more.
		require.LessOrEqual(t, int(frames.Load()), 2*2*2*12+8)
		p.wire.Drop(nil)
		p.leave()
	})
}
