package ofctltest

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

func dial(t *testing.T, address string) *ofctl.Conn {
	c, err := ofctl.Dial(t.Context(), address, ofctl.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestServeFaults: what goes wrong in the switch is seen through the socket.
func TestServeFaults(t *testing.T) {
	sw := New(Config{DatapathID: 5})
	t.Cleanup(func() { require.NoError(t, sw.Close()) })
	address := serveUnix(t, sw)
	c := dial(t, address)
	sw.FailNext(1, &ofctl.SwitchError{Type: ofctl.ErrTypeFlowModFailed, Code: 1})
	var refused *ofctl.SwitchError
	two := append(add(ofctl.Flow{}), add(ofctl.Flow{Table: 1})...)
	require.ErrorAs(t, c.Apply(t.Context(), two), &refused)
	require.Equal(t, [2]uint16{ofctl.ErrTypeFlowModFailed, 1}, [2]uint16{refused.Type, refused.Code})

	sw.LoseNext(1)
	require.ErrorIs(t, c.Apply(t.Context(), two), ofctl.ErrUnconfirmed)
	require.ErrorIs(t, c.Watch(t.Context(), nil), ofctl.ErrClosed)
	c = dial(t, address)
	fs, err := c.Flows(t.Context(), ofctl.AllFlows)
	require.NoError(t, err)
	require.Len(t, fs, 2)

	watched := make(chan error, 1)
	go func() { watched <- c.Watch(t.Context(), func(ofctl.Event) {}) }()
	sw.Restart(nil)
	require.ErrorIs(t, <-watched, ofctl.ErrClosed)

	c = dial(t, address)
	sw.Stall()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, c.Apply(ctx, two), ofctl.ErrUnconfirmed)
	sw.Resume()
	// The connection is served in order: what was stalled has been done before this.
	fs, err = c.Flows(t.Context(), ofctl.AllFlows)
	require.NoError(t, err)
	require.Len(t, fs, 3-1, "the restart's flow was replaced by the first of two")
}

// TestServeGarbage: bytes that are no OpenFlow end their connection only.
func TestServeGarbage(t *testing.T) {
	sw := New(Config{DatapathID: 5})
	t.Cleanup(func() { require.NoError(t, sw.Close()) })
	address := serveUnix(t, sw)
	_, path, _ := strings.Cut(address, ":")
	for _, b := range []string{"GET / HTTP/1.1\r\n\r\n", "\x04\x00\x00\x04aaaa", "\x01\x00\x00\x08aaaa", "\x04\x0e\x00\x0caaaabbbb"} {
		nc, err := net.Dial("unix", path)
		require.NoError(t, err)
		_, err = nc.Write([]byte(b))
		require.NoError(t, err)
		require.NoError(t, nc.(*net.UnixConn).CloseWrite())
		_, err = io.Copy(io.Discard, nc)
		require.NoError(t, err)
		require.NoError(t, nc.Close())
	}
	require.EqualValues(t, 5, dial(t, address).Features().DatapathID)
}
