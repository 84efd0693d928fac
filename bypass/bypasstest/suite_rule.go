package bypasstest

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/tap"
)

func sortStats(list []bypass.RuleStat) {
	slices.SortFunc(list, func(a, b bypass.RuleStat) int {
		return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Rule.Direction, b.Rule.Direction),
			cmp.Compare(a.Rule.ID, b.Rule.ID), cmp.Compare(a.Rule.Peer, b.Rule.Peer))
	})
}

func ruleCases() []datapathCase {
	return []datapathCase{
		{"a removed rule forwards no more", func(e *env) {
			e.bypassed(e.lease(long, long))
			e.apply(bypass.Change{Remove: []bypass.Rule{e.out()}})
			e.plain(WorkloadA, e.sent())
			e.expect(Uplink, e.arriving(), WorkloadA, e.delivered())
			e.apply(bypass.Change{Remove: []bypass.Rule{e.in()}})
			e.swallowed(e.arriving())
			require.Empty(e.t, e.rules())
		}},
		{"additions and removals are idempotent", func(e *env) {
			c := bypass.Change{Leases: []bypass.Lease{e.lease(long, long)}, Add: []bypass.Rule{e.out(), e.in()}}
			e.apply(c)
			e.apply(c)
			require.Len(e.t, e.rules(), 2)
			e.expect(WorkloadA, e.sent(), Uplink, e.onWire())
			e.apply(bypass.Change{Remove: c.Add})
			e.apply(bypass.Change{Remove: c.Add})
			e.plain(WorkloadA, e.sent())
			e.noEvent()
		}},
		{"additions come before removals", caseReplace},
		{"a change is atomic", caseAtomic},
		{"a rule may get another match", caseMove},
		{"an idle outbound rule goes with an event", func(e *env) {
			r := e.out()
			r.Idle = short
			in := e.in()
			in.Idle = r.Idle // ignored
			e.apply(bypass.Change{Leases: []bypass.Lease{e.lease(long, long)}, Add: []bypass.Rule{r, in}})
			e.expect(WorkloadA, e.sent(), Uplink, e.onWire())
			idle, ok := e.event().(bypass.RuleIdle)
			require.True(e.t, ok)
			require.EqualValues(e.t, 1, idle.ID)
			require.EqualValues(e.t, 1, idle.Packets)
			require.EqualValues(e.t, len(e.sent().Frame()), idle.Bytes)
			e.pass(short + 2*time.Second)
			e.noEvent()
			require.Equal(e.t, []bypass.RuleStat{{Epoch: epoch, Rule: e.in()}}, e.rules())
			e.plain(WorkloadA, e.sent())
		}},
		{"rules of an earlier epoch are listed and can be removed", caseEarlier},
		{"a rule that somebody deletes is reported", func(e *env) {
			e.bypassed(e.lease(long, long))
			e.b.Delete(epoch, bypass.Inbound, peer)
			require.Equal(e.t, bypass.RuleLost{ID: 2, Direction: bypass.Inbound}, e.event())
			e.b.Delete(epoch, bypass.Outbound, peer)
			require.Equal(e.t, bypass.RuleLost{ID: 1, Direction: bypass.Outbound}, e.event())
			e.apply(bypass.Change{Remove: []bypass.Rule{e.in(), e.out()}})
			e.noEvent()
		}},
		{"a rule that we remove is not", func(e *env) {
			e.bypassed(e.lease(long, long))
			e.apply(bypass.Change{Remove: []bypass.Rule{e.out(), e.in()}})
			e.noEvent()
		}},
	}
}

func caseCounters(e *env) {
	r := e.out()
	r.Idle = time.Minute
	e.apply(bypass.Change{Leases: []bypass.Lease{e.lease(long, long)}, Add: []bypass.Rule{r, e.in()}})
	e.expect(WorkloadA, e.sent(), Uplink, e.onWire())
	e.expect(WorkloadA, e.sent(), Uplink, e.onWire())
	e.b.Settle()
	n := uint64(2 * len(e.sent().Frame()))
	require.Equal(e.t, []bypass.RuleStat{
		{Epoch: epoch, Rule: r, Packets: 2, Bytes: n},
		{Epoch: epoch, Rule: e.in()},
	}, e.rules())
}

// caseReplace gives a flow another pair of ports in one step: the new rule has the
// old one's match, and must survive its removal.
func caseReplace(e *env) {
	e.bypassed(e.lease(long, long))
	next := e.out()
	next.ID, next.Local = 9, netip.AddrPortFrom(e.underLocal, 0xf777)
	e.apply(bypass.Change{Add: []bypass.Rule{next}, Remove: []bypass.Rule{e.out()}})
	want := e.onWire()
	want.Flow.Src = next.Local
	e.expect(WorkloadA, e.sent(), Uplink, want)
	require.Len(e.t, e.rules(), 2)
	e.noEvent()
}

// caseAtomic: one rule that cannot be takes the whole change with it.
func caseAtomic(e *env) {
	bad := e.out()
	bad.ID, bad.Hop = 3, 4711
	bad.Flow.Src = netip.AddrPortFrom(e.workloadIP[0], 41111)
	c := bypass.Change{Leases: []bypass.Lease{e.lease(long, long)}, Add: []bypass.Rule{e.in(), e.out(), bad}}
	err := e.dp.Apply(e.t.Context(), c)
	require.Error(e.t, err)
	require.NotErrorIs(e.t, err, bypass.ErrUnconfirmed)
	require.NotErrorIs(e.t, err, bypass.ErrSwitchDown)
	e.b.Settle()
	require.Empty(e.t, e.rules())
	e.apply(bypass.Change{Add: []bypass.Rule{e.out()}})
	e.plain(WorkloadA, e.sent()) // the lease has not been made either
	e.noEvent()
}

// caseMove: the same ID with another match is the same rule.
func caseMove(e *env) {
	e.bypassed(e.lease(long, long))
	r := e.out()
	r.Flow.Src = netip.AddrPortFrom(e.workloadIP[0], 40001)
	e.apply(bypass.Change{Add: []bypass.Rule{r}})
	e.plain(WorkloadA, e.sent())
	p := e.sent()
	p.Flow = r.Flow
	e.expect(WorkloadA, p, Uplink, e.onWire())
	require.Len(e.t, e.rules(), 2)
	e.noEvent()
}

// caseNoChecksum: a UDP checksum of 0 says that there is none, and stays so.
func caseNoChecksum(e *env) {
	e.bypassed(e.lease(long, long))
	frame := e.sent().Frame()
	sum := len(frame) - len(e.sent().Payload) - 2
	frame[sum], frame[sum+1] = 0, 0
	e.b.Send(WorkloadA, frame)
	got := e.b.Recv(Uplink, patience)
	require.NotNil(e.t, got)
	require.Zero(e.t, got[sum])
	require.Zero(e.t, got[sum+1])
}

// caseEarlier: what an earlier run left can be told and be removed with nothing but
// what Rules says.
func caseEarlier(e *env) {
	e.bypassed(e.lease(long, long))
	require.NoError(e.t, e.dp.Close())
	e.dp, e.events = e.open()
	b := e.base()
	b.Epoch = epoch + 1
	e.set(b)
	old := e.rules()
	require.Len(e.t, old, 2)
	local, remote := e.pair()
	for i, dir := range []bypass.Direction{bypass.Outbound, bypass.Inbound} {
		require.EqualValues(e.t, epoch, old[i].Epoch)
		require.Equal(e.t, dir, old[i].Rule.Direction)
		require.EqualValues(e.t, peer, old[i].Rule.Peer)
		require.Equal(e.t, e.proto, old[i].Rule.Flow.Proto)
		require.Equal(e.t, local, old[i].Rule.Local)
		require.Equal(e.t, remote, old[i].Rule.Remote)
	}
	e.apply(bypass.Change{Remove: []bypass.Rule{old[0].Rule, old[1].Rule}})
	require.Empty(e.t, e.rules())
	e.plain(WorkloadA, e.sent())
	e.noEvent()
}

func matchCases() []datapathCase {
	return []datapathCase{
		{"what is not quite the flow stays on the overlay", caseNotOutbound},
		{"what is not quite the flow does not come in", caseNotInbound},
		{"a tagged frame does not leave", func(e *env) {
			e.bypassed(e.lease(long, long))
			// An access port drops it, another one takes it to the overlay.
			e.b.Send(WorkloadA, with(e.sent(), func(p *Packet) { p.VLAN = 5 }).Frame())
			e.none(Uplink, "a tagged frame has left by the uplink")
		}},
		{"fragments do not come in", func(e *env) {
			e.set(e.guarded())
			e.bypassed(e.lease(long, long))
			// They have no ports to match, not even the first: they are the host's.
			for _, p := range []Packet{
				with(e.arriving(), func(p *Packet) { p.More = true }),
				with(e.arriving(), func(p *Packet) { p.More, p.Fragment = true, 100 }),
				with(e.arriving(), func(p *Packet) { p.Fragment = 100 }),
			} {
				e.swallowed(p)
				require.Equal(e.t, p.Frame(), e.b.Recv(Stack, patience))
			}
		}},
	}
}

func with(p Packet, change func(*Packet)) Packet {
	change(&p)
	return p
}

// between is p with other ports.
func between(p Packet, src, dst uint16) Packet {
	p.Flow.Src = netip.AddrPortFrom(p.Flow.Src.Addr(), src)
	p.Flow.Dst = netip.AddrPortFrom(p.Flow.Dst.Addr(), dst)
	return p
}

func caseNotOutbound(e *env) {
	e.bypassed(e.lease(long, long))
	for _, c := range []struct {
		what string
		from End
		p    Packet
	}{
		{"another source MAC", WorkloadA, with(e.sent(), func(p *Packet) { p.SrcMAC = workloadMAC[1] })},
		{"another destination MAC", WorkloadA, with(e.sent(), func(p *Packet) { p.DstMAC = tap.MAC{2, 3, 4, 5, 6, 7} })},
		{"another port of the switch", WorkloadB, e.sent()},
		{"a first fragment", WorkloadA, with(e.sent(), func(p *Packet) { p.More = true })},
		{"a later fragment", WorkloadA, with(e.sent(), func(p *Packet) { p.Fragment = 100 })},
		{"another source port", WorkloadA, between(e.sent(), 40001, 80)},
		{"another destination port", WorkloadA, between(e.sent(), 40000, 81)},
		{"another protocol", WorkloadA, with(e.sent(), func(p *Packet) { p.Flow.Proto = e.other })},
		{"the other direction", WorkloadA, with(e.sent(), func(p *Packet) { p.Flow = p.Flow.Reverse() })},
	} {
		e.t.Log(c.what)
		e.plain(c.from, c.p)
	}
}

func caseNotInbound(e *env) {
	e.set(e.guarded())
	e.bypassed(e.lease(long, long))
	for _, c := range []struct {
		what string
		p    Packet
	}{
		{"a VLAN tag", with(e.arriving(), func(p *Packet) { p.VLAN = 5 })},
		{"another source port", between(e.arriving(), 0xf457, 0xf123)},
		{"another destination port", between(e.arriving(), 0xf456, 0xf124)},
		{"another protocol", with(e.arriving(), func(p *Packet) { p.Flow.Proto = e.other })},
	} {
		e.t.Log(c.what)
		e.swallowed(c.p)
	}
}
