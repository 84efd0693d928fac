package bypass

import "time"

// Flows move to a peer's bypass a few at a time. Thousands of offers at once would
// fill the queues between the two ends, and what finds no room there is lost: it costs
// both ends seconds to find out. The others wait in a queue, wanted, until one of
// those under way is through. A window's worth is enough to keep both switches busy.

// maxMoving is how many transactions one end has under way that it has begun and that
// are not active yet, with one peer.
const maxMoving = 256

// moves is a peer's queue of flows that are to move.
type moves struct {
	waiting  []*entry // in the order of their coming; see entry.queued
	moving   int      // transactions of ours under way
	resuming bool     // a job will look at waiting
}

// rising tells whether t counts as being under way in its initiator's window.
func (t *txn) rising() bool {
	return t.initiator && (t.phase == phaseOffered || t.phase == phaseInstalling || t.phase == phaseConfirming)
}

// mayMove tells whether e's turn has come; it is queued if not.
func (l *loop) mayMove(p *peer, e *entry, now time.Time) bool {
	if p.queue.moving < maxMoving {
		return true
	}
	if !e.queued {
		e.queued = true
		p.queue.waiting = append(p.queue.waiting, e)
	}
	l.unable(e, ReasonQueued, now)
	return false
}

// moved keeps count when a transaction's step ends or begins its rise.
func (l *loop) moved(p *peer, before, after bool) {
	switch {
	case after && !before:
		p.queue.moving++
	case before && !after:
		p.queue.moving--
		if q := &p.queue; len(q.waiting) > 0 && !q.resuming {
			q.resuming = true
			l.box.post(func() { l.resume(p, time.Now()) })
		}
	}
}

// resume begins as many of the flows that wait as there is room for.
func (l *loop) resume(p *peer, now time.Time) {
	q := &p.queue
	q.resuming = false
	n := 0
	for ; n < len(q.waiting) && q.moving < maxMoving; n++ {
		e := q.waiting[n]
		e.queued, q.waiting[n] = false, nil
		if e.wanted && e.peer == p && e.member.flows[e.id] == e {
			l.begins(e, now)
		}
	}
	if q.waiting = q.waiting[n:]; len(q.waiting) == 0 {
		q.waiting = nil
	}
}
