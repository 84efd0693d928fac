package bypasstest_test

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/tap"
)

var (
	upA, upB     = tap.MAC{2, 0, 0, 0, 1, 1}, tap.MAC{2, 0, 0, 0, 1, 2}
	addrA, addrB = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	macA, macB   = tap.MAC{2, 0, 0, 0, 0, 1}, tap.MAC{2, 0, 0, 0, 0, 2}
	flowAB       = bypass.Flow{
		Proto: bypass.TCP,
		Src:   netip.MustParseAddrPort("192.168.7.1:40000"), Dst: netip.MustParseAddrPort("192.168.7.2:80"),
	}
	pairA, pairB = netip.AddrPortFrom(addrA, 0xf001), netip.AddrPortFrom(addrB, 0xf002)
)

// world is two switches on a wire, A's workload bypassed to B's.
type world struct {
	t         *testing.T
	wire      *bypasstest.Wire
	a, b      *bypasstest.Switch
	underB    *bypasstest.Underlay
	dpA, dpB  bypass.Datapath
	atB       atomic.Int32 // frames that B's workload got
	plainA    int
	hostB     int
	lastFrame []byte // of those that B's workload got
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, wire: bypasstest.NewWire(), underB: bypasstest.NewUnderlay()}
	w.a = w.wire.NewSwitch(bypasstest.SwitchConfig{UplinkMAC: upA, Addrs: []netip.Addr{addrA}})
	w.b = w.wire.NewSwitch(bypasstest.SwitchConfig{UplinkMAC: upB, Addrs: []netip.Addr{addrB}, Underlay: w.underB})
	w.a.Tap(func([]byte) { w.plainA++ })
	w.b.Host(func([]byte) { w.hostB++ })
	w.b.AddPort(4, macB, func(f []byte) { w.atB.Add(1); w.lastFrame = f })
	var err error
	w.dpA, err = w.a.Open(t.Context())
	require.NoError(t, err)
	w.dpB, err = w.b.Open(t.Context())
	require.NoError(t, err)
	require.NoError(t, w.dpA.Set(t.Context(), bypass.Base{
		Epoch: 1, Lease: time.Hour, Hops: []bypass.Hop{{ID: 1, Src: upA, Dst: upB}},
		Workloads: []bypass.Workload{{Ofport: 3, MAC: macA, IPs: []netip.Addr{flowAB.Src.Addr()}}},
	}))
	require.NoError(t, w.dpB.Set(t.Context(), bypass.Base{Epoch: 1, Lease: time.Hour}))
	require.NoError(t, w.dpB.Apply(t.Context(), w.inB()))
	require.NoError(t, w.dpA.Apply(t.Context(), w.outA()))
	return w
}

func (w *world) outA() bypass.Change {
	return bypass.Change{
		Leases: []bypass.Lease{{Peer: 1, Proto: bypass.TCP, Local: addrA, Remote: addrB, Outbound: time.Hour}},
		Add: []bypass.Rule{{
			ID: 1, Direction: bypass.Outbound, Flow: flowAB, Local: pairA, Remote: pairB,
			LocalMAC: macA, RemoteMAC: macB, Ofport: 3, Hop: 1, Peer: 1,
		}},
	}
}

func (w *world) inB() bypass.Change {
	return bypass.Change{
		Leases: []bypass.Lease{{Peer: 1, Proto: bypass.TCP, Local: addrB, Remote: addrA, Inbound: time.Hour}},
		Add: []bypass.Rule{{
			ID: 1, Direction: bypass.Inbound, Flow: flowAB.Reverse(), Local: pairB, Remote: pairA,
			LocalMAC: macB, RemoteMAC: macA, Ofport: 4, Peer: 1,
		}},
	}
}

func segment() bypasstest.Packet {
	return bypasstest.Packet{SrcMAC: macA, DstMAC: macB, Flow: flowAB, Payload: make([]byte, 100)}
}

// sends sends a segment and asserts how many reached B's workload.
func (w *world) sends(want int) {
	w.t.Helper()
	before := w.atB.Load()
	w.a.Send(3, segment().Frame())
	require.EqualValues(w.t, want, w.atB.Load()-before)
	if want > 0 {
		require.NoError(w.t, bypasstest.CheckSums(w.lastFrame))
	}
}

func TestWire(t *testing.T) {
	w := newWorld(t)
	w.sends(1)

	w.wire.Block(addrA, netip.Addr{}, bypass.TCP)
	w.sends(0)
	w.wire.Unblock(addrA, netip.Addr{}, bypass.TCP)
	w.sends(1)
	w.wire.Block(addrA, addrB, bypass.UDP)
	w.wire.Block(addrB, addrA, 0)
	w.sends(1)

	w.wire.Drop(func(p bypasstest.Packet) bool { return p.Flow.Dst == pairB })
	w.sends(0)
	w.wire.Drop(nil)

	w.wire.MTU(139)
	w.sends(0)
	w.wire.MTU(140)
	w.sends(1)

	w.wire.Hops(2)
	w.sends(1)
	p, _ := bypasstest.Parse(w.lastFrame)
	require.EqualValues(t, 62, p.TTL)
	w.wire.Hops(64)
	w.sends(0)
	w.wire.Hops(0)

	w.wire.Mangle(func([]byte) []byte { return nil })
	w.sends(0)
	w.wire.Mangle(nil)
	sent, lost := w.wire.Counters()
	require.EqualValues(t, 10, sent)
	require.EqualValues(t, 5, lost)
}

// TestRouter: a frame to the gateway reaches the host by its address, one hop later.
func TestRouter(t *testing.T) {
	w := newWorld(t)
	gateway := tap.MAC{2, 0, 0, 0, 9, 9}
	base, _ := w.a.Base()
	base.Hops = []bypass.Hop{{ID: 1, Src: upA, Dst: gateway}}
	require.NoError(t, w.dpA.Set(t.Context(), base))
	w.sends(0) // nobody has that MAC
	w.wire.Router(gateway)
	w.sends(1)
	p, _ := bypasstest.Parse(w.lastFrame)
	require.EqualValues(t, 63, p.TTL)
}

// TestNAT: who comes from a translated address has no rule.
func TestNAT(t *testing.T) {
	w := newWorld(t)
	w.wire.Mangle(func(f []byte) []byte {
		p, _ := bypasstest.Parse(f)
		p.Flow.Src = netip.MustParseAddrPort("203.0.113.1:61000")
		return p.Frame()
	})
	w.sends(0)
	require.Equal(t, 1, w.hostB)
}

func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.wire.Delay(time.Second)
		for i := range 50 {
			p := segment()
			p.Seq = uint32(i)
			w.a.Send(3, p.Frame())
		}
		w.wire.Delay(time.Millisecond) // overtakes nobody
		w.a.Send(3, segment().Frame())
		<-time.After(999 * time.Millisecond)
		require.Zero(t, w.atB.Load())
		<-time.After(time.Millisecond)
		synctest.Wait()
		require.EqualValues(t, 51, w.atB.Load())
	})
}

// TestHostGuard: the host's own guard keeps from its stack what no rule takes.
func TestHostGuard(t *testing.T) {
	w := newWorld(t)
	w.b.Up(true)
	w.sends(0)
	require.Equal(t, 1, w.hostB, "a restarted switch has no guard")
	require.NoError(t, w.underB.Guard(t.Context(), bypass.PortRange{}, []netip.Addr{addrA}))
	w.sends(0)
	require.Equal(t, 1, w.hostB)
	require.EqualValues(t, 1, w.b.Counters().HostGuarded)
	require.NoError(t, w.underB.Guard(t.Context(), bypass.PortRange{}, nil))
	w.sends(0)
	require.Equal(t, 2, w.hostB)
}

func TestFaults(t *testing.T) {
	w := newWorld(t)
	remove := bypass.Change{Remove: w.outA().Add}
	w.a.FailNext(1)
	require.ErrorIs(t, w.dpA.Apply(t.Context(), remove), bypasstest.ErrRefused)
	w.sends(1)
	w.a.UnconfirmedNext(1, false)
	require.ErrorIs(t, w.dpA.Apply(t.Context(), remove), bypass.ErrUnconfirmed)
	w.sends(1)
	w.a.UnconfirmedNext(1, true)
	require.ErrorIs(t, w.dpA.Apply(t.Context(), remove), bypass.ErrUnconfirmed)
	w.sends(0)
	require.NoError(t, w.dpA.Apply(t.Context(), w.outA()))
	w.a.Down()
	require.ErrorIs(t, w.dpA.Apply(t.Context(), remove), bypass.ErrSwitchDown)
	_, err := w.dpA.Rules(t.Context())
	require.ErrorIs(t, err, bypass.ErrSwitchDown)
	w.sends(1)
	w.a.Up(false)
	w.sends(1)
	w.a.Down()
	w.a.Up(true)
	w.sends(0)
	require.True(t, w.b.RemoveRule(1, bypass.Inbound, 1))
	require.False(t, w.b.RemoveRule(1, bypass.Inbound, 1))
}

// TestStall: a change whose caller gave up is still made when the switch resumes.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.a.Stall()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := w.dpA.Apply(ctx, bypass.Change{Remove: w.outA().Add})
		require.ErrorIs(t, err, bypass.ErrUnconfirmed)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 1, w.a.Waiting())
		w.sends(1)
		w.a.Resume()
		w.sends(0)

		w.a.Stall()
		done := make(chan error, 1)
		go func() { done <- w.dpA.Apply(t.Context(), w.outA()) }()
		synctest.Wait()
		require.Equal(t, 1, w.a.Waiting())
		w.a.Resume()
		require.NoError(t, <-done)
		w.sends(1)
	})
}

// TestStale: decisions outlive what they rest on, for a while.
func TestStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.a.Stale(200 * time.Millisecond)
		w.sends(1)
		require.NoError(t, w.dpA.Apply(t.Context(), bypass.Change{Remove: w.outA().Add}))
		w.sends(1)
		<-time.After(150 * time.Millisecond)
		w.sends(1)
		<-time.After(51 * time.Millisecond)
		w.sends(0)
		require.Equal(t, 1, w.plainA)
		require.NoError(t, w.dpA.Apply(t.Context(), w.outA()))
		w.sends(0) // what is new is late as well
		<-time.After(201 * time.Millisecond)
		end := bypass.Change{Leases: w.outA().Leases}
		end.Leases[0].Outbound = time.Minute
		require.NoError(t, w.dpA.Apply(t.Context(), end))
		<-time.After(time.Second)
		w.sends(1)
		<-time.After(time.Minute - 900*time.Millisecond) // the lease ended 100 ms ago
		w.sends(1)
		<-time.After(101 * time.Millisecond)
		w.sends(0)
	})
}

func TestUnderlay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := bypasstest.NewUnderlay(netip.MustParsePrefix("10.0.0.1/24"))
		told := make(chan struct{}, 9)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- u.Watch(ctx, func() { told <- struct{}{} }) }()
		synctest.Wait()
		_, err := u.Route(t.Context(), addrB)
		require.ErrorIs(t, err, bypasstest.ErrNoRoute)
		u.SetRoute(addrB, bypass.Route{Local: addrA, OnLink: true})
		<-told
		r, err := u.Route(t.Context(), addrB)
		require.NoError(t, err)
		require.Equal(t, addrA, r.Local)
		u.DropRoute(addrB)
		<-told
		_, err = u.Route(t.Context(), addrB)
		require.ErrorIs(t, err, bypasstest.ErrNoRoute)
		cancel()
		require.NoError(t, <-done)
	})
}

// FuzzParse: nothing makes Parse or a switch panic, and a frame that goes through
// two rewritings is as right or wrong as before.
func FuzzParse(f *testing.F) {
	f.Add(segment().Frame())
	f.Add(bypasstest.Packet{VLAN: 7, Flow: flowAB, More: true}.Frame())
	f.Add(bypasstest.Packet{Flow: flow6, Fragment: 3}.Frame())
	f.Add(bypasstest.Packet{Flow: flow6, Ext: []uint8{bypasstest.ExtHopByHop, bypasstest.ExtAuth}}.Frame())
	f.Add(bypasstest.ICMP{Src: addrA, Dst: addrB, Type: 3}.Frame())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, frame []byte) {
		w := newWorld(t)
		p, ok := bypasstest.Parse(frame)
		if ok {
			_ = bypasstest.CheckSums(frame)
			_ = p.Flow.String()
		}
		_, _ = bypasstest.ParseICMP(frame)
		w.a.Send(3, frame)
		w.wire.Send(frame)
		w.b.FromTap(frame)
	})
}
