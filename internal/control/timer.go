package control

import (
	"fmt"
	"time"
)

// acked takes the acknowledgement of g. Only a segment that names our session can
// acknowledge anything.
func (s *Session) acked(g segment, now time.Time) {
	q := &s.send
	if g.to != s.config.ID {
		return
	}
	if g.ack > q.sent { // not next: that goes back when a segment is repeated
		s.fail(fmt.Errorf("%w: it acknowledges what was never sent", ErrProtocol))
		return
	}
	if g.ack < q.acked {
		return
	}
	if g.ack == q.acked {
		if g.seq == 0 && q.next > q.acked+1 {
			s.duplicate(now)
		}
		return
	}
	for q.acked < g.ack {
		o := &q.queue[0]
		// The Hello takes a round more: the peer waits for an echo of its ID.
		if q.acked+1 == g.ack && !o.repeated && g.ack > 1 {
			s.sample(now.Sub(o.sent))
		}
		q.bytes -= len(o.payload)
		o.payload = nil
		q.queue = q.queue[1:]
		q.acked++
	}
	q.next = max(q.next, q.acked+1) // what arrived after all need not be repeated
	q.progress, q.repeats = now, 0
	q.rto = s.computedRTO()
	q.due = now.Add(q.rto)
	if len(q.queue) == 0 {
		q.queue = nil // let go of the array that shrank from its front
	}
}

// duplicate sends the first segment again at the third acknowledgement that asks
// for it (RFC 5681, section 3.2).
func (s *Session) duplicate(now time.Time) {
	s.send.repeats++
	if s.send.repeats == 3 {
		s.repeat(now)
	}
}

// repeat makes everything in flight be sent again. Control messages are few: going
// back is simpler than choosing.
func (s *Session) repeat(now time.Time) {
	q := &s.send
	for i := range q.next - q.acked - 1 {
		q.queue[i].repeated = true
	}
	q.next = q.acked + 1
	q.due = now.Add(q.rto)
}

// sample takes a measured round trip (RFC 6298, section 2).
func (s *Session) sample(rtt time.Duration) {
	q := &s.send
	if q.srtt == 0 {
		q.srtt, q.rttvar = rtt, rtt/2
		return
	}
	q.rttvar = (3*q.rttvar + (q.srtt - rtt).Abs()) / 4
	q.srtt = (7*q.srtt + rtt) / 8
}

func (s *Session) computedRTO() time.Duration {
	if s.send.srtt == 0 {
		return firstRTO
	}
	return min(maxRTO, max(minRTO, s.send.srtt+4*s.send.rttvar))
}

// Next is when Tick has something to do; the zero Time = not before something else
// happens.
func (s *Session) Next() time.Time {
	var next time.Time
	if s.err != nil {
		return next
	}
	if !s.established {
		next = s.started.Add(HelloTimeout)
	}
	if s.send.next > s.send.acked+1 && (next.IsZero() || s.send.due.Before(next)) {
		next = s.send.due
	}
	return next
}

// Tick lets time pass. An error is final.
func (s *Session) Tick(now time.Time) error {
	q := &s.send
	switch {
	case s.err != nil:
	case !s.established && now.Sub(s.started) >= HelloTimeout:
		s.fail(fmt.Errorf("%w: no hello in %v", ErrStalled, HelloTimeout))
	case s.established && len(q.queue) > 0 && now.Sub(q.progress) >= StallTimeout:
		s.fail(fmt.Errorf("%w: no acknowledgement in %v", ErrStalled, StallTimeout))
	case q.next > q.acked+1 && !now.Before(q.due):
		q.rto = min(maxRTO, 2*q.rto)
		s.repeat(now)
	}
	return s.err
}
