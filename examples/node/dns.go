package main

import (
	"errors"
	"net/netip"

	"github.com/viasnet/vias"
	"github.com/viasnet/vias/dns"
)

// openDNS answers for the names of endpoints, if that is wished.
func (n *node) openDNS() (err error) {
	if !n.cfg.DNS.IsValid() {
		return nil
	}
	n.dns, err = dns.Open(dns.Config{
		Network: n.cfg.Network, Listen: n.cfg.DNS, Logger: n.log, Resolve: n.network.Resolve,
		Unknown: func(err error) bool { return errors.Is(err, vias.ErrNoName) },
	})
	return err
}

func (n *node) dnsAddr() netip.AddrPort {
	if n.dns == nil {
		return netip.AddrPort{}
	}
	return n.dns.Addr()
}
