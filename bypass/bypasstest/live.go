package bypasstest

import (
	"slices"
	"time"

	"github.com/viasnet/vias/bypass"
)

// Live lists the outbound and inbound rules, of all epochs, that forward packets now:
// their gates are open, and outbound ones have a hop and a workload. They come in no
// order.
func (s *Switch) Live() []bypass.Rule {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var list []bypass.Rule
	for _, r := range s.rules {
		if s.forwards(r, now) {
			list = append(list, r.Rule)
		}
	}
	return list
}

func (t *tables) forwards(r *rule, now time.Time) bool {
	switch r.Direction {
	case bypass.Inbound:
		return t.inGates[inGate{r.Flow.Proto, r.Local.Addr(), r.Remote.Addr()}].After(now)
	case bypass.Outbound:
		hop := slices.ContainsFunc(t.base.Hops, func(h bypass.Hop) bool { return h.ID == r.Hop })
		return hop && t.outGates[r.gate()].After(now) && t.baseEnd.After(now) &&
			t.workload(r.Ofport, r.LocalMAC, r.Flow.Src.Addr())
	}
	return false
}
