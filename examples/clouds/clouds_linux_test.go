package main

import (
	"context"
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
	if mine, err := lab.Child(os.Args[1:], os.Stdin, os.Stdout); mine {
		exit(err)
	}
	code := m.Run()
	if err := built.Remove(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// clouds are those of the demonstration, for less time.
func clouds(t *testing.T) lab.CloudsConfig {
	t.Helper()
	itest.Require(t, "turnserver", "ovs-vswitchd", "ovsdb-server", "iperf3", "ip", "sysctl", "ethtool")
	itest.RequireNFT(t)
	itest.NotOn(t, itest.System, "its one core runs no five hosts")
	root, err := os.MkdirTemp("", "vc") // short: sockets are below it
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	return lab.CloudsConfig{
		Prefix: "vc" + filepath.Base(root)[len("vc"):] + "-", Root: root, Datapath: lab.Datapath(itest.Datapath(t)),
		MaxRTT: time.Second, // beside other tests
		// What is right is so at once, or not at all; bursts are shown, not judged.
		Settle: time.Second, Burst: 100 * time.Millisecond, Every: 100 * time.Millisecond,
		Program:  built.Path(t, "github.com/viasnet/vias/examples/node"),
		Progress: func(line string) { t.Log(line) },
	}
}

// TestIntegrationClouds is the demonstration, which asserts by itself that paths, checksums and machine are
// as they must be.
func TestIntegrationClouds(t *testing.T) {
	cfg := clouds(t)
	s := &screen{}
	cfg.Show = s.show
	r, err := lab.Clouds(t.Context(), cfg)
	require.NoError(t, err)
	require.Len(t, r.Stages, 5)
	for i, pairs := range []int{6, 10, 10, 10, 10} {
		require.Len(t, r.Stages[i].Pairs, pairs, r.Stages[i].Name)
	}
	require.Zero(t, r.Outside)
	require.Positive(t, r.Inside, "what is bypassed is in clear where the capture looks")
	require.Positive(t, r.Carried)
	for _, p := range r.Stages[4].Pairs {
		require.Positive(t, p.Burst, p)
	}
	require.Contains(t, string(s.last), "h5c1  host 2, cloud B")
}

// TestIntegrationCloudsInterrupted ends it in the middle: Clouds itself looks for what is left.
func TestIntegrationCloudsInterrupted(t *testing.T) {
	cfg := clouds(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cfg.Progress = func(string) { cancel() }
	r, err := lab.Clouds(ctx, cfg)
	require.ErrorIs(t, err, context.Canceled)
	require.NotContains(t, err.Error(), "is left")
	require.Empty(t, r.Stages)
}
