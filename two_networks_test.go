package vias

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/overlay/overlaytest"
)

// sharedHost is a machine with one switch and one bypass Host, which two Networks share. Their
// workloads have the same addresses.
type sharedHost struct {
	sw   *bypasstest.Switch
	nets [2]*node
	nr   int // of the host

	mu  sync.Mutex
	got [2][]string
}

func newSharedHosts(t *testing.T) (hosts [2]*sharedHost) {
	wire, l := bypasstest.NewWire(), newLab(t, overlaytest.Config{})
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 0, byte(i + 1)}) }
	uplink := func(i int) [6]byte { return [6]byte{2, 0, 0, 0, 1, byte(i + 1)} }
	for i := range hosts {
		u := bypasstest.NewUnderlay(netip.PrefixFrom(addr(i), 24))
		u.SetRoute(addr(1-i), bypass.Route{Local: addr(i), Src: uplink(i), Via: addr(1 - i), NextHop: uplink(1 - i), OnLink: true, MTU: 1500})
		h := &sharedHost{nr: i, sw: wire.NewSwitch(bypasstest.SwitchConfig{UplinkMAC: uplink(i), Addrs: []netip.Addr{addr(i)}, Underlay: u})}
		host, err := bypass.NewHost(bypass.HostConfig{Datapath: h.sw.Open, Underlay: u})
		require.NoError(t, err)
		for n, name := range []string{"blue", "green"} {
			h.nets[n] = l.node(func(c *Config) { c.Name, c.Bypass, c.Policy = name, host, bypass.Always })
			e := testEndpoint(i)
			e.Ofport = h.port(n)
			require.NoError(t, h.nets[n].Attach(t.Context(), e))
			h.sw.AddPort(e.Ofport, e.MAC, func(f []byte) { h.hear(n, f) })
			h.sw.TapOf(e.Ofport, func(f []byte) { _ = h.nets[n].wire.WriteBatch(batch(f)) })
		}
		hosts[i] = h
	}
	for n := range 2 {
		a, b := hosts[0].nets[n], hosts[1].nets[n]
		require.NoError(t, a.AddPeer(b.ID()))
		require.NoError(t, b.AddPeer(a.ID()))
		for _, h := range hosts {
			h.nets[n].run()
			go h.fromOverlay(n)
		}
		waitLinked(t, a, b)
	}
	return hosts
}

func (h *sharedHost) port(network int) uint32 { return uint32(10*network + h.nr + 1) }

// fromOverlay gives the workload what its Network delivers, until the device is closed.
func (h *sharedHost) fromOverlay(n int) {
	for m := h.nets[n]; m.wire.ReadBatch(m.buffer) == nil; {
		for i := range m.buffer.Len() {
			h.hear(n, m.buffer.Frame(i))
		}
	}
}

// hear notes what the workload of Network n receives: TCP's payload.
func (h *sharedHost) hear(n int, f []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f[0]&1 == 0 && len(f) > 54 {
		h.got[n] = append(h.got[n], string(f[54:]))
	}
}

func (h *sharedHost) say(n int, f []byte, words string) {
	h.sw.Send(h.port(n), append(f[:54:54], words...))
	synctest.Wait()
}

// Two Networks of one process share a switch and a Host, and their workloads have the same addresses and
// the same flow: each hears its own alone, on the overlay and natively, and one goes on when the other ends.
func TestTwoNetworksOneSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := newSharedHosts(t)
		a, b := hosts[0], hosts[1]
		flow := testFlow(0, 1, 40000, 80)
		var want [2][]string
		say := func(n int) {
			words := fmt.Sprintf("%03d of %d", len(want[n]), n)
			want[n] = append(want[n], words)
			a.say(n, tcpFrame(0, 1, 40000, 80, ack, len(words)), words)
			require.Equal(t, want[n], b.got[n], "of network %d", n)
			require.Equal(t, want[1-n], b.got[1-n], "nothing for network %d", 1-n)
		}
		state := func(n int) bypass.State { return a.nets[n].Explain(flow).State }
		until := func(n int, s bypass.State) {
			t.Helper()
			eventually(t, func() bool {
				say(0)
				say(1)
				<-time.After(100 * time.Millisecond)
				return state(n) == s && b.nets[n].Explain(flow).State == s
			})
		}
		say(0)
		say(1)
		until(0, bypass.Bypassed)
		until(1, bypass.Bypassed)
		native := a.sw.Counters().Outbound
		for range 20 {
			say(0)
			say(1)
		}
		require.GreaterOrEqual(t, a.sw.Counters().Outbound-native, uint64(40), "all of them natively")
		var locals []netip.AddrPort
		for _, m := range a.nets {
			for f := range m.Flows() {
				locals = append(locals, f.Local)
			}
		}
		require.Len(t, locals, 2)
		require.NotEqual(t, locals[0], locals[1], "ports of the host are given once")

		a.nets[0].SetPolicy(nil)
		until(0, bypass.OnOverlay)
		require.Equal(t, bypass.Bypassed, state(1), "of the other's policy")
		require.NoError(t, a.nets[0].shut())
		for range 20 {
			words := fmt.Sprintf("%03d of 1", len(want[1]))
			want[1] = append(want[1], words)
			a.say(1, tcpFrame(0, 1, 40000, 80, ack, len(words)), words)
			<-time.After(100 * time.Millisecond)
		}
		require.Equal(t, want, b.got)
		require.Equal(t, bypass.Bypassed, state(1), "the other ended")

		require.NoError(t, b.nets[0].shut())
		require.NoError(t, a.nets[1].shut())
		require.NoError(t, b.nets[1].shut())
		require.Empty(t, a.sw.Rules())
		require.Empty(t, b.sw.Rules())
	})
}
