package icedtls

import (
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/pion/ice/v4"
)

// localAddrs are the addresses that the socket can be reached at: its own, or
// those of all interfaces that config lets through.
func (s *socket) localAddrs(c *Config) ([]netip.AddrPort, error) {
	if a := s.addr.Addr(); !a.IsUnspecified() {
		if !usable(a, c.IncludeLoopback) {
			return nil, nil
		}
		return []netip.AddrPort{s.addr}, nil
	}
	ifaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var list []netip.AddrPort
	for _, i := range ifaces {
		if i.Flags&net.FlagUp == 0 || c.Interfaces != nil && !c.Interfaces(i.Name) {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away meanwhile
		}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			ip, _ := netip.AddrFromSlice(n.IP)
			ip = ip.Unmap()
			if usable(ip, c.IncludeLoopback) && (ip.Is4() || s.addr.Addr().Is6()) && len(list) < maxCandidates/2 {
				list = append(list, netip.AddrPortFrom(ip, s.addr.Port()))
			}
		}
	}
	return list, nil
}

// usable says whether an address, ours or one that a peer offers, is one to send
// to. Link-local ones are not: a zone means nothing to the peer.
func usable(a netip.Addr, loopback bool) bool {
	switch {
	case !a.IsValid(), a.IsUnspecified(), a.IsMulticast(), a.IsLinkLocalUnicast(), a.Zone() != "":
		return false
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return false
	case a.IsLoopback():
		return loopback
	}
	return true
}

// remoteCandidates makes pion's candidates of those that config lets us use.
func remoteCandidates(list []candidate, c *Config) []ice.Candidate {
	var out []ice.Candidate
	for i := range list {
		a := list[i].addrPort()
		if !usable(a.Addr(), c.IncludeLoopback) {
			continue
		}
		var cand ice.Candidate
		var err error
		switch list[i].Kind {
		case candidateHost:
			cand, err = ice.NewCandidateHost(&ice.CandidateHostConfig{
				Network: "udp", Address: a.Addr().String(), Port: int(a.Port()),
				Component: ice.ComponentRTP, Priority: list[i].Priority,
			})
		case candidateReflexive:
			cand, err = ice.NewCandidateServerReflexive(&ice.CandidateServerReflexiveConfig{
				Network: "udp", Address: a.Addr().String(), Port: int(a.Port()),
				Component: ice.ComponentRTP, Priority: list[i].Priority,
			})
		case candidateRelay:
			cand, err = ice.NewCandidateRelay(&ice.CandidateRelayConfig{
				Network: "udp", Address: a.Addr().String(), Port: int(a.Port()),
				Component: ice.ComponentRTP, Priority: list[i].Priority,
			})
		}
		if err == nil && cand != nil {
			out = append(out, cand)
		}
	}
	return out
}

// sources remembers from which of our addresses the kernel sends to a remote one.
// A socket that is bound to no address has no other way to tell them apart.
type sources struct {
	socket *socket

	mu    sync.Mutex
	known map[netip.Addr]netip.Addr
}

func (s *sources) of(remote netip.AddrPort) netip.Addr {
	if a := s.socket.addr.Addr(); !a.IsUnspecified() {
		return a
	}
	s.mu.Lock()
	a, ok := s.known[remote.Addr()]
	s.mu.Unlock()
	if ok {
		return a
	}
	a = routeSource(remote)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) < maxSessionAddrs {
		s.known[remote.Addr()] = a
	}
	return a
}

// routeSource asks the kernel by connecting a UDP socket, which sends nothing.
func routeSource(remote netip.AddrPort) netip.Addr {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(remote))
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	return unmap(c.LocalAddr().(*net.UDPAddr).AddrPort()).Addr()
}
