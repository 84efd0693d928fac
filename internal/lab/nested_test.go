package lab

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMachines(t *testing.T) {
	twoSites := []Site{{Prefix: netip.MustParsePrefix("10.99.0.0/24")}, {Prefix: netip.MustParsePrefix("10.98.0.0/24")}}
	for _, c := range []Config{{Machines: -1}, {Machines: 3}, {Machines: 1, Sites: twoSites}, {Machines: 1, Far: Far{Loss: 0.5}}} {
		_, err := c.normal()
		require.ErrorIs(t, err, ErrLab, "%+v", c)
	}
	c, err := Config{Hosts: 4, Machines: 2, LXC: true}.normal()
	require.NoError(t, err)
	plan := c.plan()
	require.Equal(t, "vias-m2", plan[3].Provider)
	require.Equal(t, machineBridge, plan[3].joins(c.site(4)))
	require.Len(t, plan[3].Containers, 2)
	require.False(t, plan[3].Containers[0].LXC)
	require.True(t, plan[3].Containers[1].LXC)
	c.Machines = 0
	require.Equal(t, "net0", c.plan()[3].joins(c.site(4)))
}
