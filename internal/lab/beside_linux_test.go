package lab

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/itest"
)

// TestIntegrationBeside: the overlay's datagrams do not cross the bridge's own port, and switches drop what
// the hosts' kernels have already; what is bypassed crosses the switches as ever.
func TestIntegrationBeside(t *testing.T) {
	beside(t)
	itest.RequireNFT(t)
	itest.NotOn(t, itest.System, "the kernel's datapath takes the uplink's frames from the host")
	s := newSystemOf(t, func(c *Config) { c.Beside, c.Containers = true, 1 }, "ss")
	require.NoError(t, s.ReceiveBuffers(t.Context(), 1<<20))
	for _, h := range s.hosts {
		out, err := s.in(t.Context(), h.Namespace, "ss", "-0", "-m", "-a", "-n")
		require.NoError(t, err)
		require.Equal(t, 3, strings.Count(out, "rb2097152"), "uplink, TAP and container; the kernel doubles it: %s", out)
	}
	s.startNodes()
	overBridge := func() uint64 {
		out, err := command(t.Context(), "ip", "netns", "exec", s.hosts[0].Namespace, "cat", "/sys/class/net/"+bridge+"/statistics/tx_bytes")
		require.NoError(t, err)
		n, err := strconv.ParseUint(strings.TrimSpace(out), 10, 64)
		require.NoError(t, err)
		return n
	}
	cell := func(m Mode) (moved uint64) {
		before := overBridge()
		require.NoError(t, s.withServers(t.Context(), []Mode{m}, func() error {
			c, err := s.cell(t.Context(), Kind{}, m, MatrixConfig{Duration: 1e9}.normal())
			require.NoError(t, err)
			require.Empty(t, c.Fail)
			moved = c.Proof.Moved
			return nil
		}))
		require.Less(t, overBridge()-before, moved/10, "of %d bytes that moved %v", moved, m)
		return moved
	}
	require.Greater(t, cell(Overlay), uint64(1<<20))
	cell(Bypass)
	dropped, err := s.OVS(2).Ofctl(t.Context(), "dump-flows", bridge, fmt.Sprintf("cookie=%#x/-1", uint64(besideCookie)))
	require.NoError(t, err)
	require.Len(t, parseFlows(dropped), 1, dropped)
}
