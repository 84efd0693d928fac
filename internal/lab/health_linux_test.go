package lab

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/nodecfg"
)

// breakFirst has the provider's network drop one five-tuple in one direction, as one bad
// way of several does: the first between flow ports that it sees from host 1 to host 2.
// Probes, which have other ports, pass.
func (s *system) breakFirst() {
	s.t.Helper()
	rules := strings.NewReplacer("A", s.hosts[0].Addr.String(), "B", s.hosts[1].Addr.String()).Replace(`
table bridge vias_break {
	set broken { type inet_service . inet_service; size 1; flags dynamic; }
	chain forward {
		type filter hook forward priority 0;
		ip saddr A ip daddr B tcp sport 61440-65279 tcp dport 61440-65279 add @broken { tcp sport . tcp dport }
		ip saddr A ip daddr B tcp sport . tcp dport @broken counter drop
	}
}`)
	c, err := s.spawn(s.cfg.outside(), strings.NewReader(rules), nil, nil, "nft", "-f", "-")
	require.NoError(s.t, err)
	<-c.exited
	require.NoError(s.t, c.err)
}

// A flow between ports that the path drops, though probes pass, goes back to the
// overlay with its reason, and moves again between other ports.
func TestIntegrationBrokenFiveTuple(t *testing.T) {
	beside(t)
	s := newSystem(t, "iperf3", "nft")
	s.startNodes()
	s.policies(nodecfg.Overlay)
	s.breakFirst()
	tr := s.startTransfer()
	tr.took(Overlay)
	s.policies(nodecfg.Bypass)
	tr.awaitState(5*time.Second, tr.client, "bypassed")
	start := time.Now()
	was, _ := s.flow(1, tr.client)
	s.await(8*time.Second, "the nodes find it broken", func() bool {
		for _, h := range s.hosts {
			f, ok := s.flow(h.Index, tr.client)
			if !ok || f.Reason != bypass.ReasonFlowBroken.String() || f.Remedy == "" || f.Since.Before(start.Add(-time.Second)) {
				return false
			}
		}
		return true
	})
	t.Logf("found broken after %v", time.Since(start))
	tr.awaitState(10*time.Second, tr.client, "bypassed")
	now, _ := s.flow(1, tr.client)
	require.NotEqual(t, was.Local.String()+was.Remote.String(), now.Local.String()+now.Remote.String())
	tr.took(Bypass)
	t.Logf("bypassed again after %v", time.Since(start))
}
