package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// privateRun gives this process an empty /run. It is in a mount namespace of its own already
// (ip netns exec makes one).
func privateRun() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount("vias", "/run", "tmpfs", 0, "")
}

// machines are network namespaces with one wire between them, 10.99.0.1 and 10.99.0.2.
func machines(t *testing.T) (names []string) {
	t.Helper()
	ip := func(args ...string) {
		t.Helper()
		out, err := exec.Command("ip", args...).CombinedOutput()
		require.NoError(t, err, "ip %q: %s", args, out)
	}
	for _, c := range "ab" {
		name := fmt.Sprintf("vias4-%d-%c", os.Getpid(), c)
		ip("netns", "add", name)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
		ip("-n", name, "link", "set", "lo", "up")
		names = append(names, name)
	}
	ip("-n", names[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", names[1])
	for i, name := range names {
		ip("-n", name, "addr", "add", fmt.Sprintf("10.99.0.%d/24", i+1), "dev", "eth0")
		ip("-n", name, "link", "set", "eth0", "up")
	}
	return names
}

// machine is a node that runs in a namespace with a /run of its own.
type machine struct {
	*exec.Cmd
	log lines
}

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func boot(t *testing.T, namespace, config string) *machine {
	t.Helper()
	m := &machine{Cmd: exec.Command("ip", "netns", "exec", namespace, "/proc/self/exe", "-config", config)}
	self, err := os.Executable()
	require.NoError(t, err)
	m.Args[4] = self
	m.Env = append(os.Environ(), playNode+"="+ownRun)
	m.Stderr = &m.log
	require.NoError(t, m.Start())
	t.Cleanup(func() {
		_ = m.Process.Signal(syscall.SIGTERM)
		_ = m.Wait()
		if t.Failed() {
			t.Logf("in %s:\n%s", namespace, m.log.String())
		}
	})
	return m
}

// socket is the node's default one.
func (m *machine) socket(network string) string {
	return fmt.Sprintf("/proc/%d/root/run/vias/%s.sock", m.Process.Pid, network)
}

// status asks the node at its default path.
func (m *machine) status(t *testing.T, network string) (s nodeapi.Status, ok bool) {
	code, out, _ := called(t, "status", "-json", "-socket", m.socket(network))
	return s, code == 0 && json.Unmarshal([]byte(out), &s) == nil
}

// A node of four lines joins the network that a node of three lines, which is the rendezvous, began.
// Both have nothing else.
func TestIntegrationFourLines(t *testing.T) {
	itest.Require(t, "ip")
	dir := t.TempDir()
	id := func(name string) overlay.PeerID {
		_, out, _ := called(t, "id", "-identity", filepath.Join(dir, name, "identity.pem"))
		id, err := overlay.ParsePeerID(strings.TrimSpace(out))
		require.NoError(t, err)
		return id
	}
	a, b := id("a"), id("b")
	first := fmt.Sprintf(`{
  "identity": %q,
  "network": "blue",
  "peers": [{"id": %q}]
}`, filepath.Join(dir, "a", "identity.pem"), b)
	joins := func(name string) string {
		return fmt.Sprintf(`{
  "identity": %q,
  "network": "blue",
  "signal": "nats://10.99.0.1:4222",
  "peers": [{"id": %q}]
}`, filepath.Join(dir, name, "identity.pem"), a)
	}
	await := func(what string, done func() bool) {
		t.Helper()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for end := time.After(40 * time.Second); !done(); {
			select {
			case <-tick.C:
			case <-end:
				require.FailNow(t, "timed out", "waiting for %s", what)
			}
		}
	}
	at := machines(t)
	second := boot(t, at[1], writeConfig(t, joins("b"))) // the rendezvous may come later
	one := boot(t, at[0], writeConfig(t, first))
	for _, m := range []*machine{one, second} {
		await("the link", func() bool {
			s, ok := m.status(t, "blue")
			return ok && len(s.Peers) == 1 && s.Peers[0].State == "up"
		})
	}

	// Who is not of the network is not let in, and learns no more than that.
	require.NoError(t, second.Process.Signal(syscall.SIGTERM))
	_ = second.Wait()
	stranger := boot(t, at[1], writeConfig(t, joins("c")))
	await("the stranger to hear that it is refused", func() bool { return strings.Contains(stranger.log.String(), "the server refuses us") })
	await("the link's end", func() bool {
		s, ok := one.status(t, "blue")
		return ok && s.Peers[0].State != "up"
	})
	s, ok := stranger.status(t, "blue")
	require.True(t, ok)
	require.NotEqual(t, "up", s.Peers[0].State)
	require.NotContains(t, one.log.String(), "level=ERROR")
}

// Four lines and no peer named: a member finds who has an address in the directory, and links to
// whoever that is when a workload wants to talk to it.
func TestIntegrationFourLinesOnDemand(t *testing.T) {
	itest.Require(t, "ip", "ping")
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca")
	do := func(args ...string) string {
		t.Helper()
		code, out, errs := called(t, args...)
		require.Zero(t, code, "%q: %s", args, errs)
		return out
	}
	do("ca", "init", "-dir", ca, "-network", "blue")
	config := func(name, signal string) string {
		identity := filepath.Join(dir, name, "identity.pem")
		request := filepath.Join(dir, name+".request")
		require.NoError(t, os.WriteFile(request, []byte(do("id", "-identity", identity, "-request")), 0o600))
		do("ca", "issue", "-dir", ca, request)
		id := strings.TrimSpace(do("id", "-identity", identity))
		return writeConfig(t, fmt.Sprintf(`{
  "identity": %q,
  "network": "blue",%s
  "membership": %q
}`, identity, signal, filepath.Join(ca, "nodes", id)))
	}
	first, second := config("a", ""), config("b", "\n  \"signal\": \"nats://10.99.0.1:4222\", \"dns\": \"127.0.0.1:5300\",")
	at := machines(t)
	nodes := []*machine{boot(t, at[0], first), boot(t, at[1], second)}
	ip := func(args ...string) error { return exec.Command("ip", args...).Run() }
	await := func(what string, done func() bool) {
		t.Helper()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for end := time.After(40 * time.Second); !done(); {
			select {
			case <-tick.C:
			case <-end:
				require.FailNow(t, "timed out", "waiting for %s", what)
			}
		}
	}
	for i, m := range nodes { // the workload is the host itself, behind the TAP
		mac := fmt.Sprintf("02:77:00:00:00:0%d", i+1)
		await("the TAP", func() bool { return ip("-n", at[i], "link", "set", "vias0", "address", mac, "up") == nil })
		require.NoError(t, ip("-n", at[i], "addr", "add", fmt.Sprintf("10.77.0.%d/24", i+1), "dev", "vias0"))
		station, err := tap.ParseMAC(mac)
		require.NoError(t, err)
		await("the endpoint", func() bool {
			return nodeapi.Client{Socket: m.socket("blue")}.Attach(t.Context(), nodecfg.Endpoint{
				Name: fmt.Sprintf("host-%d", i+1), MAC: station, IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)})},
			}) == nil
		})
	}
	for _, m := range nodes {
		s, ok := m.status(t, "blue")
		require.True(t, ok)
		require.Empty(t, s.Peers, "nobody wanted a link yet")
	}
	await("a ping from the one to the other", func() bool {
		return exec.Command("ip", "netns", "exec", at[1], "ping", "-c", "1", "-W", "3", "10.77.0.1").Run() == nil
	})
	s, ok := nodes[1].status(t, "blue")
	require.True(t, ok)
	require.Len(t, s.Peers, 1)
	require.Equal(t, "up", s.Peers[0].State)
	require.Equal(t, netip.MustParseAddrPort("127.0.0.1:5300"), s.DNS)
	// A ping needs what the other node published; this one may still be at it.
	await("its own endpoint is in the directory", func() bool {
		s, ok := nodes[1].status(t, "blue")
		return ok && s.Directory != nil && s.Directory.Published == 1 && s.Directory.Reason == ""
	})
}
