package itest_test

import (
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/itest"
)

func TestIntegrationNamespace(t *testing.T) {
	itest.Require(t, "ip")
	here, err := os.Readlink("/proc/thread-self/ns/net")
	require.NoError(t, err)
	itest.Namespace(t, func() {
		there, err := os.Readlink("/proc/thread-self/ns/net")
		require.NoError(t, err)
		require.NotEqual(t, here, there)
		require.Contains(t, itest.Exec(t, "ip", "-o", "link", "show", "up"), "lo:")
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		require.NoError(t, err, "lo is up")
		require.NoError(t, ln.Close())
	})
}
