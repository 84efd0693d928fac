package bypass

import (
	"context"
	"math"
	"time"
)

// A path that answers probes may still drop one flow: where the provider spreads flows
// over several ways by their five-tuples, one way can be broken, and a flow in one
// direction only gives no sign of it. So each end counts. It lists its rules' counters,
// and tells the peer those of outbound rules that moved; the peer compares them with its
// own inbound counters. A flow of which packets go out, and not one arrives, leaves the
// bypass, and tries again later between other ports.
//
// # Why a lagging counter gives no false alarm
//
// Counters lag behind packets by up to healthLag at either end (Open vSwitch collects
// them every half a second, later when it is busy), and messages lag behind counters. Say
// the sender counted base packets in its listing A, and sent in a later listing B.
//
//   - Those sent-base packets left no earlier than healthLag before A began.
//   - All of them have arrived, or never will, when B's message has come. A listing of
//     ours that begins healthLag later counts them.
//   - Our counter has stood still since a listing that ended more than healthLag before A
//     began. So none of those packets is in it.
//
// That A began after a listing of ours had ended the sender shows by an acknowledgement:
// its message names the last of our listings that it had heard of when A began. Clocks are
// not compared, and a message that was long under way does no harm. A new rule needs no A:
// both counters began at 0.
//
// Packets that were counted while our gate was not surely open went over the overlay
// perhaps: they are taken out of what we tell.
//
// Losses are no break. How many packets in a row must be lost depends on how many were
// lost before (enough).

// Times and sizes of the comparison.
const (
	healthPeriod = 500 * time.Millisecond  // between two listings
	healthRest   = 30 * time.Second        // at most
	healthShare  = 50                      // a listing may take one part in so many of the time
	healthRule   = 100 * time.Microsecond  // at least, for each rule: the switch and the loop work too
	healthLag    = 1500 * time.Millisecond // of a switch's counters; and ten listings' time
	healthBurst  = 8                       // Counters messages at once
	healthPause  = 100 * time.Millisecond  // between two bursts
	minMoves     = 2                       // of the sender's counter
	unknownLoss  = 0.01                    // of a flow of which nothing has arrived yet
)

// health is what is known of an active flow's packets.
type health struct {
	// Our outbound rule.
	out  uint64 // as listed last
	void uint64 // of these, counted while our gate may have been closed
	told uint64 // to the peer, of the others

	// Our inbound rule, and the peer's outbound one.
	in    uint64
	still moment    // when a listing had ended that showed in as it is now
	sent  uint64    // as the peer told last
	older [3]uint64 // what it told before, newest first
	base  uint64    // packets that were sent before those that in should show
	due   moment    // a listing begun then, or later, must show in moved; zero = none
	loss  float32   // share of its packets that get lost, as of when one last did not
	based bool      // base is known
	moves uint8     // of sent, since base; minMoves stands for more
}

// newHealth is for rules that are not in the switch yet.
func newHealth() *health { return &health{based: true, loss: unknownLoss} }

// reported takes the peer's word. ack is when the listing of ours had ended that the peer
// had heard of; zero = not known.
func (h *health) reported(sent uint64, ack, now moment, lag time.Duration) {
	moved := sent != h.sent
	if sent < h.sent { // its counters began anew
		h.based, h.due = false, 0
	}
	h.older = [...]uint64{h.sent, h.older[0], h.older[1]}
	h.sent = sent
	switch {
	case !h.based && !ack.IsZero() && !h.still.After(ack.Add(-lag)):
		h.based, h.base, h.moves = true, sent, 0
	case h.based && moved:
		h.moves = min(h.moves+1, minMoves)
		if h.due.IsZero() && h.moves >= minMoves && sent-h.base >= enough(float64(h.loss)) {
			h.due = now.Add(lag)
		}
	}
}

// listed takes our own count; true: the flow is broken.
func (h *health) listed(in uint64, began, ended moment) bool {
	if in == h.in {
		return !h.due.IsZero() && !began.Before(h.due)
	}
	h.in, h.still = in, ended
	// What was told long enough ago should have arrived. The fewer packets there were,
	// the less is known.
	sent := h.older[len(h.older)-1]
	h.loss = float32((float64(sent-min(in, sent)) + 0.2) / (float64(sent) + 5))
	h.based, h.due = false, 0
	return false
}

// hears tells whether the peer's packets came lately: a flow in one direction only is
// idle at the other end, and no less alive.
func (e *entry) hears(now moment) bool {
	return e.health != nil && e.health.in > 0 && now.Sub(e.health.still) < e.t.idle
}

// enough is how many packets must be lost in a row, of a flow that loses this share of
// them, so that it is not chance: once in a million.
func enough(loss float64) uint64 {
	return uint64(math.Ceil(math.Log(1e-6)/math.Log(min(max(loss, 0.001), 0.99)) - 1e-9))
}

// healthState is the loop's part of it.
type healthState struct {
	worker  *worker // lists rules
	armed   bool
	listing uint64      // number of the last
	ended   [128]moment // listings, by number
	lag     time.Duration
}

// peerHealth is what a peer and we know of each other's listings.
type peerHealth struct {
	heard                uint64   // the peer's last listing that we know of
	acked                uint64   // the same, when ours began
	answer               bool     // the peer told counters since we last told it anything
	waiting              []*entry // whose counters are to be told
	cursor               uint64   // serial of the last one told
	closedTCP, closedUDP time.Time
	counters             pace // of its messages
}

// closed is when our gate for proto was last seen not to be surely open.
func (h *peerHealth) closed(proto Proto) *time.Time {
	if proto == UDP {
		return &h.closedUDP
	}
	return &h.closedTCP
}

// watchHealth begins to count for a flow whose rules are about to be installed.
func (l *loop) watchHealth(e *entry, now time.Time) {
	e.health = newHealth()
	if !l.health.armed {
		l.health.armed = true
		l.timers.add(now.Add(healthPeriod), l.countRules)
	}
}

// countRules has the switch's counters listed, as long as there are flows.
func (l *loop) countRules() {
	busy := false
	for _, p := range l.sortedPeers() {
		busy = busy || p.busy()
		p.health.acked = p.health.heard
	}
	if !busy {
		l.health.armed = false
		return
	}
	if !l.up {
		l.timers.add(time.Now().Add(healthPeriod), l.countRules)
		return
	}
	l.health.listing++
	n := l.health.listing
	l.health.worker.post(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, applyTimeout)
		defer cancel()
		began := time.Now()
		stats, err := l.dp.Rules(ctx)
		ended := time.Now()
		l.box.post(func() {
			took := ended.Sub(began)
			rest := max(healthPeriod, healthShare*took, time.Duration(len(stats))*healthRule)
			l.timers.add(time.Now().Add(min(rest, healthRest)), l.countRules)
			if err == nil { // a switch that does not answer is seen to elsewhere
				l.health.lag = healthLag + 10*took
				l.health.ended[n%uint64(len(l.health.ended))] = l.at(ended)
				l.counted(stats, began, ended)
			}
		})
	})
}

// endedAt is when one of our listings had ended; zero: too long ago, or never.
func (s *healthState) endedAt(n uint64) moment {
	if n == 0 || n > s.listing || s.listing-n >= uint64(len(s.ended)) {
		return 0
	}
	return s.ended[n%uint64(len(s.ended))]
}

// counted compares what was listed with what the peers told, and tells them ours.
func (l *loop) counted(stats []RuleStat, began, ended time.Time) {
	for _, p := range l.sortedPeers() {
		for _, proto := range []Proto{TCP, UDP} {
			if p.live[proto] > 0 && !p.gates[proto].out.After(ended) {
				*p.health.closed(proto) = ended
			}
		}
	}
	moved := make(map[*peer]map[*entry]bool)
	broken := make(map[*entry]bool)
	for i := range stats {
		s := &stats[i]
		e := l.byRule[s.Rule.ID]
		if e == nil || s.Epoch != uint16(l.epoch) || e.t.phase != phaseActive || e.health == nil {
			continue
		}
		switch s.Rule.Direction {
		case Inbound:
			if e.health.listed(s.Packets, l.at(began), l.at(ended)) && e.peer.linked {
				broken[e] = true
			}
		case Outbound:
			if e.health.counts(s.Packets, ended.Sub(*e.peer.health.closed(e.id.proto)) < l.health.lag) {
				if moved[e.peer] == nil {
					moved[e.peer] = make(map[*entry]bool)
				}
				moved[e.peer][e] = true
			}
		}
	}
	now := time.Now()
	for _, e := range sorted(broken) {
		l.log.Warn("bypass: the path drops this flow's packets though probes pass", "flow", e.flow().String(), "underlay", e.t.tuple.flow().String())
		l.step(e, input{event: evLeave, reason: ReasonFlowBroken}, now)
	}
	for _, p := range l.sortedPeers() {
		p.tells(sorted(moved[p]))
		l.tellCounters(p, l.health.listing, now)
	}
}

// counts takes our own count of what we sent; true: the peer does not know it.
func (h *health) counts(out uint64, void bool) bool {
	if out < h.out {
		h.void = 0
	} else if void {
		h.void += out - h.out
	}
	h.out = out
	return h.out-h.void != h.told
}

// tells makes moved what is to be told; those come first that were not told last time.
func (p *peer) tells(moved []*entry) {
	p.health.waiting = p.health.waiting[:0]
	for _, behind := range []bool{true, false} {
		for _, e := range moved {
			if (e.serial > p.health.cursor) == behind {
				p.health.waiting = append(p.health.waiting, e)
			}
		}
	}
}

// tellCounters sends the counters of listing n that wait, some at a time. A peer that
// told us something gets a message in any case: its next listing needs our number.
func (l *loop) tellCounters(p *peer, n uint64, now time.Time) {
	h := &p.health
	for range healthBurst {
		if len(h.waiting) == 0 && !h.answer || !p.linked || n != l.health.listing {
			return
		}
		m := message{Kind: msgCounters, Seq: n, Ack: h.acked}
		some := h.waiting[:min(len(h.waiting), maxCounters)]
		h.waiting = h.waiting[len(some):]
		for _, e := range some {
			if e.t.phase == phaseActive && e.peer == p {
				m.IDs, m.Counts = append(m.IDs, e.t.id), append(m.Counts, e.health.out-e.health.void)
			}
		}
		if !l.send(p, m) {
			return
		}
		h.answer = false
		for _, e := range some {
			h.cursor = e.serial
			if e.health != nil {
				e.health.told = e.health.out - e.health.void
			}
		}
	}
	if len(h.waiting) > 0 {
		l.timers.add(now.Add(healthPause), func() { l.tellCounters(p, n, time.Now()) })
	}
}

// onCounters takes a peer's counters. It can hurt its own flows with them, no others.
func (l *loop) onCounters(p *peer, m message, now time.Time) {
	if !p.health.counters.allow(now, healthPause/healthBurst, 4*healthBurst) {
		return // it tells more than it should; what is lost can only hide a break
	}
	p.health.heard = max(p.health.heard, m.Seq)
	p.health.answer = p.health.answer || len(m.IDs) > 0
	ack := l.health.endedAt(m.Ack)
	for i, id := range m.IDs {
		if e := p.txns[id]; e != nil && e.t.phase == phaseActive && e.health != nil {
			e.health.reported(m.Counts[i], ack, l.at(now), l.health.lag)
		}
	}
}

// Back-off of a flow that the path drops: every try costs it some seconds.
const (
	brokenRetry = 2 * time.Second
	brokenMax   = 5 * time.Minute
)

// brokenBackoff is how long a flow that was found broken stays on the overlay. It grows
// fourfold, however often the flow was up meanwhile, unless it was well for longer than it
// was kept away.
func (e *entry) brokenBackoff(retried, now time.Time) time.Duration {
	wait := brokenRetry << (2 * min(e.broken, 4))
	if e.broken > 0 && now.Sub(retried) > 4*wait {
		e.broken, wait = 0, brokenRetry
	}
	e.broken = min(e.broken+1, 4)
	return min(wait, brokenMax)
}
