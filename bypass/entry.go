package bypass

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// entry is one flow that the loop knows: its transaction, and when to try again.
type entry struct {
	key     flowKey
	flow    Flow   // Src is the local workload
	serial  uint64 // in the order of their coming
	peer    *peer  // of its last transaction, or try
	t       txn
	verdict Verdict
	wanted  bool // asked for, and waiting for a proof or for retryAt
	askedAt time.Time
	fails   int     // in a row
	broken  int     // times that the path dropped it (health.go)
	health  *health // while it has a transaction
	retryAt time.Time
	changed time.Time
	shown   Status
}

// lapseAfter is how long a flow is wanted: the Network asks again while it lives.
const lapseAfter = 10 * time.Second

// forgetAfter is how long the reason of a flow that is on the overlay is kept.
const forgetAfter = 2 * time.Minute

// maxFlows bounds the flows that a Member makes the loop remember.
const maxFlows = 1 << 17

func (l *loop) entry(m *Member, f Flow) *entry {
	k := flowKey{m, f.Canonical()}
	e := l.flows[k]
	if e == nil {
		l.serial++
		e = &entry{key: k, flow: f, serial: l.serial}
		l.flows[k] = e
	}
	return e
}

func (l *loop) forget(e *entry) {
	delete(l.flows, e.key)
	if e.peer != nil {
		delete(e.peer.flows, e)
	}
	e.key.member.unpublish(e.flow)
}

// goesTo makes p the peer that speaks for the flow's remote end.
func (e *entry) goesTo(p *peer) {
	if e.peer != nil {
		delete(e.peer.flows, e)
	}
	e.peer = p
	p.flows[e] = true
}

// sorted lists entries in the order of their coming, so that what happens does not
// depend on chance, and so that the list may change while it is walked.
func sorted[V any](entries map[*entry]V) []*entry {
	return slices.SortedFunc(maps.Keys(entries), func(a, b *entry) int { return cmp.Compare(a.serial, b.serial) })
}

// allFlows and flowsOf list all flows, and those of one Network, in the order of their
// coming.
func (l *loop) allFlows() []*entry {
	return slices.SortedFunc(maps.Values(l.flows), func(a, b *entry) int { return cmp.Compare(a.serial, b.serial) })
}

func (l *loop) flowsOf(m *Member) []*entry {
	return slices.DeleteFunc(l.allFlows(), func(e *entry) bool { return e.key.member != m })
}

// publish tells the Network when what it can see of a flow has changed.
func (l *loop) publish(e *entry, now time.Time) {
	if !l.members[e.key.member] {
		return // it has left
	}
	s := Status{Flow: e.flow, State: e.t.phase.state(), Reason: e.t.reason, RetryAt: e.retryAt}
	if e.peer != nil {
		s.Peer = e.peer.id
	}
	if e.t.phase != phaseOverlay && e.t.tuple.remote.Port() != 0 {
		s.Local, s.Remote = e.t.tuple.local, e.t.tuple.remote
	}
	s.Since = e.shown.Since
	if s == e.shown {
		return
	}
	if s.State != e.shown.State || s.Reason != e.shown.Reason || e.changed.IsZero() {
		s.Since = now
	}
	e.changed, e.shown = now, s
	e.key.member.publish(s)
}
