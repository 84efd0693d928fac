package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/overlaytest"
)

// signalNode is the configuration of a node on loopback, for the overlay only.
func signalNode(dir, name, signal string, peer overlay.PeerID) string {
	return fmt.Sprintf(`{"identity": %q, "network": "blue", "signal": %s, "listen": "127.0.0.1:0",
  "tap": {"name": %q}, "endpoints": [], "peers": [{"id": %q}], "policy": {}, "trust": {}, "status": %q}`,
		filepath.Join(dir, name+".pem"), signal, name, peer, filepath.Join(dir, name+".sock"))
}

// Two nodes find each other over the NATS server that one of them has in it; a link that
// is up outlives the server, and a new one waits for it.
func TestIntegrationSignalNATS(t *testing.T) {
	itest.Require(t, "ip")
	dir := t.TempDir()
	ids := map[string]overlay.PeerID{}
	for _, name := range []string{"a", "b", "c"} {
		id, err := overlay.CreateIdentity(filepath.Join(dir, name+".pem"))
		require.NoError(t, err)
		ids[name] = id.ID()
	}
	const server, client = `{"serve": "127.0.0.1:4222", "anybody": true}`, `{"nats": {"urls": ["nats://127.0.0.1:4222"]}}`
	configs := map[string]string{
		// A node that only serves them: for anybody, since they are not its peers.
		"server": writeConfig(t, signalNode(dir, "c", server, overlaytest.NewIdentity(t).ID())),
		"a":      writeConfig(t, signalNode(dir, "a", client, ids["b"])),
		"b":      writeConfig(t, signalNode(dir, "b", client, ids["a"])),
	}
	start := func(name string) (kill func()) {
		cmd := exec.Command("/proc/self/exe", "-config", configs[name])
		cmd.Env = append(os.Environ(), playNode+"=1")
		var log bytes.Buffer
		cmd.Stderr = &log
		require.NoError(t, cmd.Start())
		kill = sync.OnceFunc(func() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
			if t.Failed() {
				t.Logf("node %s:\n%s", name, log.String())
			}
		})
		t.Cleanup(kill)
		return kill
	}
	up := func(name string) bool {
		code, out, _ := called(t, "status", "-json", "-config", configs[name])
		var s nodeapi.Status
		return code == 0 && json.Unmarshal([]byte(out), &s) == nil && len(s.Peers) == 1 && s.Peers[0].State == "up"
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
	itest.Namespace(t, func() {
		start("a") // before there is a server
		stop := start("server")
		endB := start("b")
		await("the link", func() bool { return up("a") && up("b") })
		stop()
		require.True(t, up("a") && up("b"), "a link needs no server")
		endB()
		await("the link's end", func() bool { return !up("a") })
		start("b")
		start("server")
		await("the link, with another server", func() bool { return up("a") && up("b") })
	})
}

// A node that cannot serve as it is told says so at once, in one line.
func TestSignalFilesAreRead(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	for signal, want := range map[string]string{
		`{"serve": "127.0.0.1:1", "tls": {"cert": "/none", "key": "/none"}}`:                                           "signal.tls.cert: open /none",
		`{"nats": {"urls": ["tls://h:1"]}, "tls": {"ca": "/none"}}`:                                                    "signal.tls.ca: open /none",
		`{"nats": {"urls": ["tls://h:1"]}, "tls": {"ca": "` + empty + `"}}`:                                            "holds no certificate",
		`{"serve": "127.0.0.1:1", "cluster": {"listen": "127.0.0.1:2", "routes": ["h:2"], "secret": "/none"}}`:         "signal.cluster.secret: open /none",
		`{"serve": "127.0.0.1:1", "cluster": {"listen": "127.0.0.1:2", "routes": ["h:2"], "secret": "` + empty + `"}}`: "is empty",
	} {
		code, _, stderr := called(t, "-config", writeConfig(t, signalNode(dir, "x", signal, overlay.PeerID{1})))
		require.Equal(t, 1, code)
		require.Contains(t, stderr, want)
	}
}
