//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bench"
	"github.com/viasnet/vias/internal/itest"
)

// This binary is its own traffic, as the program is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == childMark {
		if err := child(os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestReceived(t *testing.T) {
	got, err := received([]byte(`{"end":{"sum_sent":{"bits_per_second":9e9},"sum_received":{"bits_per_second":2.5e9}}}`))
	require.NoError(t, err)
	require.InDelta(t, 2500, got, 0.001)
	_, err = received([]byte(`{"error":"unable to connect"}`))
	require.ErrorContains(t, err, "unable to connect")
	_, err = received([]byte("iperf3: not found"))
	require.Error(t, err)
}

func TestChoose(t *testing.T) {
	list, err := choose("native,tinc")
	require.NoError(t, err)
	require.Len(t, list, 2)
	_, err = choose("native,nope")
	require.ErrorContains(t, err, "nope")
	for _, target := range bench.Targets() {
		if target.Peer != "" {
			require.Contains(t, known(), target.Peer)
		}
	}
}

// A difference in usage is ours, or somebody else's.
func TestUsage(t *testing.T) {
	at := time.Now()
	before := usage{at: at, busy: 100, interrupt: 5, procs: 10}
	d := usage{at: at.Add(2 * time.Second), busy: 104, interrupt: 5.5, procs: 11.5}.since(before, 1)
	require.Equal(t, 2*time.Second, d.took)
	require.InDelta(t, 3, d.ours, 1e-9)
	require.InDelta(t, 1, d.foreign, 1e-9)
	require.Positive(t, (&wire{}).usage().busy)
	start := used(os.Getpid())
	for used(os.Getpid()) < start+0.03 { // three ticks
	}
}

func leftNamespaces(t *testing.T) (left []string) {
	t.Helper()
	list, err := filepath.Glob("/run/netns/vb" + fmt.Sprint(os.Getpid()) + "*")
	require.NoError(t, err)
	return list
}

// The smallest run there is: every figure of the bare wire and of vias, and nothing left.
func TestIntegrationRun(t *testing.T) {
	itest.Require(t, "ip", "iperf3", "ethtool", "ping", "sysctl", "go")
	t.Chdir("../..") // where the program is started
	dir := t.TempDir()
	o := options{peers: "native,vias", modes: bench.ModeNIC, rounds: 1, seconds: 1, steps: 1, bin: filepath.Join(dir, "bin"), out: dir}
	require.NoError(t, run(t.Context(), o, io.Discard, t.Output()))
	r, err := bench.Load(filepath.Join(dir, "overlay.json"))
	require.NoError(t, err)
	require.Empty(t, r.Failed)
	for _, peer := range []string{"native", bench.Vias} {
		for _, test := range []string{bench.TCP1, bench.TCP4, bench.TCP1CPU, bench.TCP4CPU, bench.UDPFlood, bench.RTT50, bench.RTT99} {
			v, ok := r.Median(bench.ModeNIC, peer, test)
			require.True(t, ok, "%s %s", peer, test)
			require.Positive(t, v, "%s %s", peer, test)
		}
	}
	rss, _ := r.Median(bench.ModeNIC, bench.Vias, bench.RSS)
	require.Greater(t, rss, 5.0)
	require.FileExists(t, filepath.Join(dir, "overlay.md"))
	require.FileExists(t, filepath.Join(dir, "tcp1-nic.svg"))
	require.Empty(t, leftNamespaces(t))
}

// Ctrl-C in the middle of a test leaves nothing behind, and no report.
func TestIntegrationInterrupted(t *testing.T) {
	itest.Require(t, "ip", "iperf3", "ethtool", "ping", "sysctl")
	ctx, cancel := context.WithCancel(t.Context())
	dir := t.TempDir()
	var w watch = func(line string) {
		if strings.Contains(line, bench.TCP1CPU) { // four streams are next
			time.AfterFunc(100*time.Millisecond, cancel)
		}
	}
	o := options{peers: "native", modes: bench.ModeDefault, rounds: 1, seconds: 1, bin: dir, out: dir}
	start := time.Now()
	require.ErrorIs(t, run(ctx, o, io.Discard, w), context.Canceled)
	require.Less(t, time.Since(start), 20*time.Second)
	require.NoFileExists(t, filepath.Join(dir, "overlay.json"))
	require.Empty(t, leftNamespaces(t))
}

// watch sees what is written.
type watch func(string)

func (w watch) Write(b []byte) (int, error) {
	w(string(b))
	return len(b), nil
}
