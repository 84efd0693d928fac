package lab

import (
	"context"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netns"

	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
)

// system is a lab of two hosts and the test that uses it.
type system struct {
	*Lab
	t *testing.T
	// live are the tuples that bypassed flows had in any status, in both directions.
	live map[tuple]bool
}

type tuple struct{ src, dst netip.AddrPort }

// beside has a test run beside others, as many as -parallel says (by default, as there are
// cores): it waits most of the time. What measures speed, or wants no loss at all, does not
// call it. In user-mode-linux there is one core, and a slow one.
func beside(t *testing.T) {
	if itest.Datapath(t) != itest.System {
		t.Parallel()
	}
}

// newSystem builds a lab without nodes, for this test alone.
func newSystem(t *testing.T, needs ...string) *system {
	t.Helper()
	return newSystemAt(t, nil, needs...)
}

// newSystemAt is newSystem with other sites.
func newSystemAt(t *testing.T, sites []Site, needs ...string) *system {
	t.Helper()
	return newSystemOf(t, func(cfg *Config) { cfg.Sites = sites }, needs...)
}

// newSystemOf is newSystem with another configuration.
func newSystemOf(t *testing.T, edit func(*Config), needs ...string) *system {
	t.Helper()
	itest.Require(t, append(programs(), append(needs, "ping")...)...)
	cfg := testConfig(t, testRoot(t))
	edit(&cfg)
	l, err := Up(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Down(context.Background())) })
	s := &system{Lab: l, t: t, live: map[tuple]bool{}}
	t.Cleanup(s.explain)
	return s
}

// startNodes builds examples/node and starts it on each host.
func (s *system) startNodes() {
	s.t.Helper()
	require.NoError(s.t, s.StartNodes(s.t.Context(), s.buildNode()))
}

// buildNode returns the program.
func (s *system) buildNode() string {
	s.t.Helper()
	return built.Path(s.t, "github.com/viasnet/vias/examples/node")
}

// explain shows the flows and the nodes' logs of a test that failed.
func (s *system) explain() {
	if !s.t.Failed() {
		return
	}
	for _, h := range s.hosts {
		if st, err := s.Node(h.Index).Status(context.Background()); err == nil {
			for _, f := range st.Flows[:min(len(st.Flows), 20)] {
				s.t.Logf("host %d: %+v", h.Index, f)
			}
		}
		log, _ := exec.Command("tail", "-n30", h.Log()).Output()
		s.t.Logf("host %d:\n%s", h.Index, log)
	}
}

// await polls until ok is satisfied.
func (s *system) await(limit time.Duration, what string, ok func() bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), limit)
	defer cancel()
	err := poll(ctx, 20*time.Millisecond, func() (bool, error) { return ok(), nil })
	require.NoError(s.t, err, "not within %v: %s", limit, what)
}

func (s *system) policy(host int, action string) {
	s.t.Helper()
	require.NoError(s.t, s.Node(host).SetPolicy(s.t.Context(), nodecfg.Policy{Default: action}))
}

func (s *system) policies(action string) {
	s.t.Helper()
	s.policy(1, action)
	s.policy(2, action)
}

// flow is what a node says of the flow whose client is there; false = it does not
// know it, or does not answer.
func (s *system) flow(host int, client netip.AddrPort) (nodeapi.Flow, bool) {
	st, err := s.Node(host).Status(s.t.Context())
	if err != nil {
		return nodeapi.Flow{}, false
	}
	var found nodeapi.Flow
	for _, f := range st.Flows {
		if f.Local.IsValid() {
			s.live[tuple{f.Local, f.Remote}], s.live[tuple{f.Remote, f.Local}] = true, true
		}
		if strings.Contains(f.Flow+" ", " "+client.String()+" ") {
			found = f
		}
	}
	return found, found.Flow != ""
}

// awaitState waits until both nodes say that the flow is there.
func (s *system) awaitState(limit time.Duration, client netip.AddrPort, state string) {
	s.t.Helper()
	s.await(limit, "both nodes have the flow "+state, func() bool {
		for _, h := range s.hosts {
			if f, ok := s.flow(h.Index, client); !ok || f.State != state {
				return false
			}
		}
		return true
	})
}

// guest is a container, by host and number from 1.
func (s *system) guest(host, nr int) Container { return s.hosts[host-1].Containers[nr-1] }

// inside runs f on a thread in a namespace. The sockets that f opens stay there.
func inside(t *testing.T, ns string, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: it is of no more use
		there, err := netns.GetFromName(ns)
		if err == nil {
			defer there.Close()
			err = netns.Set(there)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	require.NoError(t, <-done)
}

// udp opens a UDP socket in a namespace; it is closed when the test ends.
func udp(t *testing.T, ns string, at netip.AddrPort) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	inside(t, ns, func() (err error) {
		c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
		return err
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}
