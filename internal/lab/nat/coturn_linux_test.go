package nat

import (
	"encoding/pem"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The addresses of coturn: of one with a user, and of one with a secret.
var (
	coturnStatic = netip.MustParseAddr("198.51.100.3")
	coturnTimed  = netip.MustParseAddr("198.51.100.4")
)

// coturn starts one on the Internet, for as long as the test runs.
func (w *world) coturn(at netip.Addr, args ...string) {
	w.t.Helper()
	dir := w.t.TempDir()
	files := map[string][]byte{
		"cert": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.ca}),
		"key":  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: w.key}),
	}
	for name, text := range files {
		require.NoError(w.t, os.WriteFile(filepath.Join(dir, name), text, 0o644)) // it may run as another user
	}
	w.ip("net", "addr add "+at.String()+"/24 dev br0")
	c := exec.Command("ip", append([]string{
		"netns", "exec", w.tag + "net", "turnserver", "-n",
		"-L", at.String(), "-E", at.String(), "-r", "vias", "--tls-listening-port", "443", "--cert", dir + "/cert", "--pkey", dir + "/key",
		"--no-cli", "--no-dtls", "--pidfile", dir + "/pid", "--db", dir + "/db", "--log-file", dir + "/log", "--simple-log",
	}, args...)...)
	require.NoError(w.t, c.Start())
	w.t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		if w.t.Failed() {
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			w.t.Logf("coturn %s:\n%s", at, text)
		}
	})
}

// TestIntegrationCoturn: links by Debian's coturn, over UDP, TCP and TLS, with a password and
// with credentials that end.
func TestIntegrationCoturn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "turnserver")
	w.coturn(coturnStatic, "--lt-cred-mech", "-u", "node:a password")
	w.coturn(coturnTimed, "--use-auth-secret", "--static-auth-secret", secret)
	k := natKind("symmetric", "", symmetric)
	a, b := k.make(w), k.make(w)
	w.start(a, b)
	static := Server{Username: "node", Password: "a password", CA: w.ca}
	timed := Server{Secret: secret, CA: w.ca}
	var pairs []*pair
	var relays []Server
	for at, server := range map[netip.Addr]Server{coturnStatic: static, coturnTimed: timed} {
		for _, url := range []string{"turn:" + at.String(), "turn:" + at.String() + "?transport=tcp", "turns:" + at.String() + ":443"} {
			server.URL = url
			relays = append(relays, server)
			pairs = append(pairs, &pair{session: len(pairs), a: a, b: b, ka: k, kb: k})
		}
	}
	// They are up when they give addresses.
	for _, r := range relays {
		require.Eventually(t, func() bool {
			var got netip.AddrPort
			return a.Call("node.Check", r, &got) == nil && (got.Addr() == coturnStatic || got.Addr() == coturnTimed)
		}, patience, 20*time.Millisecond, r.URL)
		wrong := r
		wrong.Password, wrong.Secret = "wrong", map[bool]string{true: "wrong"}[r.Secret != ""]
		require.ErrorContains(t, a.Call("node.Check", wrong, new(netip.AddrPort)), "allocate", r.URL)
	}
	require.NoError(t, each(pairs, func(i int, p *pair) error {
		o := w.opening(p.session, k)
		o.Relays = relays[i : i+1]
		if err := p.link(o, o); err != nil {
			return err
		}
		return p.a.Call("node.Exchange", p.session, &Nothing{})
	}))
	for i, p := range pairs {
		for _, end := range []*place{a, b} {
			var at Path
			require.NoError(t, end.Call("node.Path", p.session, &at))
			require.True(t, at.Relay, relays[i].URL)
		}
		require.NoError(t, p.unlink())
	}
}
