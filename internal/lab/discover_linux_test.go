package lab

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/nodeapi"
)

// discoverTime bounds what discovery takes some hundred milliseconds for, or a guest's next
// solicitation a second.
const discoverTime = 20 * time.Second

// known are the endpoints of a host by name, and how their addresses are known.
func (s *system) known(host int) map[string]nodeapi.Endpoint {
	all := map[string]nodeapi.Endpoint{}
	if st, err := s.Node(host).Status(s.t.Context()); err == nil {
		for _, e := range localOf(st) {
			all[e.Name] = e
		}
	}
	return all
}

// pings tells whether an echo comes back within a second.
func (s *system) pings(from, to Container) bool {
	for _, addr := range []string{to.Addr.String(), to.Addr6.String()} {
		if _, err := s.in(s.t.Context(), from.Namespace, "ping", "-c1", "-W1", addr); err != nil {
			return false
		}
	}
	return true
}

// No configuration names an endpoint or an uplink: external_ids have the addresses.
func TestIntegrationDiscoverIDs(t *testing.T) {
	beside(t)
	s := newSystemOf(t, func(c *Config) { c.Found = ByIDs })
	s.startNodes()
	a, b := s.hosts[0].Containers[0], s.hosts[1].Containers[0]
	s.await(discoverTime, "containers reach each other", func() bool { return s.pings(a, b) })
	e := s.known(1)[a.Name]
	require.Equal(t, nodeapi.Endpoint{Name: a.Name, MAC: a.MAC, IPs: e.IPs, Ofport: a.Ofport, Known: "external_ids"}, e)
	require.Len(t, e.IPs, 2)

	// A port goes, and comes back with another number.
	_, err := s.OVS(1).Vsctl(t.Context(), "del-port", a.Port)
	require.NoError(t, err)
	s.await(discoverTime, "it is detached", func() bool { _, there := s.known(1)[a.Name]; return !there })
	args := append(s.access(a.Port, 40)[1:], "external_ids:iface-id="+a.Name, `external_ids:attached_mac="`+a.MAC.String()+`"`,
		`external_ids:ip_addresses="`+a.Addr.String()+","+a.Addr6.String()+`"`)
	_, err = s.OVS(1).Vsctl(t.Context(), args...)
	require.NoError(t, err)
	s.await(discoverTime, "it is attached again", func() bool { return s.known(1)[a.Name].Ofport == 40 })
	s.await(discoverTime, "and reached", func() bool { return s.pings(b, a) })
}

// And with no external_ids either the containers' own frames tell.
func TestIntegrationDiscoverLearning(t *testing.T) {
	beside(t)
	s := newSystemOf(t, func(c *Config) { c.Found = ByLearning })
	s.startNodes()
	a, b := s.hosts[0].Containers[0], s.hosts[1].Containers[0]
	s.await(discoverTime, "containers reach each other", func() bool { return s.pings(a, b) && s.pings(b, a) })
	s.await(discoverTime, "it is known", func() bool {
		e := s.known(1)[a.Port]
		return e.MAC == a.MAC && slices.Contains(e.IPs, a.Addr) && slices.Contains(e.IPs, a.Addr6) && e.Known == "learned"
	})
	_, err := s.OVS(1).Vsctl(t.Context(), "del-port", a.Port)
	require.NoError(t, err)
	s.await(discoverTime, "it is detached", func() bool { _, there := s.known(1)[a.Port]; return !there })
	require.NotContains(t, s.known(1), "br0")
	require.NotContains(t, s.known(1), uplink)
	require.NotContains(t, s.known(1), tapName)
}
