package vias

import (
	"time"

	"github.com/viasnet/vias/internal/l2"
	"github.com/viasnet/vias/overlay"
)

// dispute is an address that a peer announces and another node has: it is looked up again when
// the directory says so, and from time to time.
type dispute struct {
	stop func() // nil until it is watched
	due  time.Time
}

// disputeTime is how often a disputed address is looked up again.
const disputeTime = 30 * time.Second

// guard has the addresses that a peer announced looked up: whose are they?
func (f *finder) guard(peer overlay.PeerID, list []l2.Endpoint) {
	if f == nil {
		return
	}
	now := time.Now()
	var sure []target
	f.mu.Lock()
	for _, e := range list {
		for _, t := range targetsOf(e) {
			if a, ok := f.known[t]; ok && a.ok && a.found.Peer == peer && now.Before(a.until) {
				sure = append(sure, t)
			} else if len(f.checks) < maxChecks {
				f.checks = append(f.checks, t)
			}
		}
	}
	f.mu.Unlock()
	for _, t := range sure {
		f.hold(t, peer)
	}
	f.poke()
}

// forget has what is known of stations that went, or changed, looked up again.
func (f *finder) forget(list []*l2.Station) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range list {
		for _, t := range targetsOf(s.Endpoint) {
			delete(f.known, t)
			delete(f.confirmed, t)
		}
	}
}

// hold tells the table whose an address is, and watches it while a peer says otherwise. A linked
// peer that the directory confirmed once keeps its address as long as it announces it.
func (f *finder) hold(t target, holder overlay.PeerID) {
	f.mu.Lock()
	if kept, ok := f.confirmed[t]; ok && f.announces(kept, t) {
		holder = kept
	}
	f.mu.Unlock()
	change, disputed := f.network.shared.Stations.SetHolder(t.mac, t.ip, holder)
	f.mu.Lock()
	d := f.disputes[t]
	var fresh *dispute
	var stop func()
	switch {
	case disputed && d == nil:
		fresh = &dispute{due: time.Now().Add(disputeTime)}
		f.disputes[t] = fresh
	case disputed:
		d.due = time.Now().Add(disputeTime)
	case d != nil:
		stop = d.stop
		delete(f.disputes, t)
	}
	f.mu.Unlock()
	if fresh != nil {
		stop = f.directory.Watch(t.key(), func() { f.disputeChanged(t) })
		f.mu.Lock()
		if f.disputes[t] == fresh {
			fresh.stop, stop = stop, nil
			fresh.due = time.Time{} // for what changed before it was watched
		}
		f.mu.Unlock()
		f.poke()
	}
	if stop != nil {
		stop()
	}
	f.network.stationsChanged(change)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.announces(holder, t) {
		f.confirmed[t] = holder
	} else {
		delete(f.confirmed, t)
	}
}

// announces tells whether a linked peer speaks for an address.
func (f *finder) announces(peer overlay.PeerID, t target) bool {
	view := f.network.shared.Stations.View()
	s := view.MAC(t.mac)
	if t.ip.IsValid() {
		s = view.IP(t.ip)
	}
	return s != nil && !s.Local() && s.Peer == peer && f.network.shared.Ports.Get(peer) != nil
}

// disputeChanged may be called by the directory at any time.
func (f *finder) disputeChanged(t target) {
	f.mu.Lock()
	if d := f.disputes[t]; d != nil {
		d.due = time.Time{}
	}
	f.mu.Unlock()
	f.poke()
}

// takeChecksLocked begins as many checks as may be made at once.
func (f *finder) takeChecksLocked(now time.Time) {
	if len(f.checks) == 0 {
		return
	}
	checking := 0
	for _, s := range f.searches {
		if s.check && !s.done {
			checking++
		}
	}
	for ; checking < checksAtOnce && len(f.checks) > 0; checking++ {
		t := f.checks[0]
		if f.checks = f.checks[1:]; len(f.checks) == 0 {
			f.checks = nil
		}
		s := f.searches[t]
		if s == nil {
			s = &search{target: t, until: now.Add(searchTime)}
			f.searches[t] = s
		}
		s.check, s.done, s.due = true, false, time.Time{}
	}
}
