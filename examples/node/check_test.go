package main

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass/underlay"
	"github.com/viasnet/vias/internal/nodecfg"
)

func TestPrintFinding(t *testing.T) {
	for want, f := range map[string]underlay.Finding{
		"ok   a: b\n":                    {What: "a", OK: true, Detail: "b"},
		"bad  a: b\n     -> do this\n":   finding("a", "", errors.New("b"), "do this"),
		"mind a\n     -> perhaps this\n": {What: "a", OK: true, Remedy: "perhaps this"},
	} {
		var out bytes.Buffer
		require.NoError(t, printFinding(&out, f))
		require.Equal(t, want, out.String())
	}
}

// Trap 45: which switches spoil the checksums that workloads leave to others.
func TestJudgeChecksums(t *testing.T) {
	cfg := &nodecfg.Config{Uplink: "eth0", Bridge: "br0"}
	f := judgeChecksums(true, true, cfg)
	require.True(t, f.OK, "whether workloads offload cannot be seen")
	require.Contains(t, f.Detail, "eth0, a real card")
	require.Contains(t, f.Remedy, "tx off")
	require.Contains(t, f.Remedy, "ovs-vsctl set bridge br0 datapath_type=system")
	f = judgeChecksums(true, false, cfg)
	require.True(t, f.OK)
	require.Empty(t, f.Remedy)
	f = judgeChecksums(false, true, cfg)
	require.True(t, f.OK)
	require.Contains(t, f.Detail, "without userspace-tso-enable")
	require.Contains(t, f.Remedy, "tx off")
	require.False(t, hasHardware("lo"))
}
