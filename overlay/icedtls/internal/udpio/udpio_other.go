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

func (c *Conn) keepApart() {}

func (c *Conn) waited() bool { return true }

func (c *Conn) refuses(error) bool { return false }

// send sends the first.
func (c *Conn) send(datagrams [][]byte, _ []int, to netip.AddrPort) (taken int, err error) {
	if _, err := c.udp.WriteToUDPAddrPort(datagrams[0], to); err != nil {
		return 0, err
	}
	return 1, nil
}

func (c *Conn) receive(buf []byte, wait bool) (n, size int, from netip.AddrPort, err error) {
	if !wait {
		return 0, 0, from, errNothing
	}
	if n, from, err = c.udp.ReadFromUDPAddrPort(buf); err == nil {
		c.stats.receives.Add(1)
	}
	return n, n, from, err
}
