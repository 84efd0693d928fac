package ofpath_test

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/bypass/ofpath"
	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/ofctl/ofctltest"
	"github.com/viasnet/vias/tap"
)

// rig is a datapath that is up on a switch in memory.
type rig struct {
	*fakeBench
	t      *testing.T
	dp     bypass.Datapath
	events chan bypass.Event
}

func newRig(t *testing.T) *rig {
	b := newFake(t)
	b.other = other{t, b.fake}
	b.normal()
	return watchRig(t, b, b.config())
}

func watchRig(t *testing.T, b *fakeBench, cfg ofpath.Config) *rig {
	r := &rig{fakeBench: b, t: t, events: make(chan bypass.Event, 64)}
	dp, err := ofpath.Open(cfg)(t.Context())
	require.NoError(t, err)
	r.dp = dp
	done := make(chan error, 1)
	go func() { done <- dp.Watch(context.Background(), func(e bypass.Event) { r.events <- e }) }()
	t.Cleanup(func() {
		require.NoError(t, dp.Close())
		require.Error(t, <-done)
	})
	return r
}

func (r *rig) next() bypass.Event {
	r.t.Helper()
	select {
	case e := <-r.events:
		return e
	case <-time.After(time.Minute):
		require.FailNow(r.t, "no event")
		return nil
	}
}

// nextButPorts is next without PortsChanged.
func (r *rig) nextButPorts() bypass.Event {
	r.t.Helper()
	for {
		if e := r.next(); e != (bypass.PortsChanged{}) {
			return e
		}
	}
}

func (r *rig) up(fresh bool) {
	r.t.Helper()
	require.Equal(r.t, bypass.DatapathUp{Fresh: fresh}, r.next())
}

func (r *rig) down() {
	r.t.Helper()
	e, ok := r.next().(bypass.DatapathDown)
	require.True(r.t, ok)
	require.ErrorIs(r.t, e.Err, bypass.ErrSwitchDown)
}

var (
	hopA    = bypass.Hop{ID: 1, Src: tap.MAC{2, 0xc, 0, 0, 0, 1}, Dst: tap.MAC{2, 0xc, 0, 0, 0, 2}}
	localA  = netip.MustParseAddrPort("10.1.0.1:61731")
	remoteB = netip.MustParseAddrPort("10.1.0.2:62550")
)

func base() bypass.Base {
	return bypass.Base{
		Epoch: 0x4d, Lease: time.Minute, Hops: []bypass.Hop{hopA},
		Workloads: []bypass.Workload{{Ofport: 3, MAC: tap.MAC{2, 0xa, 0, 0, 0, 1}, IPs: []netip.Addr{netip.MustParseAddr("192.168.7.1")}}},
		Guard:     []bypass.AddrPair{{Local: localA.Addr(), Remote: remoteB.Addr()}},
	}
}

// change is both rules of one bypass, the n'th, and its peer's lease.
func change(n int) bypass.Change {
	local := netip.AddrPortFrom(localA.Addr(), uint16(0xf000+n%4096))
	remote := netip.AddrPortFrom(remoteB.Addr(), uint16(0xf000+n/4096))
	out := bypass.Rule{
		ID: uint32(2*n + 1), Direction: bypass.Outbound,
		Flow: bypass.Flow{
			Proto: bypass.TCP,
			Src:   netip.AddrPortFrom(netip.MustParseAddr("192.168.7.1"), uint16(20000+n)),
			Dst:   netip.MustParseAddrPort("192.168.7.9:80"),
		},
		Local: local, Remote: remote, Ofport: 3, Hop: 1, Peer: 5,
		LocalMAC: tap.MAC{2, 0xa, 0, 0, 0, 1}, RemoteMAC: tap.MAC{2, 0xb, 0, 0, 0, 1}, Idle: time.Minute,
	}
	in := out
	in.ID, in.Direction, in.Idle = uint32(2*n+2), bypass.Inbound, 0
	return bypass.Change{Add: []bypass.Rule{in, out}}
}

func renewal() bypass.Lease {
	return bypass.Lease{
		Peer: 5, Proto: bypass.TCP, Local: localA.Addr(), Remote: remoteB.Addr(),
		Outbound: 25 * time.Second, Inbound: 30 * time.Second,
	}
}

func (r *rig) bypassed() {
	r.t.Helper()
	r.up(true)
	require.NoError(r.t, r.dp.Set(r.t.Context(), base()))
	c := change(0)
	c.Leases = []bypass.Lease{renewal()}
	require.NoError(r.t, r.dp.Apply(r.t.Context(), c))
}

func TestReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.bypassed()
		r.fake.Disconnect()
		r.down()
		r.up(false)
		r.fake.Restart(nil)
		r.down()
		r.up(true)
		require.NoError(t, r.dp.Set(t.Context(), base()))
		list, err := r.dp.Rules(t.Context())
		require.NoError(t, err)
		require.Empty(t, list)
	})
}

// TestReconnectAfterLoss: what vanished while nobody was connected is noticed.
func TestReconnectAfterLoss(t *testing.T) {
	for _, table := range []uint8{0, 10, 20} { // 0: a flow of the slow half
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			r.bypassed()
			r.fake.Disconnect()
			for _, s := range r.flows() {
				if s.Table == table && s.Priority != 0 && (table > 0 || s.Cookie == cookie(0x4d, 0)) {
					r.apply(ofctl.FlowMod{Command: ofctl.DeleteStrict, Flow: s.Flow})
				}
			}
			r.down()
			r.up(true)
		})
	}
}

func TestAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake(t)
		b.other = other{t, b.fake}
		cfg := b.config()
		var back atomic.Bool
		var tries atomic.Int32
		cfg.Dial = func(context.Context) (ofctl.Switch, error) {
			if tries.Add(1); !back.Load() {
				return nil, errors.New("nobody there")
			}
			return b.fake.Connect(), nil
		}
		r := watchRig(t, b, cfg)
		require.ErrorIs(t, r.dp.Set(t.Context(), base()), bypass.ErrSwitchDown)
		require.ErrorIs(t, r.dp.Apply(t.Context(), change(0)), bypass.ErrSwitchDown)
		<-time.After(time.Minute)
		synctest.Wait()
		require.InDelta(t, 17, tries.Load(), 3, "the wait grows up to 5 s")
		back.Store(true)
		r.up(true)
	})
}

func TestLacks(t *testing.T) {
	for want, c := range map[string]ofctl.Capabilities{
		"bundles": ofctl.CapBundle, "nw_frag": ofctl.CapFragMatch, "ports": ofctl.CapPortMask,
		"delete_learned": ofctl.CapTether,
	} {
		sw := ofctltest.New(ofctltest.Config{Lacks: c})
		_, err := ofpath.Open(ofpath.Config{
			Dial: func(context.Context) (ofctl.Switch, error) { return sw.Connect(), nil }, Uplink: "eth0",
		})(t.Context())
		require.ErrorIs(t, err, ofctl.ErrNotSupported)
		require.ErrorContains(t, err, want)
		require.NoError(t, sw.Close())
	}
}

// TestUnconfirmed: a change whose confirmation is lost is reported as such, and the
// next connection says that nothing is certain.
func TestUnconfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.bypassed()
		r.fake.LoseNext(1)
		err := r.dp.Apply(t.Context(), change(1))
		require.ErrorIs(t, err, bypass.ErrUnconfirmed)
		require.NotErrorIs(t, err, bypass.ErrSwitchDown)
		r.down()
		r.up(true)
		list, err := r.dp.Rules(t.Context())
		require.NoError(t, err)
		require.Len(t, list, 4)
	})
}

// TestStalled: a caller that gives up does not know what will come of its change.
func TestStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.bypassed()
		r.fake.Stall()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := r.dp.Apply(ctx, change(1))
		require.ErrorIs(t, err, bypass.ErrUnconfirmed)
		r.fake.Resume()
		r.down()
		r.up(true)
	})
}

// TestRefused: a refusal leaves the connection, and what is known of the rules, as
// they were.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.bypassed()
		r.fake.FailNext(1, &ofctl.SwitchError{Type: 5, Code: 1})
		c := change(1)
		c.Remove = change(0).Add
		require.Error(t, r.dp.Apply(t.Context(), c))
		r.Delete(0x4d, bypass.Outbound, 5)
		require.Equal(t, bypass.RuleLost{ID: 1, Direction: bypass.Outbound}, r.next())
		r.fake.Disconnect()
		r.down()
		r.up(false) // what was refused is not missed
	})
}

// TestEpochs: after Set with another epoch, rules of the one before are nobody's.
func TestEpochs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.bypassed()
		listen := bypass.Rule{
			ID: 9, Direction: bypass.Listen, Flow: bypass.Flow{Proto: bypass.UDP},
			Local: localA, Remote: remoteB, Hard: time.Minute,
		}
		require.NoError(t, r.dp.Apply(t.Context(), bypass.Change{Add: []bypass.Rule{listen}}))
		probe := bypasstest.Packet{
			SrcMAC: hopA.Dst, DstMAC: hopA.Src,
			Flow: bypass.Flow{Proto: bypass.UDP, Src: remoteB, Dst: localA},
		}
		r.fake.Input(1, probe.Frame())
		require.Equal(t, bypass.PacketIn{Kind: bypass.PacketProbe, Frame: probe.Frame()}, r.next())

		next := base()
		next.Epoch++
		require.NoError(t, r.dp.Set(t.Context(), next))
		r.fake.Input(1, probe.Frame())
		r.Delete(0x4d, bypass.Outbound, 5)
		r.Delete(0x4d, bypass.Inbound, 5)
		r.fake.Disconnect()
		r.down() // and nothing before it
		r.up(false)
		same := change(0).Add
		require.NoError(t, r.dp.Apply(t.Context(), bypass.Change{Add: same}))
		r.Delete(0x4e, bypass.Outbound, 5)
		require.Equal(t, bypass.RuleLost{ID: 1, Direction: bypass.Outbound}, r.next())
	})
}

// TestUplinkMoves: a renumbered uplink takes leases, rules and next hops along.
func TestUplinkMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.bypassed()
		<-time.After(10 * time.Second)
		require.True(t, r.fake.RemovePort(1))
		p := portsOf[bypasstest.Uplink]
		p.No, p.Output = 9, func(f []byte) { r.out[bypasstest.Uplink] <- f }
		_, err := r.fake.AddPort(p)
		require.NoError(t, err)
		require.Equal(t, bypass.PortsChanged{}, r.next())
		synctest.Wait()

		rule := change(0).Add[0]
		in := bypasstest.Packet{
			SrcMAC: hopA.Dst, DstMAC: hopA.Src,
			Flow: bypass.Flow{Proto: bypass.TCP, Src: rule.Remote, Dst: rule.Local},
		}
		r.fake.Input(9, in.Frame())
		require.NotNil(t, r.Recv(bypasstest.WorkloadA, time.Second))
		out := bypasstest.Packet{SrcMAC: rule.LocalMAC, DstMAC: rule.RemoteMAC, Flow: rule.Flow}
		r.fake.Input(3, out.Frame())
		require.NotNil(t, r.Recv(bypasstest.Uplink, time.Second))

		list, err := r.dp.Rules(t.Context())
		require.NoError(t, err)
		require.Len(t, list, 2)
		require.ElementsMatch(t, []uint32{1, 2}, []uint32{list[0].Rule.ID, list[1].Rule.ID})

		<-time.After(21 * time.Second) // the inbound lease was for 30 s
		require.ElementsMatch(t, []bypass.Event{
			bypass.RuleLost{ID: 1, Direction: bypass.Outbound}, bypass.RuleLost{ID: 2, Direction: bypass.Inbound},
		}, []bypass.Event{r.nextButPorts(), r.nextButPorts()})
		r.fake.Input(9, in.Frame())
		require.Nil(t, r.Recv(bypasstest.WorkloadA, time.Second))
		for _, s := range r.flows() {
			require.NotContains(t, s.Match, ofctl.InPort(1))
		}
	})
}

// TestNoUplink: without the uplink's port nothing can be said to the switch.
func TestNoUplink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake(t)
		b.other = other{t, b.fake}
		cfg := b.config()
		cfg.Uplink = "eth7"
		r := watchRig(t, b, cfg)
		r.up(true)
		require.ErrorContains(t, r.dp.Set(t.Context(), base()), `"eth7"`)
		_, err := b.fake.AddPort(ofctltest.Port{No: 12, Name: "eth7"})
		require.NoError(t, err)
		require.Equal(t, bypass.PortsChanged{}, r.next())
		require.NoError(t, r.dp.Set(t.Context(), base()))
	})
}

// TestNothingLeft: what a killed process leaves is gone by time-outs alone, but for
// groups, which the next run of the same layout deletes. Rules go with the lease, the
// slow half with Base.Lease.
func TestNothingLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.bypassed()
		rules := func() (n int) {
			for _, s := range r.flows() {
				if s.Cookie == cookie(0x4d, 5) {
					n++
				}
			}
			return n
		}
		require.Equal(t, 5, rules(), "rules, gates, tether")
		require.NoError(t, r.dp.Close())
		<-time.After(30*time.Second + time.Millisecond)
		require.Zero(t, rules())
		<-time.After(30 * time.Second)
		require.Empty(t, r.dumpFlows())
		next := watchRig(t, r.fakeBench, r.config())
		next.up(true)
		require.NoError(t, next.dp.Set(t.Context(), bypass.Base{Epoch: 0x4e, Lease: time.Minute}))
		groups, err := r.fake.Groups(t.Context())
		require.NoError(t, err)
		require.Empty(t, groups)
	})
}
