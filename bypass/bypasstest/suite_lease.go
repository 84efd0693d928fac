package bypasstest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
)

const long = 30 * time.Second

func leaseCases() []datapathCase {
	return []datapathCase{
		{"outbound rule needs a lease", func(e *env) {
			e.apply(bypass.Change{Add: []bypass.Rule{e.out(), e.in()}})
			e.plain(WorkloadA, sent())
			e.apply(bypass.Change{Leases: []bypass.Lease{lease(long, 0)}})
			e.expect(WorkloadA, sent(), Uplink, e.onWire())
			e.none(Plain, "a copy has left on the overlay's side")
		}},
		{"inbound rule needs a lease", func(e *env) {
			e.set(e.guarded())
			e.apply(bypass.Change{Add: []bypass.Rule{e.out(), e.in()}})
			e.swallowed(arriving())
			e.apply(bypass.Change{Leases: []bypass.Lease{lease(0, long)}})
			e.expect(Uplink, arriving(), WorkloadA, delivered())
		}},
		{"outbound lease ends by itself", func(e *env) {
			e.bypassed(lease(2*time.Second, long))
			e.expect(WorkloadA, sent(), Uplink, e.onWire())
			e.pass(3500 * time.Millisecond)
			e.plain(WorkloadA, sent())
			e.expect(Uplink, arriving(), WorkloadA, delivered())
		}},
		{"inbound lease ends by itself", func(e *env) {
			e.set(e.guarded())
			e.bypassed(lease(long, 2*time.Second))
			e.expect(Uplink, arriving(), WorkloadA, delivered())
			e.pass(3500 * time.Millisecond)
			e.swallowed(arriving())
			e.expect(WorkloadA, sent(), Uplink, e.onWire())
		}},
		{"renewing a lease keeps it", func(e *env) {
			e.bypassed(lease(6*time.Second, 6*time.Second))
			e.pass(3500 * time.Millisecond)
			e.apply(bypass.Change{Leases: []bypass.Lease{lease(10*time.Second, 10*time.Second)}})
			e.pass(3500 * time.Millisecond)
			e.expect(WorkloadA, sent(), Uplink, e.onWire())
			e.expect(Uplink, arriving(), WorkloadA, delivered())
			e.noEvent()
			require.Len(e.t, e.rules(), 2)
			e.pass(7500 * time.Millisecond)
			e.plain(WorkloadA, sent())
			require.Empty(e.t, e.rules())
		}},
		{"a lease of 0 ends that half at once", func(e *env) {
			e.bypassed(lease(long, long))
			e.apply(bypass.Change{Leases: []bypass.Lease{lease(0, long)}})
			e.plain(WorkloadA, sent())
			e.expect(Uplink, arriving(), WorkloadA, delivered())
		}},
		{"a base without a lease ends everything", func(e *env) {
			e.bypassed(lease(long, long))
			e.set(bypass.Base{Epoch: epoch})
			require.Empty(e.t, e.rules())
			e.plain(WorkloadA, sent())
			e.noEvent()
		}},
		{"leases of peers are apart", func(e *env) {
			e.bypassed(lease(long, long))
			other := lease(0, 0)
			other.Peer, other.Remote = peer+1, underOther
			e.apply(bypass.Change{Leases: []bypass.Lease{other}})
			e.expect(WorkloadA, sent(), Uplink, e.onWire())
			e.expect(Uplink, arriving(), WorkloadA, delivered())
		}},
		{"peers between the same addresses share what lets packets in", func(e *env) {
			e.bypassed(lease(long, long))
			gone := lease(0, 0)
			gone.Peer = peer + 1
			e.apply(bypass.Change{Leases: []bypass.Lease{gone, lease(long, long)}})
			e.expect(WorkloadA, sent(), Uplink, e.onWire())
			e.expect(Uplink, arriving(), WorkloadA, delivered())
			require.Len(e.t, e.rules(), 2)
		}},
		{"leases of protocols are apart", func(e *env) {
			l := lease(long, long)
			l.Proto = bypass.UDP
			e.apply(bypass.Change{Leases: []bypass.Lease{l}, Add: []bypass.Rule{e.out()}})
			e.plain(WorkloadA, sent())
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
	l := lease(long, long)
	l.Remote = underOther
	e.apply(bypass.Change{Leases: []bypass.Lease{l}})
	e.plain(WorkloadA, sent())
	require.NoError(e.t, old.Close())
}
