package icedtls

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/overlay/icedtls/internal/udpio"
)

// TestIntegrationWholeOnly: datagrams leave whole or not at all, and what the kernel believes of
// the path is a hint that keeps none from leaving.
func TestIntegrationWholeOnly(t *testing.T) {
	itest.Require(t, "ip")
	itest.Namespace(t, func() {
		for _, args := range [][]string{
			{"link", "add", "v0", "type", "veth", "peer", "name", "v1"},
			{"addr", "add", "10.9.0.1/24", "dev", "v0"}, {"addr", "add", "fd09::1/64", "dev", "v0", "nodad"},
			{"link", "set", "v0", "up"}, {"link", "set", "v1", "up"},
			{"neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:02", "dev", "v0"},
			{"neigh", "add", "fd09::2", "lladdr", "02:00:00:00:00:02", "dev", "v0"},
			{"route", "add", "10.9.0.2", "dev", "v0", "mtu", "1300"}, // as after a router's word
			{"-6", "route", "add", "fd09::2", "dev", "v0", "mtu", "1310"},
		} {
			itest.Exec(t, "ip", args...)
		}
		for remote, hint := range map[string]int{"10.9.0.2:9": 1300, "10.9.0.3:9": 1500, "[fd09::2]:9": 1310} {
			require.Equal(t, hint, kernelMTU(netip.Addr{}, netip.MustParseAddrPort(remote)), remote)
		}
		require.Equal(t, 1300, kernelMTU(netip.MustParseAddr("10.9.0.1"), netip.MustParseAddrPort("10.9.0.2:9")))
		require.Zero(t, kernelMTU(netip.Addr{}, netip.MustParseAddrPort("192.0.2.1:9")), "there is no route")
		for listen, remote := range map[string]string{"0.0.0.0:0": "10.9.0.2:9", "[::]:0": "[fd09::2]:9"} {
			c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(listen)))
			require.NoError(t, err)
			defer c.Close()
			wholeOnly(c)
			to := netip.MustParseAddrPort(remote)
			send := func(packet int) error {
				header := headerIPv4
				if to.Addr().Is6() {
					header = headerIPv6
				}
				_, err := c.WriteToUDPAddrPort(make([]byte, packet-header), to)
				return err
			}
			require.NoError(t, send(1500), "the kernel's belief is not asked")
			require.ErrorIs(t, send(1501), syscall.EMSGSIZE, "nor is anything cut")
			itest.Exec(t, "ip", "link", "set", "v0", "mtu", "1400")
			require.Eventually(t, func() bool { return send(1401) != nil }, 5*time.Second, 10*time.Millisecond)
			require.NoError(t, send(1400))
			io, err := udpio.New(c, 1<<20)
			require.NoError(t, err)
			segmenting := io.Stats().Segmenting
			for range 20 {
				require.NoError(t, io.Send([][]byte{make([]byte, 1450), make([]byte, 1450), make([]byte, 1450)}, to))
			}
			require.Equal(t, segmenting, io.Stats().Segmenting, "their length is no reason to send one by one")
			require.EqualValues(t, 60, io.Stats().Lost)
			itest.Exec(t, "ip", "link", "set", "v0", "mtu", "1500")
		}
	})
}
