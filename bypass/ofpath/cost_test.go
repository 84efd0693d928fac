package ofpath_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/ofpath"
	"github.com/viasnet/vias/ofctl"
)

// counting counts the modifications of a connection.
type counting struct {
	ofctl.Switch
	mu    sync.Mutex
	mods  int
	calls [][]ofctl.Mod // what each Apply had, since record
	kept  bool
}

func (c *counting) Apply(ctx context.Context, mods []ofctl.Mod) error {
	c.mu.Lock()
	c.mods += len(mods)
	if c.kept {
		c.calls = append(c.calls, slices.Clone(mods))
	}
	c.mu.Unlock()
	return c.Switch.Apply(ctx, mods)
}

// record keeps what is applied from now on.
func (c *counting) record(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept, c.calls = on, nil
}

// recorded is what was applied since.
func (c *counting) recorded() [][]ofctl.Mod {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.calls)
}

// take is how many there were since the last call.
func (c *counting) take() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.mods
	c.mods = 0
	return n
}

// TestCost: with 10,000 rules, a lease and the slow half cost what they cost with
// none.
func TestCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake(t)
		b.other = other{t, b.fake}
		count := &counting{}
		r := watchRig(t, b, ofpath.Config{Uplink: "eth0", Dial: func(context.Context) (ofctl.Switch, error) {
			count.Switch = b.fake.Connect()
			return count, nil
		}})
		r.up(true)
		require.NoError(t, r.dp.Set(t.Context(), base()))
		require.Equal(t, 3+1+3+2+2+4, count.take(), "meters, group, misses, workload, guard, ICMP errors")
		for n := range 5000 {
			require.NoError(t, r.dp.Apply(t.Context(), change(n)))
		}
		require.Equal(t, 10000, count.take())
		require.NoError(t, r.dp.Apply(t.Context(), bypass.Change{Leases: []bypass.Lease{renewal()}}))
		require.Equal(t, 3, count.take(), "a lease")
		require.NoError(t, r.dp.Apply(t.Context(), bypass.Change{Leases: []bypass.Lease{renewal()}}))
		require.Equal(t, 3, count.take(), "a renewed lease: gates and tether")
		require.NoError(t, r.dp.Set(t.Context(), base()))
		require.Equal(t, 3+2+2+4, count.take(), "a renewed slow half")
		next := base()
		next.Hops[0].Dst[5]++
		require.NoError(t, r.dp.Set(t.Context(), next))
		require.Equal(t, 1+3+2+2+4, count.take(), "a next hop that moved")
		list, err := r.dp.Rules(t.Context())
		require.NoError(t, err)
		require.Len(t, list, 10000)
		none := renewal()
		none.Outbound, none.Inbound = 0, 0
		require.NoError(t, r.dp.Apply(t.Context(), bypass.Change{Leases: []bypass.Lease{none}}))
		require.Equal(t, 3, count.take(), "the end of a lease")
		list, err = r.dp.Rules(t.Context())
		require.NoError(t, err)
		require.Empty(t, list)
	})
}

// benchmarkApply measures one bypass: two rules added and confirmed, then removed.
func benchmarkApply(b *testing.B, dp bypass.Datapath) {
	require.NoError(b, dp.Set(b.Context(), base()))
	add := change(1)
	remove := bypass.Change{Remove: add.Add}
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, dp.Apply(b.Context(), add))
		require.NoError(b, dp.Apply(b.Context(), remove))
	}
}

// benchmarkLease measures the renewal of a lease beside 10,000 rules.
func benchmarkLease(b *testing.B, dp bypass.Datapath) {
	require.NoError(b, dp.Set(b.Context(), base()))
	var c bypass.Change
	for n := range 5000 {
		c.Add = append(c.Add, change(n).Add...)
	}
	require.NoError(b, dp.Apply(b.Context(), c))
	c = bypass.Change{Leases: []bypass.Lease{renewal()}}
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, dp.Apply(b.Context(), c))
	}
}

func fakeDatapath(b *testing.B) bypass.Datapath {
	dp, err := newFake(b).Open(b.Context())
	require.NoError(b, err)
	b.Cleanup(func() { _ = dp.Close() })
	waitUp(b, dp)
	return dp
}

// waitUp returns when dp has said that it is up.
func waitUp(tb testing.TB, dp bypass.Datapath) {
	ctx, cancel := context.WithCancel(tb.Context())
	require.NoError(tb, dp.Watch(ctx, func(e bypass.Event) {
		if _, up := e.(bypass.DatapathUp); up {
			cancel()
		}
	}))
}

func BenchmarkApplyFake(b *testing.B) { benchmarkApply(b, fakeDatapath(b)) }
func BenchmarkLeaseFake(b *testing.B) { benchmarkLease(b, fakeDatapath(b)) }

// benchmarkRules measures one listing of the rules of 10,000 flows, with their counters.
func benchmarkRules(b *testing.B, dp bypass.Datapath) {
	require.NoError(b, dp.Set(b.Context(), base()))
	for n := range 20 {
		var c bypass.Change
		for i := range 500 {
			c.Add = append(c.Add, change(500*n+i).Add...)
		}
		require.NoError(b, dp.Apply(b.Context(), c))
	}
	b.ReportAllocs()
	for b.Loop() {
		list, err := dp.Rules(b.Context())
		require.NoError(b, err)
		require.Len(b, list, 20000)
	}
}

func BenchmarkRulesFake(b *testing.B) { benchmarkRules(b, fakeDatapath(b)) }
