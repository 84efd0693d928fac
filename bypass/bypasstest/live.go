package bypasstest

import (
	"slices"
	"time"

	"github.com/viasnet/vias/bypass"
)

// Live lists the outbound and inbound rules, of all epochs, that forward packets now:
// their gates are open, and outbound ones have a hop and a workload.
func (s *Switch) Live() []bypass.RuleStat {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	return slices.DeleteFunc(s.statsLocked(now, 0), func(r bypass.RuleStat) bool {
		switch r.Rule.Direction {
		case bypass.Inbound:
			return !s.inGates[inGate{r.Rule.Flow.Proto, r.Rule.Local.Addr(), r.Rule.Remote.Addr()}].After(now)
		case bypass.Outbound:
			hop := slices.ContainsFunc(s.base.Hops, func(h bypass.Hop) bool { return h.ID == r.Rule.Hop })
			return !s.outGates[outGate{r.Epoch, r.Rule.Peer, r.Rule.Flow.Proto}].After(now) || !s.baseEnd.After(now) ||
				!hop || !s.workload(r.Rule.Ofport, r.Rule.LocalMAC, r.Rule.Flow.Src.Addr())
		}
		return true
	})
}
