package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netns"

	"github.com/viasnet/vias/bypass/underlay"
	"github.com/viasnet/vias/internal/itest"
)

// built are the programs that tests start; TestMain removes them.
var built itest.Programs

// TestMain lets the test binary play the ends of the ping-pong, and the lab that
// is killed.
func TestMain(m *testing.M) {
	if mine, err := Child(os.Args[1:], os.Stdin, os.Stdout); mine {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if config := os.Getenv(sharedEnv); config != "" {
		if err := sharedHost(config, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if at := os.Getenv(turnEnv); at != "" {
		if err := turnServer(at); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if root := os.Getenv("VIAS_TEST_LAB_ROOT"); root != "" {
		cfg := testConfigAt(root)
		cfg.Datapath = Datapath(os.Getenv("VIAS_TEST_LAB_DATAPATH"))
		_, err := Up(context.Background(), cfg)
		fmt.Println("up:", err)
		select {}
	}
	code := m.Run()
	if err := built.Remove(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// testConfig is a lab on the datapath that the tests are to run on.
func testConfig(t *testing.T, root string) Config {
	cfg := testConfigAt(root)
	cfg.Datapath = Datapath(itest.Datapath(t))
	if cfg.Datapath == DatapathSystem {
		cfg.MaxRTT = 400 * time.Millisecond // user-mode-linux has one core, and a slow one
	}
	return cfg
}

func testConfigAt(root string) Config {
	return Config{Prefix: "vt" + filepath.Base(root)[len("vt"):] + "-", Root: root, Containers: 2}
}

// testRoot is short: sockets are below it.
func testRoot(t *testing.T) string {
	root, err := os.MkdirTemp("", "vt")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	return root
}

func requireNothingLeft(t *testing.T, cfg Config, d stateData) {
	t.Helper()
	require.Len(t, d.OVS, 2)
	requireGone(t, d)
	require.ErrorIs(t, Down(t.Context(), cfg), fs.ErrNotExist)
}

// requireGone: nothing that a lab's state named is there.
func requireGone(t *testing.T, d stateData) {
	t.Helper()
	require.NotEmpty(t, d.Namespaces)
	for _, ns := range d.Namespaces {
		require.False(t, namespaceExists(ns), ns)
	}
	require.NoDirExists(t, d.Dir)
	running, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, path := range running {
		args, _ := os.ReadFile(path) // it may have ended meanwhile
		require.NotContains(t, string(args), d.Dir, path)
	}
}

// echoed sends a few packets of so many bytes and tells whether one was answered.
func echoed(t *testing.T, l *Lab, ns string, to fmt.Stringer, size, count int) bool {
	_, err := l.in(t.Context(), ns, "ping", "-q", "-n", "-i0.2", "-W0.5", "-Mdo",
		fmt.Sprintf("-c%d", count), fmt.Sprintf("-s%d", size-28), to.String())
	return err == nil
}

// reaches: one answer of several is enough: switches learn, and machines are busy.
func reaches(t *testing.T, l *Lab, ns string, to fmt.Stringer, size int, what string) {
	t.Helper()
	for try := 0; !echoed(t, l, ns, to, size, 1); try++ {
		require.Less(t, try, 10, what)
	}
}

func isCutOff(t *testing.T, l *Lab, ns string, to fmt.Stringer, what string) {
	t.Helper()
	require.False(t, echoed(t, l, ns, to, 100, 2), what)
}

// preflight runs the node's own checks on a host. Its goroutine keeps its thread,
// which ends in the host's namespace.
func (l *Lab) preflight(t *testing.T, h *Host) []underlay.Finding {
	found := make(chan []underlay.Finding, 1)
	go func() {
		defer close(found)
		runtime.LockOSThread()
		ns, err := netns.GetFromName(h.Namespace)
		if err != nil {
			return
		}
		defer ns.Close()
		if netns.Set(ns) == nil {
			found <- underlay.Preflight(t.Context(), underlay.CheckConfig{
				Config: underlay.Config{Device: bridge, Uplink: uplink}, UserspaceDatapath: l.cfg.Datapath.isUser()})
		}
	}()
	return <-found
}

func TestIntegrationLab(t *testing.T) {
	itest.Require(t, append(programs(), "ping")...)
	ctx, cfg := t.Context(), testConfig(t, testRoot(t))
	l, err := Up(ctx, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Down(context.Background())) })
	_, err = Up(ctx, cfg)
	require.ErrorContains(t, err, "one is up already")

	h1, h2 := l.hosts[0], l.hosts[1]
	reaches(t, l, h1.Namespace, h2.Addr, 1500, "host to host by the bridges, full size")
	reaches(t, l, h1.Namespace, gateway(), 1500, "host to the provider")
	reaches(t, l, h1.Namespace, h2.Addr6, 1480, "host to host over IPv6")
	reaches(t, l, h1.Namespace, l.cfg.site(1).gateway6(), 1480, "host to the provider over IPv6")
	findings := l.preflight(t, h1)
	require.Len(t, findings, 7)
	for _, f := range findings {
		require.True(t, f.OK, "%+v", f)
	}
	c1, c2, far := h1.Containers[0], h1.Containers[1], h2.Containers[0]
	isolated := func() {
		t.Helper()
		reaches(t, l, c1.Namespace, c2.Addr, 1400, "containers of one host")
		isCutOff(t, l, c1.Namespace, far.Addr, "containers of two hosts, without nodes")
		require.NoError(t, l.ip(ctx, c1.Namespace, "route replace 10.99.0.0/24 dev eth0"))
		isCutOff(t, l, c1.Namespace, gateway(), "a container and the underlay")
		isCutOff(t, l, c1.Namespace, h1.Addr, "a container and its host")
	}
	isolated()
	require.NoError(t, l.ovs[0].RestartVswitchd(ctx, true))
	isolated()
	reaches(t, l, h1.Namespace, h2.Addr, 1500, "after the restart of a switch")

	require.NoError(t, l.NativeOn(ctx))
	reaches(t, l, c1.Namespace, far.Addr, 1400, "native")
	reaches(t, l, c1.Namespace, far.Addr6, 1380, "native over IPv6")
	require.NoError(t, l.NativeOff(ctx))
	isCutOff(t, l, c1.Namespace, far.Addr, "native no more")

	r, err := l.Measure(ctx, MeasureConfig{Duration: time.Second, Rounds: 2, NativeOnly: true})
	require.NoError(t, err)
	require.False(t, r.Failed(), "%+v", r)
	require.Len(t, r.Rows, 1)
	require.Positive(t, r.Rows[0].TCPMbps)
	require.Positive(t, r.Rows[0].P50)
	r.Print(os.Stdout)

	for _, h := range l.hosts {
		c := l.nodeConfig(h)
		require.NoError(t, c.Validate())
	}
	d := l.state.data
	require.Empty(t, d.Processes, "the servers are gone")
	require.NoError(t, l.Down(ctx))
	requireNothingLeft(t, cfg, d)
}

func TestIntegrationLabAfterCrash(t *testing.T) {
	itest.Require(t, programs()...)
	root := testRoot(t)
	cfg, err := testConfig(t, root).normal()
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "VIAS_TEST_LAB_ROOT="+root, "VIAS_TEST_LAB_DATAPATH="+string(cfg.Datapath))
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	b := make([]byte, 200)
	n, err := out.Read(b)
	require.NoError(t, err)
	require.Equal(t, "up: <nil>\n", string(b[:n]))
	require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
	_ = cmd.Wait()

	text, err := os.ReadFile(statePath(cfg.dir()))
	require.NoError(t, err)
	var d stateData
	require.NoError(t, json.Unmarshal(text, &d))
	require.Len(t, d.Namespaces, 7)
	require.NoError(t, Down(t.Context(), cfg))
	requireNothingLeft(t, cfg, d)
}

func TestIntegrationLabInterrupted(t *testing.T) {
	itest.Require(t, programs()...)
	cfg := testConfig(t, testRoot(t))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := Up(ctx, cfg)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, Down(t.Context(), cfg), fs.ErrNotExist, "it cleaned up by itself")
	n, err := cfg.normal()
	require.NoError(t, err)
	require.False(t, namespaceExists(n.Prefix+"net"))
}
