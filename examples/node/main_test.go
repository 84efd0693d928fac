package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/leaktest"
	"github.com/viasnet/vias/internal/nodecfg"
)

// TestMain lets the test binary play the node that the lab starts.
func TestMain(m *testing.M) {
	if os.Getenv(playNode) == ownRun {
		if err := privateRun(); err != nil {
			panic(err)
		}
	}
	if os.Getenv(playNode) != "" {
		os.Exit(run(context.Background(), impatient(os.Args[1:]), os.Stdout, os.Stderr))
	}
	leaktest.Main(m)
}

const (
	playNode = "VIAS_TEST_PLAY_NODE"
	ownRun   = "own-run" // with a /run of its own
)

// impatient gives the configuration that is run the shortest times there are.
func impatient(args []string) []string {
	if len(args) != 2 || args[0] != "-config" {
		return args
	}
	cfg, err := nodecfg.Load(args[1])
	if err != nil {
		return args
	}
	cfg.Lease = nodecfg.Duration(lease)
	cfg.Trust.MaxRTT = nodecfg.Duration(50 * time.Millisecond) // two hosts, one machine
	cfg.Policy.Rules = append(cfg.Policy.Rules, nodecfg.Rule{Port: testPort, Action: nodecfg.Bypass, Idle: nodecfg.Duration(idle)})
	text, err := cfg.JSON()
	path := args[1] + ".impatient"
	if err != nil || os.WriteFile(path, text, 0o600) != nil {
		return args
	}
	return []string{"-config", path}
}

const (
	lease    = 10 * time.Second
	idle     = time.Second
	testPort = 5999
)

// overlayOnly is a configuration on loopback, without privileges but for the TAP.
func overlayOnly(dir string) string {
	return fmt.Sprintf(`{"identity": %q, "network": "blue", "signal": {"tcp": "127.0.0.1:1"}, "listen": "127.0.0.1:0",
  "tap": {"name": "vias0"}, "endpoints": [], "peers": [], "policy": {}, "trust": {}, "status": %q}`,
		filepath.Join(dir, "identity.pem"), filepath.Join(dir, "s"))
}

func writeConfig(t *testing.T, text string) string {
	path := filepath.Join(t.TempDir(), "node.json")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// called runs the program in this process.
func called(t *testing.T, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	good := writeConfig(t, overlayOnly(dir))
	bad := writeConfig(t, strings.Replace(overlayOnly(dir), `"network"`, `"netwrok"`, 1))
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"-config", bad}, 2, `unknown field "netwrok"`},
		{[]string{"check", "-config", bad}, 2, `unknown field "netwrok"`},
		{[]string{"status", "-config", bad}, 2, `unknown field "netwrok"`},
		{[]string{"-config", bad + "x"}, 2, "no such file"},
		{[]string{"-config", writeConfig(t, "")}, 2, "too early"},
		{nil, 2, "-config FILE is missing"},
		{[]string{"-nonsense"}, 2, "nonsense"},
		{[]string{"dance"}, 2, `no command "dance"`},
		{[]string{"run", "-config", good, "now"}, 2, `unexpected argument "now"`},
		{[]string{"policy", "-config", good}, 2, "say bypass"},
		{[]string{"policy", "-config", good, "maybe"}, 2, "policy: "},
		{[]string{"policy", "-config", good, "bypass"}, 1, "connect"},
		{[]string{"attach", "-config", good}, 2, "say which endpoint"},
		{[]string{"attach", "-config", good, "{"}, 2, "endpoint: "},
		{[]string{"attach", "-config", good, `{"name":"a","mac":"02:00:00:00:00:01","ips":[]}`}, 1, "connect"},
		{[]string{"detach", "-config", good, "a"}, 1, "connect"},
		{[]string{"status", "-config", good}, 1, "connect"},
		{[]string{"status", "-socket", filepath.Join(dir, "none")}, 1, "connect"},
		{[]string{"id"}, 2, "-identity FILE is missing"},
		{[]string{"id", "-identity", filepath.Join(good, "where")}, 1, "not a directory"},
	} {
		code, stdout, stderr := called(t, c.args...)
		require.Equal(t, c.code, code, "%q: %s", c.args, stderr)
		require.Contains(t, stderr, c.want, "%q", c.args)
		require.Equal(t, 1, strings.Count(stderr, "\n"), "%q: one line: %s", c.args, stderr)
		require.Empty(t, stdout)
	}
	code, _, stderr := called(t, "status", "-h")
	require.Zero(t, code)
	require.Contains(t, stderr, "-json")
}

func TestID(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.pem")
	code, first, _ := called(t, "id", "-identity", path)
	require.Zero(t, code)
	require.Len(t, strings.TrimSpace(first), 52)
	_, second, _ := called(t, "id", "-identity", path)
	require.Equal(t, first, second)
}

func TestCheck(t *testing.T) {
	busy, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer busy.Close()
	dir := t.TempDir()
	text := strings.Replace(overlayOnly(dir), "127.0.0.1:0", busy.LocalAddr().String(), 1)
	code, stdout, stderr := called(t, "check", "-config", writeConfig(t, text))
	require.Equal(t, 1, code)
	require.Empty(t, stderr)
	require.Contains(t, stdout, "ok   identity: it will be made\n")
	require.Contains(t, stdout, "ok   status socket: ")
	require.Contains(t, stdout, "bad  overlay address "+busy.LocalAddr().String()+"/udp: ")
	require.Contains(t, stdout, "     -> give this host the address")
	require.Contains(t, stdout, "bad  rendezvous 127.0.0.1:1: ")
	require.Contains(t, stdout, " of 5 requirements are not met\n")
	require.NoFileExists(t, filepath.Join(dir, "identity.pem"), "a check makes nothing")

	gone := strings.ReplaceAll(text, dir, filepath.Join(dir, "gone"))
	_, stdout, _ = called(t, "check", "-config", writeConfig(t, gone))
	require.Contains(t, stdout, "bad  identity: ")
	require.Contains(t, stdout, "bad  status socket: ")
}

func TestParsePolicy(t *testing.T) {
	for arg, want := range map[string]nodecfg.Policy{
		"bypass":  {Default: nodecfg.Bypass},
		"overlay": {Default: nodecfg.Overlay},
		`{}`:      {},
		`{"default":"bypass","rules":[{"port":22,"action":"overlay"}]}`: {Default: nodecfg.Bypass,
			Rules: []nodecfg.Rule{{Port: 22, Action: nodecfg.Overlay}}},
	} {
		p, err := parsePolicy(arg)
		require.NoError(t, err, arg)
		require.Equal(t, want, p)
	}
	for _, arg := range []string{"", "Bypass", "{", `{"default":"x"}`, `{"rules":[{"action":"bypass"}]}`} {
		_, err := parsePolicy(arg)
		require.Error(t, err, arg)
	}
}
