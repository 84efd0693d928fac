package lab

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/viasnet/vias/internal/lab/nat"
	"github.com/viasnet/vias/tap"
)

// Site is one link of the provider's network, with its hosts and a router.
type Site struct {
	// Prefix holds its hosts' addresses (host i has the i-th) and the router's, the last
	// but one. A prefix of 24 bits.
	Prefix netip.Prefix
	// Outside, if valid, makes the site a cloud of its own: its router has that address,
	// with that prefix of 24 bits, outside, and translates it to and from its first host,
	// as clouds do with a public address. Sites without it have one router between them,
	// and their addresses reach each other.
	Outside netip.Prefix
	// Behind, if not 0, is the number, from 1, of an earlier site, whose router this one stands
	// behind too: Outside and NAT are those of that one.
	Behind int
	// NAT, if not nil, is what the router of a cloud is instead; its Outer is that of
	// Outside.
	NAT *nat.Router
}

// site is a Site with its place.
type site struct {
	Site
	nr        int    // from 0
	namespace string // of its link and router
	bridge    string
}

// outside is the namespace that joins all sites.
func (c Config) outside() string { return c.Prefix + "net" }

func (c Config) site(host int) site { return c.siteNr((host - 1) % len(c.Sites)) }

func (c Config) siteNr(nr int) site {
	s := site{Site: c.Sites[nr], nr: nr, namespace: c.outside(), bridge: "net" + strconv.Itoa(nr)}
	if s.Behind > 0 {
		first := c.siteNr(s.Behind - 1)
		s.namespace = first.namespace
		s.bridge = strings.TrimRight(first.bridge, "0123456789") + strconv.Itoa(nr)
	}
	if s.Outside.IsValid() {
		s.namespace += strconv.Itoa(nr + 1)
	}
	if s.NAT != nil {
		s.bridge = "lan" + strconv.Itoa(nr) // as package nat tells inner interfaces
	}
	return s
}

func (s site) host(nr int) netip.Addr { return nth(s.Prefix, byte(nr)) }

// gateway is the router's address in the site.
func (s site) gateway() netip.Addr { return nth(s.Prefix, 254) }

// routerMAC is the router's in the site.
func (s site) routerMAC() tap.MAC { return tap.MAC{0x02, 0x99, 0, 0, byte(s.nr), 0xfe} }

// prefix6 is the site's IPv6 network. A cloud's reaches no further than its router.
func (s site) prefix6() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x99, 7: byte(s.nr)}), 64)
}

// gateway6 is the router's IPv6 address in the site.
func (s site) gateway6() netip.Addr { return nth(s.prefix6(), 254) }

// linkLocal is what host nr has beside its address, and the router as number 254: the
// kernel's own neighbour discovery needs one.
func linkLocal(nr int) netip.Addr { return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: byte(nr)}) }

// nth is an address whose last byte is n.
func nth(p netip.Prefix, n byte) netip.Addr {
	a := p.Addr().AsSlice()
	a[len(a)-1] = n
	addr, _ := netip.AddrFromSlice(a) // of a length that it had before
	return addr
}

func (c Config) checkSites() error {
	is24 := func(p netip.Prefix) bool { return p.IsValid() && p.Addr().Is4() && p.Bits() == 24 }
	seen := map[netip.Prefix]bool{}
	for i, s := range c.Sites {
		once := s.Prefix
		switch {
		case s.Behind < 0 || s.Behind > i || s.Behind > 0 && (s.Outside.IsValid() || s.NAT != nil):
			return fmt.Errorf("%w: site %d: it stands behind the router of an earlier site alone", ErrLab, i+1)
		case s.NAT != nil && !s.Outside.IsValid():
			return fmt.Errorf("%w: site %d: a NAT without an outer address", ErrLab, i+1)
		case !is24(s.Prefix), s.Outside.IsValid() && !is24(s.Outside):
			return fmt.Errorf("%w: site %d: want IPv4 prefixes of 24 bits", ErrLab, i+1)
		case s.Outside.IsValid():
			once = s.Outside.Masked()
		}
		if seen[once] {
			return fmt.Errorf("%w: site %d: %v is there twice", ErrLab, i+1, once)
		}
		seen[once] = true
	}
	if len(c.Sites) == 0 || len(c.Sites) > c.Hosts {
		return fmt.Errorf("%w: %d sites for %d hosts", ErrLab, len(c.Sites), c.Hosts)
	}
	return nil
}
