package ofctltest

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/ofctl"
)

// serveUnix serves sw on a socket until the test ends and returns its address.
func serveUnix(t testing.TB, sw *Switch) string {
	dir, err := os.MkdirTemp("", "of") // t.TempDir is too long for unix sockets
	require.NoError(t, err)
	path := filepath.Join(dir, "sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, sw) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-served)
		require.NoError(t, os.RemoveAll(dir))
	})
	return "unix:" + path
}

func TestConformanceOverSocket(t *testing.T) {
	RunConformance(t, func(t *testing.T) Harness {
		h := newFake(t)
		address := serveUnix(t, h.sw)
		h.connect = func() ofctl.Switch {
			c, err := ofctl.Dial(t.Context(), address, ofctl.Config{})
			require.NoError(t, err)
			return c
		}
		return h
	})
}
