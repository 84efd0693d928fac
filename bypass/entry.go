package bypass

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
	"unique"
)

// entry is one flow that the loop knows: its transaction, and when to try again.
type entry struct {
	member *Member
	peer   *peer     // of its last transaction, or try
	serial uint64    // in the order of their coming
	id     fiveTuple // src is the local workload
	wanted bool      // asked for, and waiting for a proof, for its turn or for retryAt
	queued bool      // in its peer's queue (moves.go)
	fails  uint8     // in a row
	broken uint8     // times that the path dropped it (health.go)
	t      txn
	tags   unique.Handle[tags] // by which the policy allowed it
	idle   time.Duration       // of the policy's verdict

	askedAt moment
	retryAt moment
	changed moment
	health  *health // while it has a transaction
	shown   shown   // guarded by the member's mu
}

// shown is what the Network can see of an entry. The loop alone writes it.
type shown struct {
	peer          *peer
	pair          *AddrPair // nil = no ports
	local, remote uint16    // ports
	state         State
	reason        Reason
	since         moment // 0 = nothing was shown yet
	retryAt       moment
}

// lapseAfter is how long a flow is wanted: the Network asks again while it lives.
const lapseAfter = 10 * time.Second

// forgetAfter is how long the reason of a flow that is on the overlay is kept.
const forgetAfter = 2 * time.Minute

// maxFlows bounds the flows that a Member makes the loop remember.
const maxFlows = 1 << 17

func (e *entry) flow() Flow { return e.id.flow() }

// find is what the loop knows of a flow; nil = nothing.
func (m *Member) find(f Flow) *entry {
	id, ok := compact(f)
	if !ok {
		return nil
	}
	if e := m.flows[id]; e != nil {
		return e
	}
	return m.flows[id.reverse()]
}

// entry is what the loop knows of a flow, from now on; nil if there are too many, or
// if it is none that can be bypassed.
func (l *loop) entry(m *Member, f Flow) *entry {
	if e := m.find(f); e != nil {
		return e
	}
	id, ok := compact(f)
	if !ok || l.tracked >= maxFlows {
		return nil
	}
	l.serial++
	l.tracked++
	e := &entry{member: m, id: id, serial: l.serial}
	m.mu.Lock()
	m.flows[id] = e
	m.mu.Unlock()
	return e
}

func (l *loop) forget(e *entry) {
	if e.peer != nil {
		delete(e.peer.flows, e)
	}
	l.tracked--
	e.member.mu.Lock()
	delete(e.member.flows, e.id)
	e.member.mu.Unlock()
}

// goesTo makes p the peer that speaks for the flow's remote end.
func (e *entry) goesTo(p *peer) {
	if e.peer == p {
		return
	}
	if e.peer != nil {
		delete(e.peer.flows, e)
	}
	e.peer = p
	p.flows[e] = struct{}{}
}

// prepare makes e's transaction with its peer, which has not begun yet, between the ports
// of pair, which is taken.
func (l *loop) prepare(e *entry, id uint64, at Ends, pair tuple) {
	p := e.peer
	short, _ := pair.key() // if it could not be used it could not have been taken
	e.t = txn{
		id: id, ends: at.rules(), rule: l.ruleID(), hop: p.hop, lease: p.number, idle: e.idle, proof: p.proof.round,
		tuple: short,
	}
	e.tags = at.tags()
	l.byRule[e.t.rule], p.txns[id] = e, e
	l.ports.bind(pair, e.t.rule)
}

// sorted lists entries in the order of their coming, so that what happens does not
// depend on chance, and so that the list may change while it is walked.
func sorted[V any](entries map[*entry]V) []*entry {
	return slices.SortedFunc(maps.Keys(entries), bySerial)
}

func bySerial(a, b *entry) int { return cmp.Compare(a.serial, b.serial) }

// allFlows and flowsOf list all flows, and those of one Network, in the order of their
// coming.
func (l *loop) allFlows() []*entry {
	all := make([]*entry, 0, l.tracked)
	for m := range l.members {
		all = slices.AppendSeq(all, maps.Values(m.flows))
	}
	slices.SortFunc(all, bySerial)
	return all
}

func (l *loop) flowsOf(m *Member) []*entry {
	return slices.SortedFunc(maps.Values(m.flows), bySerial)
}

// publish tells the Network when what it can see of a flow has changed.
func (l *loop) publish(e *entry, now time.Time) {
	if !l.members[e.member] {
		return // it has left
	}
	was := e.shown
	s := shown{peer: e.peer, state: e.t.phase.state(), reason: e.t.reason, since: was.since, retryAt: e.retryAt}
	if t := e.t.tuple.tuple(); e.t.phase != phaseOverlay && t.remote.Port() != 0 {
		s.local, s.remote = t.local.Port(), t.remote.Port()
		s.pair = e.peer.shared(AddrPair{t.local.Addr(), t.remote.Addr()})
	}
	if s == was && was.since != 0 {
		return
	}
	if s.state != was.state || s.reason != was.reason || was.since == 0 {
		s.since = l.at(now)
	}
	e.changed = l.at(now)
	e.member.mu.Lock()
	e.shown = s
	e.member.mu.Unlock()
	e.member.cfg.Changed(l.status(e))
}

// shared is a pair that all flows of a peer can point to.
func (p *peer) shared(pair AddrPair) *AddrPair {
	if p.lastPair == nil || *p.lastPair != pair {
		p.lastPair = &pair
	}
	return p.lastPair
}

// status is what is shown of e. Only the loop may call it without the member's mu.
func (l *loop) status(e *entry) Status {
	x := &e.shown
	s := Status{Flow: e.flow(), State: x.state, Reason: x.reason, Since: l.time(x.since), RetryAt: l.time(x.retryAt)}
	if x.peer != nil {
		s.Peer = x.peer.id
	}
	if x.pair != nil {
		s.Local = netip.AddrPortFrom(x.pair.Local, x.local)
		s.Remote = netip.AddrPortFrom(x.pair.Remote, x.remote)
	}
	return s
}
