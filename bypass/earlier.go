package bypass

import (
	"context"
	"slices"
	"time"
)

// What earlier runs left in the switch: see clearOld.

// listOld (in the change worker) finds what an earlier run left.
func (l *loop) listOld(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	stats, err := l.dp.Rules(ctx)
	l.box.post(func() {
		if err != nil {
			l.log.Warn("bypass: cannot list the switch's rules yet", "err", err)
			l.timers.add(time.Now().Add(l.limits.retry), func() { l.change.post(pending{call: l.listOld}) })
			return
		}
		l.clearOld(stats, time.Now())
		for _, p := range l.sortedPeers() {
			l.kick(p, time.Now())
		}
	})
}

// clearOld: an earlier run's outbounds go now. Its inbounds stay for a lease: a peer
// may still send to them, and they end at the right workload; then they go too. Their
// tuples are not used meanwhile, nor for a quarantine after.
func (l *loop) clearOld(stats []RuleStat, now time.Time) {
	if !l.cleared { // nothing here is ours yet
		l.newEpoch(stats)
		l.cleared = true
	}
	stats = slices.DeleteFunc(stats, func(s RuleStat) bool { return s.Epoch == uint16(l.epoch) })
	for _, s := range stats {
		if s.Rule.Direction == Inbound {
			t := tuple{s.Rule.Flow.Proto, s.Rule.Local, s.Rule.Remote}
			l.ports.free(t, now.Add(l.cfg.Lease+l.cfg.Quarantine))
			l.base.late[AddrPair{s.Rule.Local.Addr(), s.Rule.Remote.Addr()}] = now.Add(l.cfg.Lease)
		}
	}
	l.setBase(nil) // guards against what peers may still send to that run
	l.flushBase()
	in, out := purges(stats)
	l.purge(out)
	if len(in) > 0 {
		l.timers.add(now.Add(l.cfg.Lease), func() { l.purge(in) })
	}
}

// purge removes rules of earlier runs, for as long as it takes.
func (l *loop) purge(old []RuleStat) {
	if len(old) == 0 {
		return
	}
	l.enqueue(Change{Purge: old}, func(err error) {
		if err != nil {
			l.log.Warn("bypass: an earlier run's rules were not removed yet", "err", err)
			l.timers.add(time.Now().Add(l.limits.retry), func() { l.purge(old) })
		}
	})
}

// newEpoch chooses another epoch if rules of an earlier run carry ours.
func (l *loop) newEpoch(stats []RuleStat) {
	taken := func(s RuleStat) bool { return s.Epoch == uint16(l.epoch) }
	if !slices.ContainsFunc(stats, taken) {
		return
	}
	for slices.ContainsFunc(stats, taken) {
		l.epoch = l.draw()
	}
	for _, p := range l.sortedPeers() {
		p.proof.cfg.epoch = l.epoch
	}
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
