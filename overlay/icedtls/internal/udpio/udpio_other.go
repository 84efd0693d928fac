//go:build !linux

package udpio

import (
	"net"
	"net/netip"
)

type sys struct{}

func force(*net.UDPConn, int) {}

func (c *Conn) open() error { return nil }

func (c *Conn) coalesces() bool { return false }

func (c *Conn) refuses(error) bool { return false }

func (c *Conn) send(datagrams [][]byte, to netip.AddrPort) error {
	_, err := c.udp.WriteToUDPAddrPort(datagrams[0], to)
	return err
}

func (c *Conn) receive(buf []byte, wait bool) (n, size int, from netip.AddrPort, err error) {
	if !wait {
		return 0, 0, from, errNothing
	}
	n, from, err = c.udp.ReadFromUDPAddrPort(buf)
	return n, n, from, err
}
