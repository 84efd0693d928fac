package vias

import (
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// TestResolve: by the directory without a link, and without it what is known.
func TestResolve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 2, nil)
		want := inOrder(testEndpoint(1).IPs)
		require.NotEmpty(t, want)
		for _, name := range []string{testEndpoint(1).Name, upper(testEndpoint(1).Name)} {
			ips, err := f.nodes[0].Resolve(t.Context(), name)
			require.NoError(t, err)
			require.Equal(t, want, ips)
			ips, err = f.nodes[1].Resolve(t.Context(), name) // its own
			require.NoError(t, err)
			require.Equal(t, want, ips)
		}
		for _, p := range f.nodes[0].Peers() {
			require.NotEqual(t, PeerLinked, p.State, "a name is not traffic")
		}
		_, err := f.nodes[0].Resolve(t.Context(), "nobody")
		require.ErrorIs(t, err, ErrNoName)
		_, err = f.nodes[0].Resolve(t.Context(), "")
		require.ErrorIs(t, err, ErrNoName)
		f.dir.SetAway(true)
		_, err = f.nodes[0].Resolve(t.Context(), testEndpoint(1).Name)
		require.Error(t, err)
		require.NotErrorIs(t, err, ErrNoName)
		_, err = f.join(nil).Resolve(t.Context(), "x")
		require.ErrorIs(t, err, ErrClosed, "it does not run")
	})
}

func TestInOrder(t *testing.T) {
	a, b, c := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::1")
	require.Equal(t, []netip.Addr{a, b, c}, inOrder([]netip.Addr{c, b, a}))
}

func upper(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'a' <= c && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}
