package lab

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/internal/nodeapi"
)

// Guests send packets as long as their MTU allows, over underlays of several MTUs. Where
// the underlay takes them they are bypassed; where it does not they take the overlay, with
// its reason; and they arrive either way, also where one turns into the other.
func TestIntegrationMTU(t *testing.T) {
	beside(t)
	for _, c := range []struct {
		name           string
		underlay, mtu  int
		bypassed, long bool
	}{
		{name: "jumbo", underlay: 9000, mtu: 9000, bypassed: true, long: true},
		{name: "ethernet", underlay: 1500, mtu: 1500, bypassed: true},
		{name: "narrow", underlay: 1460, mtu: 1460, bypassed: true},
		{name: "too narrow", underlay: 1460, mtu: 1500},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.long {
				itest.NotOn(t, itest.AFXDP, "a buffer takes 3498 bytes, and longer frames vanish")
			}
			s := newSystemOf(t, func(cfg *Config) { cfg.UnderlayMTU, cfg.MTU = c.underlay, c.mtu })
			seen := s.startCapture()
			s.startPatientNodes()
			talks := s.startTalks(c.mtu)
			if c.bypassed {
				s.requireMoves(talks)
				s.requireNativeMSS(seen)
			} else {
				s.requireTooNarrow(talks)
			}
			for _, k := range talks {
				s.finish(k)
			}
			s.requireLongest(seen.all(t), c.bypassed)
		})
	}
}

// requireTooNarrow: the nodes say why the talks are not bypassed, and the overlay carries
// them.
func (s *system) requireTooNarrow(talks []*talk) {
	s.t.Helper()
	for _, k := range talks {
		s.await(proofLimit, k.String()+": "+bypass.ReasonMTU.String(), func() bool {
			says := false
			for _, h := range s.hosts {
				f, ok := s.flow(h.Index, k.from())
				if !ok || f.State != nodeapi.FlowOverlay {
					return false
				}
				// The other end may be waiting to be asked.
				says = says || f.Reason == bypass.ReasonMTU.String()
			}
			return says
		})
	}
	s.requireWay(talks, Overlay)
}

// requireLongest: bypassed datagrams of both families were as long as the guests' MTU, and
// nothing on the provider's network was longer than that allows. With TSO segments are
// cut behind the place where they are captured.
func (s *system) requireLongest(frames [][]byte, bypassed bool) {
	s.t.Helper()
	n, longest := s.network(), map[Kind]int{}
	for _, f := range frames {
		if k, _, _, _, ok := kindOf(f); ok && n.class(f) == classBypass {
			longest[k] = max(longest[k], len(f)-14)
		}
	}
	if !bypassed {
		require.Empty(s.t, longest)
		return
	}
	for _, k := range Kinds()[2:] {
		require.Equal(s.t, s.cfg.MTU, longest[k], k.String())
	}
}
