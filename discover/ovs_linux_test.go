package discover

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/internal/ovstest"
	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/ofctl/ovs/ovsdb"
)

// restartDB kills ovsdb-server and starts it anew with the arguments that it had.

func restartDB(t *testing.T, s *ovstest.Switch) {
	text, err := os.ReadFile(filepath.Join(s.Dir(), "ovsdb-server.pid"))
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	require.NoError(t, err)
	cmdline, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	require.NoError(t, err)
	args := strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	require.Eventually(t, func() bool { return syscall.Kill(pid, 0) != nil || stopped(pid) }, patience, 10*time.Millisecond)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), s.Env()...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%v: %s", args, out)
	text, err = os.ReadFile(filepath.Join(s.Dir(), "ovsdb-server.pid"))
	require.NoError(t, err)
	again, err := strconv.Atoi(strings.TrimSpace(string(text)))
	require.NoError(t, err)
	t.Cleanup(func() { // the switch's own clean-up knows the first one only
		require.NoError(t, syscall.Kill(again, syscall.SIGTERM))
		require.Eventually(t, func() bool { return syscall.Kill(again, 0) != nil || stopped(again) }, patience, 10*time.Millisecond)
	})
}

// stopped tells whether a process is dead and waits for its parent.
func stopped(pid int) bool {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err != nil || strings.Contains(string(text), ") Z ")
}

// discoverOn runs a Discoverer on br0 until stop, after which nothing of it may be in the switch.
func discoverOn(t *testing.T, s *ovstest.Switch, cfg Config) (w *world, stop func()) {
	w = &world{T: t, sink: &sink{have: map[string]Endpoint{}}}
	cfg.Bridge, cfg.Sink = "br0", w.sink
	var err error
	w.d, err = New(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.d.Run(ctx) }()
	return w, func() {
		cancel()
		require.NoError(t, <-done)
		require.Len(t, s.DumpFlows("br0"), 1, "nothing is left in the switch")
	}
}

// A real database and a real switch: ports come, go, and outlive the server.
func TestIntegrationOVS(t *testing.T) {
	itest.Require(t, "ping")
	s := ovstest.Start(t)
	mgmt := s.Bridge("br0")
	s.MustOfctl("add-flow", "br0", "priority=0,actions=NORMAL")
	s.Port("br0", "w1", "g1")
	s.MustVsctl("set", "interface", "w1", "external_ids:iface-id=one", `external_ids:attached-mac="02:00:00:00:00:01"`, "external_ids:ip=192.168.7.1")
	s.Port("br0", "w2", "g2")
	s.MustVsctl("add-port", "br0", "t0", "--", "set", "interface", "t0", "type=vxlan", "options:remote_ip=192.0.2.1")

	w, stop := discoverOn(t, s, Config{OVSDB: ovsdb.Config{Address: s.DB(), RetryMax: 200 * time.Millisecond}, Dial: ofctl.Dialer(mgmt, ofctl.Config{})})
	defer stop()
	k := w.sink
	w.await("the named one is attached", func() bool { return k.get("one").MAC == guest })
	w.await("w2 is learned of", func() bool {
		return slices.ContainsFunc(s.DumpFlows("br0"), func(f string) bool { return strings.Contains(f, "table=24") })
	})
	for _, f := range s.DumpFlows("br0") {
		t.Log(f)
	}
	s.IP("-n", s.Netns, "addr", "add", "192.168.7.2/24", "dev", "g2")
	w.await("w2's kernel has told its address", func() bool {
		_ = exec.Command("ip", "netns", "exec", s.Netns, "ping", "-c1", "-W1", "-I", "g2", "192.168.7.9").Run() // nobody answers
		e := k.get("w2")
		return e.Known == Learned && len(e.IPs) == 1
	})
	require.Equal(t, "192.168.7.2", k.get("w2").IPs[0].String())

	before, _ := k.calls()
	restartDB(t, s)
	s.MustVsctl("add-port", "br0", "w3", "--", "set", "interface", "w3", "type=internal", "external_ids:iface-id=three",
		`external_ids:attached-mac="02:00:00:00:00:03"`, "external_ids:ip=192.168.7.3")
	w.attached("one", "three", "w2")
	after, removed := k.calls()
	require.Equal(t, before+1, after, "nothing twice")
	require.Zero(t, removed, "nothing was lost")
	s.MustVsctl("del-port", "br0", "w1")
	w.attached("three", "w2")
}

// A real switch without its database: port-status tells of ports.
func TestIntegrationPortStatus(t *testing.T) {
	itest.Require(t, "ping")
	s := ovstest.Start(t)
	mgmt := s.Bridge("br0")
	s.MustOfctl("add-flow", "br0", "priority=0,actions=NORMAL")
	w, stop := discoverOn(t, s, Config{NoDatabase: true, Exclude: []string{"x1"}, Retry: time.Hour, // by port-status alone
		Dial: ofctl.Dialer(mgmt, ofctl.Config{})})
	defer stop()
	k, d := w.sink, w.d
	w.await("the bridge is found", func() bool { return d.Status().Found })
	s.Port("br0", "x1", "gx1")
	s.Port("br0", "w2", "g2")
	s.IP("-n", s.Netns, "addr", "add", "192.168.7.2/24", "dev", "g2")
	ping := func() bool {
		_ = exec.Command("ip", "netns", "exec", s.Netns, "ping", "-c1", "-W1", "-I", "g2", "192.168.7.9").Run() // nobody answers
		return slices.Equal(k.names(), []string{"w2"})
	}
	w.await("w2's kernel has told its address", ping)
	require.Equal(t, "192.168.7.2", k.get("w2").IPs[0].String())
	require.Equal(t, "excluded by configuration", w.port("x1").Reason)
	s.MustVsctl("del-port", "br0", "w2")
	w.attached()
}
