package ofctl

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAddresses(t *testing.T) {
	for _, addr := range []string{"", "unix", "udp:127.0.0.1:1", "/run/br0.mgmt"} {
		_, err := Dial(t.Context(), addr, Config{})
		require.ErrorContains(t, err, "address is neither", addr)
		_, err = Listen(addr, Config{})
		require.ErrorContains(t, err, "address is neither", addr)
	}
	_, err := Dial(t.Context(), "unix:"+t.TempDir()+"/none", Config{})
	require.ErrorContains(t, err, "ofctl: dial")
	for _, addr := range []string{"ssl:127.0.0.1:1", "tls:127.0.0.1:1"} {
		_, err = Dial(t.Context(), addr, Config{})
		require.ErrorContains(t, err, "Config.TLS is missing")
		_, err = Listen(addr, Config{})
		require.ErrorContains(t, err, "Config.TLS is missing")
	}
	_, err = Listen("tcp:256.0.0.1:1", Config{})
	require.ErrorContains(t, err, "ofctl: listen")
}

func TestDialTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	go func() {
		nc, err := l.Accept()
		if err == nil {
			(&scripted{tb: t, nc: nc}).serve()
		}
	}()
	c, err := Dialer("tcp:"+l.Addr().String(), Config{})(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 7, c.Features().DatapathID)
	require.NoError(t, c.Close())
}

// A switch that never says hello holds up nobody, and Serve leaves nobody behind.
func TestServe(t *testing.T) {
	l, err := Listen("tcp:127.0.0.1:0", Config{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	handled, done := make(chan uint64, 9), make(chan error, 1)
	go func() {
		done <- Serve(ctx, l, Config{HandshakeTimeout: time.Hour}, func(ctx context.Context, c *Conn) {
			handled <- c.Features().DatapathID
			<-ctx.Done()
		})
	}()
	silent, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer silent.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	go (&scripted{tb: t, nc: nc}).serve()
	require.EqualValues(t, 7, <-handled)
	cancel()
	require.NoError(t, <-done)

	l, err = Listen("tcp:127.0.0.1:0", Config{})
	require.NoError(t, err)
	require.NoError(t, l.Close())
	require.ErrorIs(t, Serve(t.Context(), l, Config{}, nil), net.ErrClosed)
}
