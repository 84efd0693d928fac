package chaos_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/internal/lab"
)

// built are the programs that tests start.
var built itest.Programs

func TestMain(m *testing.M) {
	code := m.Run()
	if err := built.Remove(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// TestIntegrationChaos is make chaos, with a seed that has every kind of fault in its first
// two storms. Chaos itself asserts that checksums, switches and machine are as they must be.
func TestIntegrationChaos(t *testing.T) {
	itest.Require(t, "turnserver", "ovs-vswitchd", "ovsdb-server", "iperf3", "ip", "sysctl", "ethtool")
	itest.RequireNFT(t)
	itest.NotOn(t, itest.System, "its one core runs no five hosts")
	root, err := os.MkdirTemp("", "vx") // short: sockets are below it
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	r, err := lab.Chaos(t.Context(), lab.ChaosConfig{
		Prefix: "vx" + filepath.Base(root)[len("vx"):] + "-", Root: root, Datapath: lab.Datapath(itest.Datapath(t)),
		Program: built.Path(t, "github.com/viasnet/vias/examples/node"),
		Seed:    1, Storms: 2, Storm: 5 * time.Second, Progress: func(line string) { t.Log(line) },
	})
	r.Print(t.Output())
	require.NoError(t, err)
	require.Empty(t, r.Missing(), "kinds of faults that did not happen")
	require.Len(t, r.Transfers, 6)
	for _, x := range r.Transfers {
		require.Zero(t, x.Resumed, "a connection of %s did not survive", x.Name)
	}
	require.Zero(t, r.Outside)
	require.Positive(t, r.Inside, "what is bypassed is in clear where the capture looks")
}
