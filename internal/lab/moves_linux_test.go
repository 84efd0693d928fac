package lab

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
)

// migration is a lab of three hosts. The first container of the first host moves between
// that host and the third, with connections to a container of each host.
type migration struct {
	*system
	guest   Container
	streams map[int]*stream // by the other end's host
}

const (
	migrationPort = 5310
	// Where it is plugged in when it is not at home.
	foreignPort   = "moved"
	foreignOfport = 30
)

func newMigration(t *testing.T) *migration {
	t.Helper()
	s := newSystemOf(t, func(cfg *Config) { cfg.Hosts = 3 })
	m := &migration{system: s, guest: s.guest(1, 1), streams: map[int]*stream{}}
	require.NoError(t, s.startNodesAs(t.Context(), s.buildNode(), func(_ *Host, c *nodecfg.Config) {
		c.Policy = nodecfg.Policy{Default: nodecfg.Bypass}
	}))
	for host, other := range map[int]Container{1: s.guest(1, 2), 2: s.guest(2, 1), 3: s.guest(3, 1)} {
		var err error
		m.streams[host], err = startStreamBetween(other, m.guest, Kind{}, migrationPort)
		require.NoError(t, err)
		t.Cleanup(m.streams[host].abort)
	}
	return m
}

// endpoint is the container as a node has it that it stands at.
func (m *migration) endpoint(host int) nodecfg.Endpoint {
	e := nodecfg.Endpoint{Name: m.guest.Name, Port: m.guest.Port, Ofport: m.guest.Ofport, MAC: m.guest.MAC, IPs: []netip.Addr{m.guest.Addr}}
	if host != 1 {
		e.Port, e.Ofport = foreignPort, foreignOfport
	}
	return e
}

// carry unplugs the container from one host and plugs it in at the other: its own end of
// the wire, with its addresses and connections, stays what it is, like a guest's that a
// hypervisor moves.
func (m *migration) carry(from, to int) {
	m.t.Helper()
	a, b := m.endpoint(from), m.endpoint(to)
	_, err := m.OVS(from).Vsctl(m.t.Context(), "del-port", bridge, a.Port)
	require.NoError(m.t, err)
	require.NoError(m.t, m.ips(m.t.Context(), m.hosts[from-1].Namespace,
		fmt.Sprintf("link set %s netns %s name %s", a.Port, m.hosts[to-1].Namespace, b.Port)))
	require.NoError(m.t, m.ip(m.t.Context(), m.hosts[to-1].Namespace, fmt.Sprintf("link set %s up", b.Port)))
	_, err = m.OVS(to).Vsctl(m.t.Context(), append(m.access(b.Port, b.Ofport)[1:], strings.Fields(m.cfg.Datapath.port())...)...)
	require.NoError(m.t, err)
}

func (m *migration) attach(host int) {
	m.t.Helper()
	require.NoError(m.t, m.Node(host).Attach(m.t.Context(), m.endpoint(host)))
}

func (m *migration) detach(host int) {
	m.t.Helper()
	require.NoError(m.t, m.Node(host).Detach(m.t.Context(), m.guest.Name))
}

// holder is the host at which a node has the container; 0 = nowhere.
func (m *migration) holder(node int) int {
	st, err := m.Node(node).Status(m.t.Context())
	if err != nil {
		return 0
	}
	for _, e := range st.Endpoints {
		if e.MAC != m.guest.MAC {
			continue
		}
		for _, p := range st.Peers {
			if p.ID == e.Peer {
				var host int
				_, err := fmt.Sscanf(p.Name, "h%d", &host)
				require.NoError(m.t, err)
				return host
			}
		}
		return node
	}
	return 0
}

// foundWithin waits until all living nodes have the container at that host, and all
// streams go on, and tells how long both took since then. TCP may look for its way a
// little later than there is one.
func (m *migration) foundWithin(limit time.Duration, host int, since time.Time, nodes ...int) {
	m.t.Helper()
	m.await(limit+5*time.Second, "the container is found", func() bool {
		for _, n := range nodes {
			if m.holder(n) != host {
				return false
			}
		}
		return true
	})
	found := time.Since(since)
	m.carryOn(1, since)
	going, slack := time.Since(since), time.Duration(0)
	for _, s := range m.streams {
		require.NoError(m.t, s.broken())
		slack = max(slack, s.slack)
	}
	m.t.Logf("at host %d: found by all nodes after %v, all streams go on after %v", host, found, going)
	require.Less(m.t, found, limit)
	require.Less(m.t, going, limit+slack)
	m.carryOn(64<<10, since) // what was lost at the moment of moving takes TCP another timeout
}

// carryOn waits until all streams have brought so many bytes since then, both ways.
func (m *migration) carryOn(bytes uint64, since time.Time) {
	m.t.Helper()
	m.await(15*time.Second, "all streams go on", func() bool {
		for _, s := range m.streams {
			if s.arrived(since) < bytes {
				return false
			}
		}
		return true
	})
}

// bypassed waits until the streams to other hosts than that are bypassed, at both ends,
// between those hosts.
func (m *migration) bypassed(host int, hosts ...int) {
	m.t.Helper()
	start := time.Now()
	m.await(20*time.Second, "bypassed again", func() bool {
		for _, other := range hosts {
			client := m.streams[other].from()
			if !m.has(host, other, client) || !m.has(other, host, client) {
				return false
			}
		}
		return true
	})
	m.t.Logf("at host %d: bypassed with %v after %v more", host, hosts, time.Since(start))
}

// has tells whether a node has the client's flow bypassed with that peer.
func (m *migration) has(node, peer int, client netip.AddrPort) bool {
	st, err := m.Node(node).Status(m.t.Context())
	if err != nil {
		return false
	}
	for _, f := range st.Flows {
		if strings.Contains(f.Flow+" ", " "+client.String()+" ") && f.State == nodeapi.FlowBypassed {
			return f.Remote.Addr() == m.hosts[peer-1].Addr
		}
	}
	return false
}

// A container moves from host to host, with one connection to each host, and each of them
// goes on: between two switches, on one, and then the other way round.
func TestIntegrationMoves(t *testing.T) {
	beside(t)
	m := newMigration(t)
	m.bypassed(1, 2, 3)

	m.detach(1)
	m.carry(1, 3)
	m.attach(3)
	m.foundWithin(2*time.Second, 3, time.Now(), 1, 2, 3)
	m.bypassed(3, 1, 2)

	// Back, attached there before it is detached here: it is here until then.
	m.carry(3, 1)
	m.attach(1)
	require.Equal(t, 3, m.holder(2))
	m.detach(3)
	m.foundWithin(2*time.Second, 1, time.Now(), 1, 2, 3)
	m.bypassed(1, 2, 3)

	// And once more, while the node that had it dies: its link must be given up first.
	require.NoError(t, m.killNode(1))
	m.carry(1, 3)
	m.attach(3)
	s := m.streams[1] // of a container whose node is dead
	delete(m.streams, 1)
	s.abort()
	m.foundWithin(5*time.Second, 3, time.Now(), 2, 3)
	for host, s := range m.streams {
		there, back, err := s.finish(20 * time.Second)
		require.NoError(t, err, "the stream of host %d", host)
		t.Logf("host %d: %d bytes there and %d back, both checksums equal", host, there, back)
	}
}
