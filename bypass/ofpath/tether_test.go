package ofpath_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/ofctl"
)

// ended is the peer's lease, at its end.
func ended() bypass.Lease {
	l := renewal()
	l.Outbound, l.Inbound = 0, 0
	return l
}

// TestRefusedEnd: rules whose lease could not be ended are missed as before.
func TestRefusedEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.bypassed()
		end := bypass.Change{Leases: []bypass.Lease{ended()}}
		r.fake.FailNext(1, &ofctl.SwitchError{Type: 5, Code: 1})
		require.Error(t, r.dp.Apply(t.Context(), end))
		list, err := r.dp.Rules(t.Context())
		require.NoError(t, err)
		require.Len(t, list, 2)
		require.NotZero(t, list[0].Rule.ID)
		r.Delete(0x4d, bypass.Outbound, 5)
		require.Equal(t, bypass.RuleLost{ID: 1, Direction: bypass.Outbound}, r.next())
		require.NoError(t, r.dp.Apply(t.Context(), end))
		synctest.Wait()
		require.Empty(t, r.events)
		list, err = r.dp.Rules(t.Context())
		require.NoError(t, err)
		require.Empty(t, list)
	})
}

// TestEndedTwice: a tether that ran out holds nothing when the other one is cut.
func TestEndedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.bypassed()
		udp := renewal()
		udp.Proto, udp.Outbound, udp.Inbound = bypass.UDP, time.Minute, time.Minute
		require.NoError(t, r.dp.Apply(t.Context(), bypass.Change{Leases: []bypass.Lease{udp}}))
		<-time.After(40 * time.Second)
		udp.Outbound, udp.Inbound = 0, 0
		require.NoError(t, r.dp.Apply(t.Context(), bypass.Change{Leases: []bypass.Lease{udp}}))
		synctest.Wait()
		require.Empty(t, r.events)
		list, err := r.dp.Rules(t.Context())
		require.NoError(t, err)
		require.Empty(t, list)
	})
}

// TestBothEnded: both protocols' leases in one change, and one rule of another peer.
func TestBothEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.bypassed()
		udp := renewal()
		udp.Proto = bypass.UDP
		other := change(1).Add
		other[0].Peer, other[1].Peer = 6, 6
		lease := renewal()
		lease.Peer = 6
		require.NoError(t, r.dp.Apply(t.Context(), bypass.Change{Leases: []bypass.Lease{udp, lease}, Add: other}))
		udp.Outbound, udp.Inbound = 0, 0
		require.NoError(t, r.dp.Apply(t.Context(), bypass.Change{Leases: []bypass.Lease{ended(), udp}}))
		synctest.Wait()
		require.Empty(t, r.events)
		list, err := r.dp.Rules(t.Context())
		require.NoError(t, err)
		require.Len(t, list, 2)
		for _, s := range list {
			require.EqualValues(t, 6, s.Rule.Peer)
			require.Contains(t, []uint32{3, 4}, s.Rule.ID)
		}
	})
}

// TestLateRemoval: the event of a removal that we asked for may come when the rule is
// there again, which it says nothing about.
func TestLateRemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.bypassed()
		<-time.After(time.Second)
		again := change(0)
		again.Leases = []bypass.Lease{renewal()}
		for range 20 {
			require.NoError(t, r.dp.Apply(t.Context(), bypass.Change{Leases: []bypass.Lease{ended()}}))
			require.NoError(t, r.dp.Apply(t.Context(), again))
			<-time.After(time.Second)
		}
		require.Empty(t, r.events)
	})
}

// TestRemovalRoundedUp: a switch counts a flow's age in milliseconds, and so may make it older
// than what we know of it. The event is the flow's all the same.
func TestRemovalRoundedUp(t *testing.T) {
	for _, added := range []time.Duration{0, 1, 300_000, 999_999} {
		for _, lived := range []time.Duration{0, 1, 700_000, 999_999} {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.bypassed()
				<-time.After(added)
				require.NoError(t, r.dp.Apply(t.Context(), change(1)))
				<-time.After(time.Second + lived)
				r.Delete(0x4d, bypass.Outbound, 5)
				synctest.Wait()
				require.Len(t, r.events, 2, "added at %v, gone at %v", added, lived)
				lost := []bypass.Event{r.next(), r.next()}
				require.ElementsMatch(t, []bypass.Event{
					bypass.RuleLost{ID: 1, Direction: bypass.Outbound}, bypass.RuleLost{ID: 3, Direction: bypass.Outbound}}, lost)
			})
		}
	}
}

// TestRefusedLease: a lease that was refused holds nothing, and a rule that was
// refused replaces nothing.
func TestRefusedLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.bypassed()
		c := bypass.Change{Leases: []bypass.Lease{renewal()}, Add: change(0).Add}
		c.Leases[0].Proto = bypass.UDP
		c.Add[0].ID, c.Add[1].ID = 8, 9 // with the same matches
		r.fake.FailNext(1, &ofctl.SwitchError{Type: 5, Code: 1})
		require.Error(t, r.dp.Apply(t.Context(), c))
		r.Delete(0x4d, bypass.Outbound, 5)
		require.Equal(t, bypass.RuleLost{ID: 1, Direction: bypass.Outbound}, r.next())
		require.NoError(t, r.dp.Apply(t.Context(), bypass.Change{Leases: []bypass.Lease{ended()}}))
		synctest.Wait()
		require.Empty(t, r.events)
	})
}

// TestGuardOfEarlierRun: peers that an earlier run could not tell may still send. Its guard
// stays until it ends by itself; what else there is of that run's slow half goes.
func TestGuardOfEarlierRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.bypassed()
		last := bypass.Base{Epoch: 0x4d, Ports: base().Ports, Lease: 30 * time.Second, Guard: base().Guard}
		require.NotEmpty(t, last.Guard)
		require.NoError(t, r.dp.Set(t.Context(), last))
		guards := func() (n int) {
			for _, s := range r.flows() {
				if s.Table == 0 && s.Priority == 290 {
					n++
				}
			}
			return n
		}
		all := guards()
		next := base()
		next.Epoch, next.Guard = 0x4e, nil
		require.NoError(t, r.dp.Set(t.Context(), next))
		require.Equal(t, 2*len(last.Guard), guards(), "TCP and UDP; what copies ICMP errors is gone")
		require.Greater(t, all, guards())
		<-time.After(31 * time.Second)
		require.Zero(t, guards())
	})
}
