package ofpath_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/ofpath"
	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/ofctl/ofctltest"
)

// TestMeters: ours are made, put right, made again after a restart, and removed at the
// end; others are not touched.
func TestMeters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		foreign := ofctl.Meter{ID: 1, Rate: 1}
		require.NoError(t, r.fake.Apply(t.Context(), []ofctl.Mod{ofctl.MeterMod{Meter: foreign}}))
		meters := func() []ofctl.Meter {
			ms, err := r.fake.Meters(t.Context())
			require.NoError(t, err)
			return ms
		}
		r.bypassed()
		want := []ofctl.Meter{foreign, {ID: 0x7661, Rate: 100, Burst: 100}, {ID: 0x7662, Rate: 2000, Burst: 2000}, {ID: 0x7663, Rate: 100, Burst: 100}}
		require.Equal(t, want, meters())
		var metered []string
		for _, f := range r.flows() {
			if f.Meter != 0 {
				metered = append(metered, f.Flow.String())
				require.True(t, slices.ContainsFunc(f.Apply, func(a ofctl.Action) bool { o, ok := a.(ofctl.Output); return ok && o.Port == ofctl.PortController }))
			}
		}
		require.Len(t, metered, 4, "orphans, the guard over TCP and UDP, copies of ICMP errors")
		changed := want[1]
		changed.Rate = 1 << 20
		require.NoError(t, r.fake.Apply(t.Context(), []ofctl.Mod{ofctl.MeterMod{Command: ofctl.Modify, Meter: changed}}))
		require.NoError(t, r.dp.Set(t.Context(), base()))
		require.Equal(t, want, meters())
		require.NoError(t, r.fake.Apply(t.Context(), []ofctl.Mod{ofctl.MeterMod{Command: ofctl.Delete, Meter: want[2]}}))
		require.NoError(t, r.dp.Set(t.Context(), base()))
		require.Equal(t, want, meters())
		require.NoError(t, r.dp.Set(t.Context(), bypass.Base{Epoch: 0x4d}))
		require.Equal(t, want[:1], meters())
		require.NoError(t, r.dp.Close())
	})
}

// TestNoMeters: a switch without meters bypasses all the same.
func TestNoMeters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := ofctltest.New(ofctltest.Config{Lacks: ofctl.CapMeter})
		defer sw.Close()
		_, err := sw.AddPort(ofctltest.Port{Name: "eth0"})
		require.NoError(t, err)
		dp, err := ofpath.Open(ofpath.Config{Uplink: "eth0",
			Dial: func(context.Context) (ofctl.Switch, error) { return sw.Connect(), nil }})(t.Context())
		require.NoError(t, err)
		waitUp(t, dp)
		require.NoError(t, dp.Set(t.Context(), base()))
		c := change(0)
		c.Leases = []bypass.Lease{renewal()}
		require.NoError(t, dp.Apply(t.Context(), c))
		rules, err := dp.Rules(t.Context())
		require.NoError(t, err)
		require.Len(t, rules, 2)
		require.NoError(t, dp.Set(t.Context(), bypass.Base{Epoch: 0x4d}))
		require.NoError(t, dp.Close())
	})
}
