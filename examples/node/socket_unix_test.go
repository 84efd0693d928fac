//go:build unix

package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"net"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias"
	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
	"github.com/viasnet/vias/tap/taptest"
)

func TestStatusSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	s, err := listenStatus(path)
	require.NoError(t, err)
	st, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())

	_, err = listenStatus(path)
	require.ErrorContains(t, err, "in use", "a live one is left alone")
	require.NoError(t, s.Close())
	require.NoFileExists(t, path)

	dead, err := net.Listen("unix", path)
	require.NoError(t, err)
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, dead.Close())
	require.FileExists(t, path)
	s, err = listenStatus(path)
	require.NoError(t, err, "a stale one is replaced")
	require.NoError(t, s.Close())

	require.NoError(t, os.WriteFile(path, []byte("mine"), 0o600))
	_, err = listenStatus(path)
	require.ErrorContains(t, err, "is no socket")
	require.FileExists(t, path)
	_, err = listenStatus(filepath.Join(path, "x"))
	require.Error(t, err)
}

// newTestNode is a node that serves its status, with everything in memory.
func newTestNode(t *testing.T, bridge string) (*node, nodeapi.Client) {
	id, err := overlay.NewIdentity()
	require.NoError(t, err)
	c := &nodecfg.Config{
		Network: "blue", Bridge: bridge, Policy: nodecfg.Policy{Default: nodecfg.Bypass},
		Endpoints: []nodecfg.Endpoint{{Name: "c1", Ofport: 3, MAC: tap.MAC{2, 1}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}},
		Peers:     []nodecfg.Peer{{ID: overlay.PeerID{7}, Name: "seven"}, {ID: id.ID(), Name: "self"}},
	}
	config := vias.Config{
		Name: "blue", Identity: id, Transport: overlaytest.NewNet(overlaytest.Config{}).Opener(),
		Device: func(context.Context) (tap.Device, error) { d, _ := taptest.Pipe(1400); return d, nil },
	}
	n := &node{cfg: c, log: slog.New(slog.DiscardHandler), since: time.Now(), policy: c.Policy, wanted: c.Endpoints, ofports: map[string]uint32{}}
	if bridge != "" {
		sw := bypasstest.NewWire().NewSwitch(bypasstest.SwitchConfig{})
		config.Bypass, err = bypass.NewHost(bypass.HostConfig{Underlay: bypasstest.NewUnderlay(),
			Datapath: func(ctx context.Context) (bypass.Datapath, error) {
				d, err := sw.Open(ctx)
				n.datapath.Store(&d)
				return d, err
			}})
		require.NoError(t, err)
	}
	n.network, err = vias.New(config)
	require.NoError(t, err)
	require.NoError(t, n.intend(t.Context()))
	path := filepath.Join(t.TempDir(), "s")
	socket, err := listenStatus(path)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.work(ctx, socket) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
		require.NoFileExists(t, path)
	})
	return n, nodeapi.Client{Socket: path}
}

func TestStatus(t *testing.T) {
	n, c := newTestNode(t, "br0")
	for tick := time.NewTicker(time.Millisecond); !n.ready.Load(); <-tick.C {
	}
	s, err := c.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, n.network.ID(), s.ID)
	require.True(t, s.Ready)
	require.Equal(t, os.Getpid(), s.PID)
	require.Equal(t, []nodeapi.Endpoint{{Name: "c1", Ofport: 3, MAC: tap.MAC{2, 1}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Known: nodeapi.Configured}}, s.Endpoints)
	require.Len(t, s.Peers, 1, "itself is no peer")
	require.Equal(t, "seven", s.Peers[0].Name)
	require.NotEqual(t, nodeapi.PeerUp, s.Peers[0].State)
	require.NotEmpty(t, s.Peers[0].Reason)

	var text strings.Builder
	require.NoError(t, printStatus(&text, s))
	for _, want := range []string{"node " + s.ID.String(), "network blue, ready", "policy: bypass by default", "seven", "c1", "02:01:00:00:00:00",
		"socket: ", "offloads: "} {
		require.Contains(t, text.String(), want)
	}
	require.Len(t, append(s.Stats.Offloads, s.Stats.Missing...), 4)
	code, stdout, stderr := called(t, "status", "-socket", c.Socket, "-json")
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, `"ready": true`)

	code, _, stderr = called(t, "policy", "-socket", c.Socket, `{"rules":[{"port":80,"action":"bypass"}]}`)
	require.Zero(t, code, stderr)
	s, err = c.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, nodecfg.Policy{Rules: []nodecfg.Rule{{Port: 80, Action: nodecfg.Bypass}}}, s.Policy)
}

// Each flow says its state, why, since when, what would have to change, and when it is
// tried next: as text and as JSON.
func TestStatusOfFlows(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	retry := time.Now().Add(time.Hour)
	s := &nodeapi.Status{Flows: []nodeapi.Flow{
		{Flow: "tcp 10.0.0.1:1 > 10.0.0.2:2", State: "overlay", Since: since, RetryAt: retry,
			Reason: bypass.ReasonFlowBroken.String(), Remedy: bypass.ReasonFlowBroken.Remedy()},
		{Flow: "tcp 10.0.0.1:3 > 10.0.0.2:2", State: "bypassed", Since: since,
			Local: netip.MustParseAddrPort("10.1.0.1:61440"), Remote: netip.MustParseAddrPort("10.1.0.2:61441")},
	}}
	var text strings.Builder
	require.NoError(t, printStatus(&text, s))
	for _, want := range []string{"SINCE", "overlay   03:04:05", "bypassed  03:04:05",
		bypass.ReasonFlowBroken.String() + " (" + bypass.ReasonFlowBroken.Remedy() + "); next try at " + retry.Format(time.TimeOnly),
		"10.1.0.1:61440 > 10.1.0.2:61441"} {
		require.Contains(t, text.String(), want)
	}
	b, err := json.Marshal(s)
	require.NoError(t, err)
	for _, key := range []string{`"state":"overlay"`, `"reason":"` + bypass.ReasonFlowBroken.String(), `"remedy":"`, `"since":"2026-`, `"retry_at":"`} {
		require.Contains(t, string(b), key)
	}
	require.Equal(t, 1, strings.Count(string(b), "retry_at"))
}

// An endpoint can come and go while the node runs.
func TestAttachDetach(t *testing.T) {
	n, c := newTestNode(t, "")
	require.NoError(t, n.network.Ready(t.Context()))
	two := nodecfg.Endpoint{Name: "c/2", MAC: tap.MAC{2, 2}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}}
	// What a whole configuration needs besides is not this test's matter.
	n.cfg.Identity, n.cfg.Status, n.cfg.TAP.Name = "i", "s", "t"
	n.cfg.Signal.TCP, n.cfg.Listen = netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.1:2")
	require.NoError(t, c.Attach(t.Context(), two))
	require.NoError(t, c.Attach(t.Context(), two), "idempotent")
	s, err := c.Status(t.Context())
	require.NoError(t, err)
	require.Len(t, s.Endpoints, 2)
	clash := two
	clash.Name = "c3"
	require.ErrorContains(t, c.Attach(t.Context(), clash), "twice")
	require.NoError(t, c.Detach(t.Context(), "c/2"))
	require.NoError(t, c.Detach(t.Context(), "c1"))
	require.ErrorContains(t, c.Detach(t.Context(), "c1"), "no endpoint")
	s, err = c.Status(t.Context())
	require.NoError(t, err)
	require.Empty(t, s.Endpoints)
}

func TestPolicyRefused(t *testing.T) {
	_, c := newTestNode(t, "")
	require.ErrorContains(t, c.SetPolicy(t.Context(), nodecfg.Policy{}), "no bridge")
	for _, r := range []struct {
		method, path, body string
		code               int
	}{
		{http.MethodPut, nodeapi.PolicyPath, `{"default":"x"}`, http.StatusBadRequest},
		{http.MethodPut, nodeapi.PolicyPath, strings.Repeat(" ", maxBody+1), http.StatusBadRequest},
		{http.MethodPost, nodeapi.PolicyPath, `{}`, http.StatusMethodNotAllowed},
		{http.MethodGet, "/", ``, http.StatusNotFound},
	} {
		transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.Socket)
		}}
		req, err := http.NewRequestWithContext(t.Context(), r.method, "http://node"+r.path, strings.NewReader(r.body))
		require.NoError(t, err)
		res, err := transport.RoundTrip(req)
		require.NoError(t, err)
		_, _ = io.Copy(io.Discard, res.Body)
		require.NoError(t, res.Body.Close())
		require.Equal(t, r.code, res.StatusCode, "%s %s", r.method, r.path)
	}
}
