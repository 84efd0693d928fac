package bypass

import (
	"net/netip"
	"time"
)

// tick does what is due: probes, pings, and giving up. busy says that bypasses
// depend on the path.
func (p *proof) tick(now time.Time, busy bool) []proofAction {
	switch p.phase {
	case proofAsked, proofListening:
		if !now.Before(p.deadline) {
			return p.fail(ReasonTimeout, now)
		}
	case proofProbing:
		return p.probeAll(now)
	case proofFresh:
		return p.pingAll(now, busy)
	}
	return nil
}

func (p *proof) probeAll(now time.Time) []proofAction {
	var acts []proofAction
	for i := range p.half {
		h := &p.half[i]
		if h.ok || now.Before(h.next) {
			continue
		}
		if h.sent >= proofProbes {
			return append(acts, p.fail(p.verdict(), now)...)
		}
		h.sent++
		h.next = now.Add(proofResend)
		acts = append(acts, p.request(h, now)...)
	}
	if !now.Before(p.deadline) {
		acts = append(acts, p.fail(ReasonTimeout, now)...)
	}
	return acts
}

// verdict says why our probes got nowhere.
func (p *proof) verdict() Reason {
	udp, tcp := &p.half[0], &p.half[1]
	switch {
	case p.seen != ReasonNone:
		return p.seen
	case p.reset: // and the peer was never heard
		return ReasonProofStranger
	case udp.rtt > p.cfg.trust.MaxRTT, tcp.rtt > p.cfg.trust.MaxRTT && udp.ok:
		return ReasonProofRTT
	case udp.ok && !tcp.ok:
		return ReasonProofTCP
	}
	return ReasonProofTimeout
}

func (p *proof) from() netip.AddrPort { return netip.AddrPortFrom(p.local, p.mine[0]) }
func (p *proof) to() netip.AddrPort   { return netip.AddrPortFrom(p.remote, p.theirs[1]) }

// request sends the next probe of a half: a SYN until the connection stands.
func (p *proof) request(h *half, now time.Time) []proofAction {
	pr := probe{proto: h.proto, src: p.from(), dst: p.to()}
	h.n++
	h.sentAt[h.n%8] = now
	if h.proto == TCP && !h.open {
		pr.syn, pr.seq, pr.size = true, p.key.isn(&pr, probeRequest), pr.head()
		h.seq = pr.seq + 1
		return p.emit(&pr)
	}
	return p.data(h, &pr)
}

func (p *proof) data(h *half, pr *probe) []proofAction {
	size := proofPingSize
	if p.phase == proofProbing && h.full < proofFull {
		size = p.mtu
		h.full++
	}
	p.key.seal(pr, probeRequest, p.round, h.n, size)
	if h.proto == TCP {
		pr.ack, pr.seq, pr.num = true, h.seq, h.num
		h.seq += uint32(len(pr.text))
	}
	return p.emit(pr)
}

func (p *proof) emit(pr *probe) []proofAction {
	f, err := pr.frame(p.route.Src, p.route.NextHop)
	if err != nil {
		return nil // nothing of a probe can make this fail; if it did, the round times out
	}
	return []proofAction{emit{f}}
}

// pingAll keeps a fresh proof fresh, or ends it.
func (p *proof) pingAll(now time.Time, busy bool) []proofAction {
	if now.Before(p.nextPing) {
		return nil
	}
	p.nextPing = now.Add(proofPing)
	udp, tcp := &p.half[0], &p.half[1]
	switch {
	case udp.silent(now), tcp.silent(now) && !udp.waiting.IsZero(): // one may notice a little earlier
		return p.fail(ReasonProofTimeout, now)
	case tcp.silent(now):
		return p.fail(ReasonProofTCP, now)
	case !p.slow.IsZero() && now.Sub(p.slow) >= proofSlow:
		return p.fail(ReasonProofRTT, now)
	case !busy && p.pinged && udp.waiting.IsZero() && tcp.waiting.IsZero() && p.slow.IsZero():
		p.pinged, p.nextPing = false, now.Add(proofIdlePing)
		return nil
	}
	p.pinged = true
	var acts []proofAction
	for i := range p.half {
		h := &p.half[i]
		if h.waiting.IsZero() {
			h.waiting = now
		}
		acts = append(acts, p.request(h, now)...)
	}
	return append(acts, p.measure(now)...)
}

// since is how long ago request n was sent, or at least.
func (h *half) since(n uint32, now time.Time) time.Duration {
	if oldest := uint32(len(h.sentAt)); h.n-n >= oldest {
		n = h.n - oldest + 1
	}
	return now.Sub(h.sentAt[n%uint32(len(h.sentAt))])
}

// silent tells whether pings have gone unanswered for too long.
func (h *half) silent(now time.Time) bool {
	return !h.waiting.IsZero() && now.Sub(h.waiting)-min(h.starved, proofExcuse) >= proofStale
}

// late notes how late we come to look: time in which we did nothing ourselves is no
// sign of the path, up to a bound.
func (p *proof) late(d time.Duration) {
	for i := range p.half {
		if h := &p.half[i]; !h.waiting.IsZero() && d > proofPing {
			h.starved += d
		}
	}
}

// hurry makes pings frequent from now on: a bypass depends on the path again.
func (p *proof) hurry(now time.Time) {
	if p.phase == proofFresh && p.nextPing.After(now.Add(proofPing)) {
		p.nextPing = now
	}
}

// recent tells whether the path was just seen to work. While no bypass depends on it
// pings are rare: before one does, another is sent.
func (p *proof) recent(now time.Time) bool {
	return p.fresh() && now.Sub(p.half[0].answered) <= proofRecent && now.Sub(p.half[1].answered) <= proofRecent
}

// listensOn tells whether to is an address of one of our Listen rules.
func (p *proof) listensOn(to netip.AddrPort) bool {
	return len(p.mine) == 2 && to.Addr() == p.local && (to.Port() == p.mine[0] || to.Port() == p.mine[1])
}

// packet takes a frame that one of our Listen rules sent up; false: not ours.
func (p *proof) packet(pr *probe, now time.Time) ([]proofAction, bool) {
	if p.key == nil || len(p.theirs) != 2 {
		return nil, false
	}
	if p.phase == proofFailed {
		return nil, true // our silence is what the peer learns from if the link is down
	}
	switch pr.dst.Port() {
	case p.mine[0]:
		if pr.src != p.to() {
			return nil, false
		}
		return p.answer(pr, now), true
	case p.mine[1]:
		return p.serve(pr, now)
	}
	return nil, false
}

// answer takes an answer to our own probe.
func (p *proof) answer(pr *probe, now time.Time) []proofAction {
	h := &p.half[0]
	if pr.proto == TCP {
		h = &p.half[1]
	}
	switch {
	case pr.rst:
		p.reset = p.reset || p.phase == proofProbing && pr.ack && pr.num == h.seq
		return p.judgeReset(now)
	case pr.syn:
		back := probe{proto: TCP, src: pr.src, dst: pr.dst}
		if h.open || !pr.ack || pr.num != h.seq || pr.seq != p.key.isn(&back, probeReply) {
			return nil
		}
		h.open, h.num, p.heard = true, pr.seq+1, true
		h.sentAt[h.n%8] = now
		return append(p.data(h, &probe{proto: TCP, src: p.from(), dst: p.to()}), p.judgeReset(now)...)
	}
	what, round, n, ok := p.key.open(pr, pr.src, pr.dst)
	if !ok || what != probeReply || round != p.round {
		return nil
	}
	p.heard = true
	if acts := p.judgeReset(now); acts != nil {
		return acts
	}
	if int(pr.ttl) < probeTTL-p.cfg.trust.MaxHops {
		p.seen = ReasonProofHops
		return nil
	}
	if pr.proto == TCP {
		h.num = pr.seq + uint32(len(pr.text))
	}
	h.waiting, h.answered, h.starved = time.Time{}, now, 0
	p.isWide(pr, now)
	if p.phase == proofFresh {
		p.timed(h.since(n, now), now)
	}
	if p.phase != proofProbing || h.ok {
		return nil
	}
	h.size = max(h.size, pr.size)
	if rtt := h.since(n, now); h.rtt == 0 || rtt < h.rtt {
		h.rtt = max(rtt, 1)
	}
	if h.rtt == 0 || h.rtt > p.cfg.trust.MaxRTT {
		return nil // an answer to an earlier probe, or a slow one: the next may be better
	}
	h.ok = true
	p.mtu = min(p.mtu, h.size) // less than full size if only small ones came through
	return p.report(now)
}

// timed notes how long a ping took: the path may have become another, longer one.
func (p *proof) timed(rtt time.Duration, now time.Time) {
	switch {
	case rtt <= p.cfg.trust.MaxRTT:
		p.slow = time.Time{}
	case p.slow.IsZero():
		p.slow = now
	}
}

// judgeReset: a host's stack answered our SYN. If the peer is heard on the path too,
// that stack is its own, to which our switch-made connection is unknown: it would
// answer a guest's segments as well. If not, some other host has the peer's address.
func (p *proof) judgeReset(now time.Time) []proofAction {
	if !p.reset || !p.heard || p.phase != proofProbing {
		return nil
	}
	return p.fail(ReasonHostStack, now)
}

// report tells the peer when both halves are good.
func (p *proof) report(now time.Time) []proofAction {
	if !p.half[0].ok || !p.half[1].ok {
		return nil
	}
	acts := []proofAction{tell{message{Kind: msgResult, ID: p.round, MTU: p.mtu, TCP: true, RTT: int64(p.half[0].rtt)}}}
	return append(acts, p.conclude(now)...)
}

// serve answers the peer's probe, once it has shown that it came unchanged.
func (p *proof) serve(pr *probe, now time.Time) ([]proofAction, bool) {
	claimed := netip.AddrPortFrom(p.remote, p.theirs[0])
	back := probe{proto: pr.proto, src: pr.dst, dst: claimed}
	there := probe{proto: pr.proto, src: claimed, dst: pr.dst}
	if pr.proto == TCP && pr.syn {
		if pr.ack || pr.seq != p.key.isn(&there, probeRequest) {
			return nil, false
		}
		if acts, bad := p.suspect(pr, claimed, now); bad {
			return acts, true
		}
		back.syn, back.ack, back.size = true, true, back.head()
		back.seq, back.num = p.key.isn(&back, probeReply), pr.seq+1
		return p.emit(&back), true
	}
	what, round, n, ok := p.key.open(pr, claimed, pr.dst)
	if !ok || what != probeRequest || round != p.round {
		return nil, false
	}
	if acts, bad := p.suspect(pr, claimed, now); bad {
		return acts, true
	}
	p.key.seal(&back, probeReply, p.round, n, pr.size)
	if pr.proto == TCP {
		// Acknowledge what came; what we sent before is what it acknowledges.
		back.ack, back.seq, back.num = true, pr.num, pr.seq+uint32(len(pr.text))
	}
	return p.emit(&back), true
}

// suspect looks at what a genuine probe went through. A bad sign fails the round:
// the peer's own probes may look fine to it.
func (p *proof) suspect(pr *probe, claimed netip.AddrPort, now time.Time) ([]proofAction, bool) {
	p.heard = true
	if acts := p.judgeReset(now); acts != nil {
		return acts, true
	}
	r := ReasonNone
	switch {
	case pr.src != claimed:
		r = ReasonProofNAT
	case int(pr.ttl) < probeTTL-p.cfg.trust.MaxHops:
		r = ReasonProofHops
	default:
		return nil, false
	}
	p.seen = r
	if p.phase == proofProbing || p.phase == proofFresh {
		return p.fail(r, now), true
	}
	return nil, true
}
