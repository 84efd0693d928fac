package icedtls

import (
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// dontFragment: with PROBE the kernel sets DF and checks nothing but the interface's MTU, so
// that an ICMP message that somebody made up cannot keep anything from being sent (ip(7)).
func dontFragment(fd uintptr) {
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
}

// kernelMTU is the longest packet that the kernel believes to get through: the interface's
// MTU, the route's, or what a router said. 0 = it does not say.
func kernelMTU(local netip.Addr, remote netip.AddrPort) int {
	from := net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	if !local.IsValid() {
		from = nil
	}
	c, err := net.DialUDP("udp", from, net.UDPAddrFromAddrPort(remote))
	if err != nil {
		return 0
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	mtu := 0
	level, name := unix.IPPROTO_IP, unix.IP_MTU
	if !remote.Addr().Unmap().Is4() {
		level, name = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	_ = raw.Control(func(fd uintptr) { mtu, _ = unix.GetsockoptInt(int(fd), level, name) })
	return mtu
}
