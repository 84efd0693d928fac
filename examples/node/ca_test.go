package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/membership"
)

// TestCA goes through an authority's life as an operator does.
func TestCA(t *testing.T) {
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca")
	do := func(want string, args ...string) string {
		t.Helper()
		code, stdout, stderr := called(t, append([]string{"ca"}, args...)...)
		require.Zero(t, code, "%q: %s", args, stderr)
		require.Contains(t, stdout, want, "%q", args)
		return stdout
	}
	request := func(name string) (file, id string) {
		t.Helper()
		identity := filepath.Join(dir, name+".pem")
		code, stdout, stderr := called(t, "id", "-identity", identity, "-request")
		require.Zero(t, code)
		require.Contains(t, stderr, "next: ")
		file = filepath.Join(dir, name+".request")
		require.NoError(t, os.WriteFile(file, []byte(stdout), 0o600))
		_, stdout, _ = called(t, "id", "-identity", identity)
		return file, strings.TrimSpace(stdout)
	}
	member := func(id string) *membership.Member {
		t.Helper()
		self, err := overlay.ParsePeerID(id)
		require.NoError(t, err)
		m, err := membership.Open(membership.Config{Network: "blue", Self: self, Dir: filepath.Join(ca, "nodes", id)})
		require.NoError(t, err)
		return m
	}

	do("next: on each node: ", "init", "-dir", ca, "-network", "blue")
	for _, name := range []string{"ca-1.key", "ca-1.pem"} {
		st, err := os.Stat(filepath.Join(ca, name))
		require.NoError(t, err)
		if strings.HasSuffix(name, ".key") {
			require.Equal(t, os.FileMode(0o600), st.Mode().Perm(), name)
		}
	}
	ra, a := request("a")
	rb, b := request("b")
	out := do("next: copy each folder", "issue", "-dir", ca, "-days", "30", ra, rb)
	require.Contains(t, out, filepath.Join(ca, "nodes", a))
	self, err := overlay.ParsePeerID(b)
	require.NoError(t, err)
	require.NoError(t, member(a).Admit(self, member(b).Credential()))
	do(a, "issue", "-dir", ca, a)
	do(b, "issue", "-dir", ca, "-all")
	do("two authorities", "rotate", "-dir", ca)
	do("old authority is gone", "retire", "-dir", ca)
	config := strings.Replace(overlayOnly(dir), `"network"`, `"membership": "`+filepath.Join(ca, "nodes", a)+`", "network"`, 1)
	config = strings.Replace(config, "identity.pem", "a.pem", 1)
	_, out, _ = called(t, "check", "-config", writeConfig(t, config))
	require.Contains(t, out, "ok   membership: until ")
	before := member(b).Credential()
	do("revoked", "revoke", "-dir", ca, b)
	require.ErrorIs(t, member(a).Admit(self, before), membership.ErrRevoked)
	out = do("network blue", "show", "-dir", ca)
	require.Regexp(t, a+` +\d{4}-\d\d-\d\d +valid`, out)
	require.Regexp(t, b+` +\d{4}-\d\d-\d\d +revoked`, out)
}

// TestCARefuses: every error says what to do next, in one line.
func TestCARefuses(t *testing.T) {
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca")
	code, _, stderr := called(t, "ca", "init", "-dir", ca, "-network", "blue")
	require.Zero(t, code, stderr)
	id := func() string {
		i, err := overlay.NewIdentity()
		require.NoError(t, err)
		return i.ID().String()
	}()
	bad := filepath.Join(dir, "bad")
	require.NoError(t, os.WriteFile(bad, []byte("x"), 0o600))
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{2, "say init, issue", nil},
		{2, "there are init, issue", []string{"dance"}},
		{2, "-network NAME is missing", []string{"init", "-dir", filepath.Join(dir, "x")}},
		{1, "name another folder, or rotate", []string{"init", "-dir", ca, "-network", "blue"}},
		{1, "node ca init makes one", []string{"show", "-dir", filepath.Join(dir, "none")}},
		{2, "or say -all", []string{"issue", "-dir", ca}},
		{2, "or say -all", []string{"issue", "-dir", ca, "-all", id}},
		{1, "node id -request makes one", []string{"issue", "-dir", ca, "nothing"}},
		{1, "0 requests, not one", []string{"issue", "-dir", ca, bad}},
		{1, "have it make a request", []string{"issue", "-dir", ca, id}},
		{2, "an authority itself is valid", []string{"issue", "-dir", ca, "-days", "100000", id}},
		{2, "node ca show lists", []string{"revoke", "-dir", ca, "x"}},
		{2, "node ca show lists", []string{"revoke", "-dir", ca}},
		{1, "have it make a request", []string{"revoke", "-dir", ca, id}},
		{1, "rotate first", []string{"retire", "-dir", ca}},
		{2, "unexpected argument", []string{"rotate", "-dir", ca, "x"}},
	} {
		code, stdout, stderr := called(t, append([]string{"ca"}, c.args...)...)
		require.Equal(t, c.code, code, "%q: %s", c.args, stderr)
		require.Contains(t, stderr, c.want, "%q", c.args)
		require.Equal(t, 1, strings.Count(stderr, "\n"), "%q: %s", c.args, stderr)
		require.Empty(t, stdout)
	}
	require.NoFileExists(t, filepath.Join(ca, "lock"))

	require.NoError(t, os.WriteFile(filepath.Join(ca, "lock"), nil, 0o600))
	code, _, stderr = called(t, "ca", "show", "-dir", ca)
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "remove "+filepath.Join(ca, "lock"))
	require.NoError(t, os.Remove(filepath.Join(ca, "lock")))
	require.NoError(t, os.Chmod(filepath.Join(ca, "ca-1.key"), 0o644))
	code, _, stderr = called(t, "ca", "show", "-dir", ca)
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "can be read by others")

	_, stdout, _ := called(t, "check", "-config", writeConfig(t, strings.Replace(overlayOnly(dir), `"network"`, `"membership": "/nowhere", "network"`, 1)))
	require.Contains(t, stdout, "bad  membership: ")
	require.Contains(t, stdout, "node ca issue a folder of it")

	// A node whose folder is not there does not start.
	config := strings.Replace(overlayOnly(dir), `"network"`, `"membership": "`+filepath.Join(dir, "gone")+`", "network"`, 1)
	code, _, stderr = called(t, "-config", writeConfig(t, config))
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "copy the folder that the authority made for this node")
}
