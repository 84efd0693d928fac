package bypasstest

import (
	"net/netip"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
)

// tetherCases: what the end of a lease does to the rules themselves.
func tetherCases() []datapathCase {
	return []datapathCase{
		{"a dead run's rules are gone when its leases have ended", caseDeadRun},
		{"rules whose leases ran out are reported, and other peers' stay", caseRanOut},
		{"a lease that was ended takes its rules along without a word", caseEnded},
		{"a lease of one half holds the rules of both", func(e *env) {
			for _, l := range []bypass.Lease{e.lease(long, time.Second), e.lease(time.Second, long)} {
				e.bypassed(l)
				e.pass(3 * time.Second)
				require.Len(e.t, e.rules(), 2)
			}
			e.noEvent()
		}},
		{"a lease of one kind of traffic holds the rules of all", caseOtherProtocol},
		{"rules without a lease yet stay", func(e *env) {
			e.apply(bypass.Change{Add: []bypass.Rule{e.out(), e.in()}})
			e.pass(time.Second)
			e.apply(bypass.Change{Leases: []bypass.Lease{e.lease(0, 0)}})
			e.only(e.out(), e.in())
			e.apply(bypass.Change{Leases: []bypass.Lease{e.lease(long, long)}})
			e.expect(WorkloadA, e.sent(), Uplink, e.onWire())
			e.apply(bypass.Change{Leases: []bypass.Lease{e.lease(0, 0)}})
			require.Empty(e.t, e.rules(), "they have one now")
		}},
		{"rules may run out by themselves together with their lease", func(e *env) {
			// Rules that are younger than the lease that holds them: Open vSwitch dies of
			// that if the Datapath lets it happen.
			e.apply(bypass.Change{Leases: []bypass.Lease{e.lease(3*time.Second, 3*time.Second)}})
			for i := range uint32(8) {
				r := e.out()
				r.ID, r.Idle = 100+i, 3*time.Second
				r.Flow.Dst = netip.AddrPortFrom(r.Flow.Dst.Addr(), uint16(5000+i))
				r.Remote = netip.AddrPortFrom(r.Remote.Addr(), r.Remote.Port()+1+uint16(i))
				e.apply(bypass.Change{Add: []bypass.Rule{r}})
			}
			e.pass(6 * time.Second)
			require.Empty(e.t, e.rules())
			e.bypassed(e.lease(long, long))
			e.expect(WorkloadA, e.sent(), Uplink, e.onWire())
		}},
		{"a purge takes an earlier epoch's rules of one peer and direction", casePurge},
	}
}

// second is both rules of another flow, of another peer, and its lease.
func (e *env) second() (rules []bypass.Rule, l bypass.Lease) {
	rules = []bypass.Rule{e.out(), e.in()}
	for i := range rules {
		r := &rules[i]
		r.ID, r.Peer = r.ID+10, peer+1
		r.Flow.Src = netip.AddrPortFrom(e.workloadIP[0], 40002)
		r.Remote = netip.AddrPortFrom(e.underOther, r.Remote.Port())
	}
	l = e.lease(long, long)
	l.Peer, l.Remote = peer+1, e.underOther
	return rules, l
}

// both installs the rules of two peers.
func (e *env) both(l bypass.Lease) (others []bypass.Rule) {
	e.t.Helper()
	others, other := e.second()
	e.bypassed(l)
	e.apply(bypass.Change{Leases: []bypass.Lease{other}, Add: others})
	require.Len(e.t, e.rules(), 4)
	return others
}

// only asserts that these rules of the epoch, outbound before inbound, are all.
func (e *env) only(want ...bypass.Rule) {
	e.t.Helper()
	var got []bypass.Rule
	for _, s := range e.rules() {
		require.EqualValues(e.t, epoch, s.Epoch)
		got = append(got, s.Rule)
	}
	require.Equal(e.t, want, got)
}

func caseDeadRun(e *env) {
	e.bypassed(e.lease(time.Second, 2*time.Second))
	require.NoError(e.t, e.dp.Close())
	e.pass(4 * time.Second)
	e.dp, e.events = e.open()
	require.Empty(e.t, e.rules())
}

// caseRanOut: a process that was stalled for longer than a lease learns what it lost.
func caseRanOut(e *env) {
	others := e.both(e.lease(short, short))
	lost := map[bypass.Event]bool{e.event(): true, e.event(): true}
	require.Equal(e.t, map[bypass.Event]bool{
		bypass.RuleLost{ID: 1, Direction: bypass.Outbound}: true,
		bypass.RuleLost{ID: 2, Direction: bypass.Inbound}:  true,
	}, lost)
	e.noEvent()
	e.only(others...)
	e.bypassed(e.lease(long, long))
	e.expect(WorkloadA, e.sent(), Uplink, e.onWire())
	e.expect(Uplink, e.arriving(), WorkloadA, e.delivered())
}

func caseEnded(e *env) {
	others := e.both(e.lease(long, long))
	e.apply(bypass.Change{Leases: []bypass.Lease{e.lease(0, 0)}})
	e.only(others...)
	e.plain(WorkloadA, e.sent())
	e.bypassed(e.lease(long, long))
	e.expect(WorkloadA, e.sent(), Uplink, e.onWire())
	// Also what the same change adds, or removes.
	more := e.out()
	more.ID, more.Flow.Src = 5, netip.AddrPortFrom(e.workloadIP[0], 40005)
	e.apply(bypass.Change{
		Leases: []bypass.Lease{e.lease(0, 0)}, Add: []bypass.Rule{more}, Remove: []bypass.Rule{e.in()},
	})
	e.only(others...)
	e.noEvent()
}

// caseOtherProtocol: a peer's rules stay while it has a lease of whatever protocol and
// family, and pass only what has its own.
func caseOtherProtocol(e *env) {
	proto, family := e.lease(long, long), e.lease(long, long)
	proto.Proto = e.other
	o := e.otherFamily()
	family.Local, family.Remote = o.underLocal, o.underRemote
	for _, l := range []bypass.Lease{proto, family} {
		e.bypassed(e.lease(short, short))
		e.apply(bypass.Change{Leases: []bypass.Lease{l}})
		e.pass(short + 2*time.Second)
		e.plain(WorkloadA, e.sent())
		require.Len(e.t, e.rules(), 2)
		l.Outbound, l.Inbound = 0, 0
		e.apply(bypass.Change{Leases: []bypass.Lease{l}})
		require.Empty(e.t, e.rules())
		e.noEvent()
	}
}

// casePurge: three names are enough for any number of rules.
func casePurge(e *env) {
	others := e.both(e.lease(long, long))
	more := e.in()
	more.ID, more.Local = 5, netip.AddrPortFrom(e.underLocal, 0xf555)
	e.apply(bypass.Change{Add: []bypass.Rule{more, e.listen()}})
	purge := func(epoch uint16, dir bypass.Direction, peer uint32) bypass.Change {
		return bypass.Change{Purge: []bypass.RuleStat{{Epoch: epoch, Rule: bypass.Rule{Direction: dir, Peer: peer}}}}
	}
	e.dp, e.events = e.open()
	b := e.base()
	b.Epoch = epoch + 1
	e.set(b)
	now := e.out()
	now.ID, now.Flow.Src = 6, netip.AddrPortFrom(e.workloadIP[0], 40006)
	e.apply(bypass.Change{Leases: []bypass.Lease{e.lease(long, long)}, Add: []bypass.Rule{now}})
	require.Len(e.t, e.rules(), 7)
	e.apply(purge(epoch, bypass.Inbound, peer))
	require.Len(e.t, e.rules(), 5)
	e.apply(purge(epoch, bypass.Listen, 0))
	require.Len(e.t, e.rules(), 4)
	e.apply(purge(epoch, bypass.Outbound, peer))
	e.apply(purge(epoch+1, bypass.Outbound, peer)) // no earlier one
	left := e.rules()
	require.Len(e.t, left, 3)
	for i, want := range append(others, now) {
		require.Equal(e.t, want.Direction, left[i].Rule.Direction)
		require.Equal(e.t, want.Peer, left[i].Rule.Peer)
		require.Equal(e.t, want.Local, left[i].Rule.Local)
		require.Equal(e.t, want.Remote, left[i].Rule.Remote)
	}
	e.noEvent()
}
