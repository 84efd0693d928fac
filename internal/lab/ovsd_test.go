package lab_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/lab"
	"github.com/viasnet/vias/internal/ovstest"
)

func TestStartOVSDRefusesUnusableDirectory(t *testing.T) {
	for _, dir := range []string{"", "relative", "/" + strings.Repeat("x", 90)} {
		_, err := lab.StartOVSD(t.Context(), lab.OVSDConfig{Dir: dir})
		require.ErrorContains(t, err, "run directory", dir)
	}
}

func TestIntegrationOVSDRestartAndStop(t *testing.T) {
	s := ovstest.Start(t)
	s.Bridge("br0")
	s.MustVsctl("set", "bridge", "br0", "fail-mode=standalone")
	s.MustOfctl("add-flow", "br0", "table=3,actions=drop")
	require.Contains(t, strings.Join(s.DumpFlows("br0"), "\n"), "table=3")
	for _, crash := range []bool{false, true} {
		require.NoError(t, s.RestartVswitchd(t.Context(), crash))
		s.MustVsctl("add-port", "br0", "wait", "--", "set", "interface", "wait", "type=internal")
		s.MustVsctl("del-port", "br0", "wait")
		require.Equal(t, []string{"priority=0 actions=NORMAL"}, s.DumpFlows("br0"), "crash=%v", crash)
	}
	pid, err := os.ReadFile(filepath.Join(s.Dir(), "ovs-vswitchd.pid"))
	require.NoError(t, err)
	require.NoError(t, lab.StopOVSD(s.Dir()))
	args, _ := os.ReadFile(filepath.Join("/proc", strings.TrimSpace(string(pid)), "cmdline"))
	require.NotContains(t, string(args), s.Dir())
	require.NoError(t, s.Stop(), "stopping twice is no error")
}
