package lab

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Workloads on a bridge of their own, and on one with a pipeline of somebody else's: TCP and UDP over IPv4 and
// IPv6 are bypassed, fall back, return, and arrive whole; and what is somebody else's stays as it was.
func TestIntegrationLayouts(t *testing.T) {
	beside(t)
	for _, layout := range []Layout{LayoutPatched, LayoutForeign} {
		t.Run(string(layout), func(t *testing.T) {
			t.Parallel()
			s := newSystemOf(t, func(cfg *Config) { cfg.Layout = layout })
			s.foreignGroup()
			foreign := s.foreignFlows()
			require.NotEmpty(t, foreign)
			seen := s.startCapture()
			s.startPatientNodes()
			talks := s.startTalks(1228)
			s.requireMoves(talks)
			s.requireNativeMSS(seen)
			s.requireQuestionsStay()
			require.Equal(t, foreign, s.foreignFlows(), "while flows are bypassed")
			s.requireSecurity(layout)
			frames := seen.all(t)
			for _, k := range talks {
				s.finish(k)
			}
			s.requireSeen(frames)
			for _, n := range s.nodes {
				require.NoError(t, s.stop(n))
			}
			require.Equal(t, foreign, s.foreignFlows(), "after the nodes")
			require.Equal(t, strings.Join(foreign, "\n"), s.allFlows(), "something of the nodes is left")
		})
	}
}

// flowCounters are what changes in a dump of flows by itself.
var flowCounters = regexp.MustCompile(` (duration|n_packets|n_bytes|idle_age|hard_age)=[^ ,]*,?`)

// allFlows are those of all bridges, without counters.
func (s *system) allFlows() string {
	s.t.Helper()
	var all []string
	for i, h := range s.hosts {
		for _, br := range slices.Compact([]string{bridge, s.workloads()}) {
			text, err := s.OVS(h.Index).Ofctl(s.t.Context(), "dump-flows", br)
			require.NoError(s.t, err)
			groups, err := s.OVS(h.Index).Ofctl(s.t.Context(), "dump-groups", br)
			require.NoError(s.t, err)
			for _, line := range strings.Split(flowCounters.ReplaceAllString(text+"\n"+groups, ""), "\n") {
				if !strings.Contains(line, "=") || strings.Contains(line, "reply") {
					continue
				}
				all = append(all, strings.Join([]string{string(rune('1' + i)), br, line}, " "))
			}
		}
	}
	return strings.Join(all, "\n")
}

// foreignGroup gives somebody else a group on each bridge.
func (s *system) foreignGroup() {
	s.t.Helper()
	for _, h := range s.hosts {
		for _, br := range slices.Compact([]string{bridge, s.workloads()}) {
			_, err := s.OVS(h.Index).Ofctl(s.t.Context(), "add-group", br, "group_id=1,type=all,bucket=output:LOCAL")
			require.NoError(s.t, err)
		}
	}
}

// foreignFlows are those that are not the nodes'.
func (s *system) foreignFlows() []string {
	s.t.Helper()
	return slices.DeleteFunc(strings.Split(s.allFlows(), "\n"), func(line string) bool {
		return strings.Contains(line, "cookie=0x7661") || strings.Contains(line, "group_id=1986068") // the nodes'
	})
}

// requireSecurity: somebody else's port security drops what a container says in another's name, also
// TCP, which is what we look at first.
func (s *system) requireSecurity(layout Layout) {
	s.t.Helper()
	if layout != LayoutForeign {
		return
	}
	a, b := s.guest(1, 1), s.guest(2, 1)
	require.True(s.t, s.pings(a, b))
	_, err := s.in(s.t.Context(), a.Namespace, "ip", "link", "set", "eth0", "address", "02:bd:00:00:00:01")
	require.NoError(s.t, err)
	defer func() {
		_, err := s.in(s.t.Context(), a.Namespace, "ip", "link", "set", "eth0", "address", a.MAC.String())
		require.NoError(s.t, err)
		require.True(s.t, s.pings(a, b))
	}()
	require.False(s.t, s.pings(a, b))
}
