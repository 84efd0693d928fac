//go:build linux

package measure

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
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
	if is, err := Child(os.Args, os.Stdin, os.Stdout); is {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	dir, err := os.MkdirTemp("", "vias-bench-bin")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir) // an exit code is all that is left to say
	os.Exit(code)
}

// binDir has what tests build, for all of them: linking takes seconds.
var binDir string

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
	list, err := Choose(Overlays(), "native,tinc")
	require.NoError(t, err)
	require.Len(t, list, 2)
	_, err = Choose(Overlays(), "native,nope")
	require.ErrorContains(t, err, "nope")
	for _, target := range bench.Targets() {
		if target.Peer != "" {
			require.Contains(t, Names(Overlays()), target.Peer)
		}
	}
}

// A difference in usage is ours, or somebody else's.
func TestUsage(t *testing.T) {
	at := time.Now()
	before := usage{at: at, busy: 100, interrupt: 5, procs: 10, self: 7}
	d := usage{at: at.Add(2 * time.Second), busy: 104.5, interrupt: 5.5, procs: 11.5, self: 7.5}.since(before, 1)
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
	t.Chdir("../../..") // where the program is started
	dir := t.TempDir()
	r, err := Run(t.Context(), smallest(t, Overlays(), "native,vias", bench.ModeNIC))
	require.NoError(t, err)
	require.NoError(t, bench.Overlays().Write(r, dir, io.Discard))
	r, err = bench.Load(filepath.Join(dir, "overlay.json"))
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

// Every mode has the peers that its figures are held beside.
func TestModes(t *testing.T) {
	list := func(mode string) (names []string) {
		for _, p := range Overlays() {
			if p.in(mode) {
				names = append(names, p.name)
			}
		}
		return names
	}
	require.Equal(t, Names(Overlays()), list(bench.ModeDefault), "there everything is measured")
	require.Equal(t, []string{"native", bench.Vias, bench.WireGuard}, list(bench.ModeLoss1))
	require.Equal(t, list(bench.ModeLoss1), list(bench.ModeLoss10))
	require.NotContains(t, list(bench.ModeNIC), "bypass")
	for _, target := range bench.Targets() {
		require.Contains(t, list(target.Mode), bench.Vias)
		if target.Peer != "" {
			require.Contains(t, list(target.Mode), target.Peer)
		}
	}
	for _, bad := range []Options{{Modes: []string{"nope"}, Rounds: 1, Seconds: 1}, {Seconds: 1}, {Rounds: 1}, {Rounds: 1, Seconds: 1, Flows: []int{0}}} {
		_, err := Run(t.Context(), bad)
		require.Error(t, err, "%+v", bad)
	}
}

// visited is a visit whose peer is up, until the test ends.
func visited(t *testing.T, name, mode string) *visit {
	t.Helper()
	o := smallest(t, Overlays(), name, mode)
	require.NoError(t, ready(t.Context(), binDir, o.Peers))
	v := &visit{o: o, peer: o.Peers[0], mode: mode, round: 1, report: &bench.Report{}}
	t.Cleanup(func() {
		require.NoError(t, v.wire.close())
		require.Empty(t, leftNamespaces(t))
	})
	require.NoError(t, v.up(t.Context()))
	return v
}

// A wire that loses a tenth loses a tenth, packet by packet.
func TestIntegrationLoss(t *testing.T) {
	itest.Require(t, "ip", "ethtool", "ping", "sysctl", "nft", "iperf3")
	itest.RequireNFT(t)
	v := visited(t, "native", bench.ModeLoss10)
	for _, size := range []int{smallDatagram, bulkDatagram} {
		f, err := v.flood(t.Context(), 4000, size)
		require.NoError(t, err)
		require.Greater(t, f.sent, 1000)
		require.InDelta(t, 0.9, float64(f.got)/float64(f.sent), 0.05)
		require.Positive(t, f.cpu)
	}
}

// Hosts with Open vSwitch: what is bypassed does not cross the overlay, and the rest does.
func TestIntegrationBypass(t *testing.T) {
	requireLab(t)
	t.Chdir("../../..") // where the program is started
	v := visited(t, "bypass", bench.ModeDefault)
	mbit, u, err := v.iperf(t.Context(), 1, 1)
	require.NoError(t, err)
	require.Positive(t, mbit)
	require.Positive(t, u.ours)
	v.peer.tunnelled = [2]float64{0.95, 2} // as if it were the overlay's row
	_, _, err = v.iperf(t.Context(), 1, 1)
	require.ErrorIs(t, err, errWay)
	require.Greater(t, v.wire.peak(), 5.0)
}

// The smallest evaluation there is, and nothing left.
func TestIntegrationEvaluation(t *testing.T) {
	requireLab(t)
	t.Chdir("../../..") // where the program is started
	o := smallest(t, Clouds(), "overlay-inter-beside", bench.ModeInter)
	o.Flows = []int{20}
	r, err := Run(t.Context(), o)
	require.NoError(t, err)
	require.Empty(t, r.Failed)
	for _, peer := range o.Peers {
		for _, test := range []string{bench.TCP1, bench.TCP1CPU, bench.TCP4, bench.RTT50} {
			v, ok := r.Median(peer.modes[0], peer.name, test)
			require.True(t, ok, "%s %s", peer.name, test)
			require.Positive(t, v, "%s %s", peer.name, test)
		}
		require.True(t, r.Has(peer.modes[0], bench.UDPBulk), peer.name)
	}
	far, _ := r.Median(bench.ModeInter, "overlay-inter-beside", bench.RTT50)
	require.Greater(t, far, 20_000.0, "µs")
	for _, test := range []string{bench.SetUp50, bench.SetUpMore, bench.SetUpRate, bench.SetUpNodes, bench.SetUpSwitches} {
		v, ok := r.Median(bench.ModeSetUp, "20", test)
		require.True(t, ok, test)
		require.Positive(t, v, test)
	}
	mods, _ := r.Median(bench.ModeSetUp, "20", bench.SetUpMods)
	require.GreaterOrEqual(t, mods, 4.0, "inbound and outbound at both switches")
	requireNoLab(t)

	dir := t.TempDir()
	require.NoError(t, bench.Evaluation().Write(r, dir, io.Discard))
	page, err := os.ReadFile(filepath.Join(dir, "evaluation.md"))
	require.NoError(t, err)
	for _, file := range []string{"evaluation-tcp1-inter.svg", "evaluation-rr-p50-inter.svg", "evaluation-first-p50-setup.svg"} {
		require.FileExists(t, filepath.Join(dir, file))
		require.Contains(t, string(page), "]("+file+")")
	}
}

// Ctrl-C in the middle of a lab, and of a test, leaves nothing behind and no report.
func TestIntegrationInterrupted(t *testing.T) {
	requireLab(t)
	t.Chdir("../../..") // where the program is started
	for _, c := range []struct {
		all        []Peer
		name, mode string
		during     string // once this is measured
	}{
		{Overlays(), "native", bench.ModeDefault, bench.TCP1CPU}, // four streams are next
		{Clouds(), "native", bench.ModeIntra, bench.TCP1CPU},
		{Clouds(), "native", bench.ModeIntra, "round 1"}, // the lab is being built
	} {
		ctx, cancel := context.WithCancel(t.Context())
		var w watch = func(line string) {
			if strings.Contains(line, c.during) {
				time.AfterFunc(100*time.Millisecond, cancel)
			}
		}
		o := smallest(t, c.all, c.name, c.mode)
		o.Progress = w
		start := time.Now()
		r, err := Run(ctx, o)
		require.ErrorIs(t, err, context.Canceled)
		require.Nil(t, r)
		require.Less(t, time.Since(start), 30*time.Second)
		require.Empty(t, leftNamespaces(t))
		requireNoLab(t)
		cancel()
	}
}

// smallest is the least that can be measured.
func smallest(t *testing.T, all []Peer, names string, modes ...string) Options {
	t.Helper()
	list, err := Choose(all, names)
	require.NoError(t, err)
	return Options{Peers: list, Modes: modes, Rounds: 1, Seconds: 1, Steps: 1, Bin: binDir, Progress: t.Output()}
}

func requireLab(t *testing.T) {
	t.Helper()
	itest.Require(t, "ip", "iperf3", "ping", "ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "ovs-ofctl", "ovs-appctl", "ovsdb-tool", "nft", "ethtool", "sysctl", "go")
	itest.NotOn(t, itest.System, "the layout is that of the datapath in user space")
}

func requireNoLab(t *testing.T) {
	t.Helper()
	list, err := filepath.Glob("/run/netns/" + labPrefix + "*")
	require.NoError(t, err)
	require.Empty(t, list)
	require.NoDirExists(t, filepath.Join("/run/vias-lab", strings.TrimSuffix(labPrefix, "-")))
}

// watch sees what is written.
type watch func(string)

func (w watch) Write(b []byte) (int, error) {
	w(string(b))
	return len(b), nil
}

// A program's CPU time counts also when it has ended.
func TestUsedWhenEnded(t *testing.T) {
	cmd := exec.Command("sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")
	require.NoError(t, cmd.Start())
	p := &proc{cmd: cmd, exited: make(chan struct{})}
	require.NoError(t, cmd.Wait())
	close(p.exited)
	require.Positive(t, p.used())
}
