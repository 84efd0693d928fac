package udpio

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/itest"
)

// TestIntegrationBlackHole: a destination that does not answer ARP keeps what is sent to it in
// the kernel for a while, on the account of the socket that others use too. They are not held up.
func TestIntegrationBlackHole(t *testing.T) {
	itest.Require(t, "ip")
	itest.Namespace(t, func() {
		itest.Exec(t, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
		itest.Exec(t, "ip", "link", "set", "v1", "up")
		itest.Exec(t, "ip", "addr", "add", "10.9.0.1/24", "dev", "v0")
		itest.Exec(t, "ip", "link", "set", "v0", "up")
		c, _ := open(t, "udp4", "0.0.0.0:0")
		good, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		require.NoError(t, err)
		defer good.Close()
		hole, to := netip.MustParseAddrPort("10.9.0.2:9"), good.LocalAddr().(*net.UDPAddr).AddrPort()
		run := make([][]byte, 44)
		for i := range run {
			run[i] = make([]byte, 1400)
		}
		got := make([]byte, 2000)
		var worst time.Duration
		for range 200 { // 12 MB, much more than any buffer
			start := time.Now()
			require.NoError(t, c.Send(run, hole))
			require.NoError(t, c.Send(run[:1], to))
			require.NoError(t, good.SetReadDeadline(time.Now().Add(10*time.Second)))
			_, _, err := good.ReadFromUDPAddrPort(got)
			require.NoError(t, err, "it arrives, each time")
			worst = max(worst, time.Since(start))
		}
		t.Logf("the slowest of 200 rounds took %v", worst)
		require.Less(t, worst, time.Second)
	})
}
