package bypass

import "slices"

// What earlier runs left in the switch: see clearOld.

// newEpoch chooses another epoch if rules of an earlier run carry ours.
func (l *loop) newEpoch(stats []RuleStat) {
	taken := func(s RuleStat) bool { return s.Epoch == uint16(l.epoch) }
	if !slices.ContainsFunc(stats, taken) {
		return
	}
	for slices.ContainsFunc(stats, taken) {
		l.epoch = l.draw()
	}
	for _, p := range l.peers {
		p.proof.cfg.epoch = l.epoch
	}
	l.setBase(nil)
	l.flushBase()
}

// purges is what Change.Purge needs to name all of stats, once each: the inbound
// rules, and the others.
func purges(stats []RuleStat) (in, out []RuleStat) {
	type name struct {
		epoch uint16
		dir   Direction
		peer  uint32
	}
	named := make(map[name]bool)
	for _, s := range stats {
		n := name{s.Epoch, s.Rule.Direction, s.Rule.Peer}
		switch {
		case named[n]:
		case n.dir == Inbound:
			in = append(in, s)
		default:
			out = append(out, s)
		}
		named[n] = true
	}
	return in, out
}
