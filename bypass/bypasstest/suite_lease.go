package bypasstest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
)

// Leases of cases. A short one must not end before what a case does in it, also on a slow machine.
const (
	long  = 30 * time.Second
	short = 6 * time.Second
)

// gateCases: what a lease opens, and what not.
func gateCases() []datapathCase {
	return []datapathCase{
		{"outbound rule needs a lease", func(e *env) {
			e.apply(bypass.Change{Add: []bypass.Rule{e.out(), e.in()}})
			e.plain(WorkloadA, e.sent())
			e.apply(bypass.Change{Leases: []bypass.Lease{e.lease(long, 0)}})
			e.expect(WorkloadA, e.sent(), Uplink, e.onWire())
			e.none(Plain, "a copy has left on the overlay's side")
		}},
		{"inbound rule needs a lease", func(e *env) {
			e.set(e.guarded())
			e.apply(bypass.Change{Add: []bypass.Rule{e.out(), e.in()}})
			e.swallowed(e.arriving())
			e.apply(bypass.Change{Leases: []bypass.Lease{e.lease(0, long)}})
			e.expect(Uplink, e.arriving(), WorkloadA, e.delivered())
		}},
		{"leases of protocols are apart", func(e *env) {
			l := e.lease(long, long)
			l.Proto = e.other
			e.apply(bypass.Change{Leases: []bypass.Lease{l}, Add: []bypass.Rule{e.out()}})
			e.plain(WorkloadA, e.sent())
		}},
		{"leases of families are apart", func(e *env) {
			e.set(e.guarded())
			l, o := e.lease(long, long), e.otherFamily()
			l.Local, l.Remote = o.underLocal, o.underRemote
			e.apply(bypass.Change{Leases: []bypass.Lease{l}, Add: []bypass.Rule{e.out(), e.in()}})
			e.plain(WorkloadA, e.sent())
			e.swallowed(e.arriving())
		}},
		{"rules are listed with their counters", caseCounters},
	}
}

func leaseCases() []datapathCase {
	return []datapathCase{
		{"outbound lease ends by itself", func(e *env) {
			e.bypassed(e.lease(short, long))
			e.expect(WorkloadA, e.sent(), Uplink, e.onWire())
			e.pass(short + 1500*time.Millisecond)
			e.plain(WorkloadA, e.sent())
			e.expect(Uplink, e.arriving(), WorkloadA, e.delivered())
		}},
		{"inbound lease ends by itself", func(e *env) {
			e.set(e.guarded())
			e.bypassed(e.lease(long, short))
			e.expect(Uplink, e.arriving(), WorkloadA, e.delivered())
			e.pass(short + 1500*time.Millisecond)
			e.swallowed(e.arriving())
			e.expect(WorkloadA, e.sent(), Uplink, e.onWire())
		}},
		{"renewing a lease keeps it", func(e *env) {
			e.bypassed(e.lease(10*time.Second, 10*time.Second))
			e.pass(time.Second)
			e.apply(bypass.Change{Leases: []bypass.Lease{e.lease(20*time.Second, 20*time.Second)}})
			e.pass(10 * time.Second)
			e.expect(WorkloadA, e.sent(), Uplink, e.onWire())
			e.expect(Uplink, e.arriving(), WorkloadA, e.delivered())
			e.noEvent()
			require.Len(e.t, e.rules(), 2)
			e.pass(11500 * time.Millisecond)
			e.plain(WorkloadA, e.sent())
			require.Empty(e.t, e.rules())
		}},
		{"a lease of 0 ends that half at once", func(e *env) {
			e.bypassed(e.lease(long, long))
			e.apply(bypass.Change{Leases: []bypass.Lease{e.lease(0, long)}})
			e.plain(WorkloadA, e.sent())
			e.expect(Uplink, e.arriving(), WorkloadA, e.delivered())
		}},
		{"a base without a lease ends everything", func(e *env) {
			e.bypassed(e.lease(long, long))
			e.set(bypass.Base{Epoch: epoch})
			require.Empty(e.t, e.rules())
			e.plain(WorkloadA, e.sent())
			e.noEvent()
		}},
		{"leases of peers are apart", func(e *env) {
			e.bypassed(e.lease(long, long))
			other := e.lease(0, 0)
			other.Peer, other.Remote = peer+1, e.underOther
			e.apply(bypass.Change{Leases: []bypass.Lease{other}})
			e.expect(WorkloadA, e.sent(), Uplink, e.onWire())
			e.expect(Uplink, e.arriving(), WorkloadA, e.delivered())
		}},
		{"peers between the same addresses share what lets packets in", func(e *env) {
			e.bypassed(e.lease(long, long))
			gone := e.lease(0, 0)
			gone.Peer = peer + 1
			e.apply(bypass.Change{Leases: []bypass.Lease{gone, e.lease(long, long)}})
			e.expect(WorkloadA, e.sent(), Uplink, e.onWire())
			e.expect(Uplink, e.arriving(), WorkloadA, e.delivered())
			require.Len(e.t, e.rules(), 2)
		}},
		{"a lease does not revive rules of an earlier epoch", caseNoRevival},
	}
}

// caseNoRevival: a restarted host numbers its peers anew; rules of the earlier run
// must not leave for whoever they name under another one's lease.
func caseNoRevival(e *env) {
	e.apply(bypass.Change{Add: []bypass.Rule{e.out()}})
	old := e.dp
	e.dp, e.events = e.open()
	b := e.base()
	b.Epoch = epoch + 1
	e.set(b)
	l := e.lease(long, long)
	l.Remote = e.underOther
	e.apply(bypass.Change{Leases: []bypass.Lease{l}})
	e.plain(WorkloadA, e.sent())
	require.NoError(e.t, old.Close())
}
