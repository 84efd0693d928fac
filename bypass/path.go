package bypass

import (
	"net/netip"
	"time"
)

// What the loop does with a peer's proof: when a round starts, and what follows from it.

// kick starts a round of proof if one is due. The lower PeerID starts them; the
// higher one asks for it.
func (l *loop) kick(p *peer, now time.Time) {
	pr, home := &p.proof, l.home(p.family)
	switch {
	case !p.linked, !l.up, !l.cleared, p.member.policyNow() == nil, p.member.left.Load(), !p.invited && !l.wants(p.member, p.family):
		return
	case pr.phase == proofFailed && now.Before(pr.deadline):
		l.kickAt(p, pr.deadline)
		return
	case pr.phase != proofNone && pr.phase != proofFailed:
		return
	case !home.addr.IsValid():
		l.homeless(p, home.why, now)
		return
	case !pr.lower():
		l.send(p, message{Kind: msgWant})
		if p.family == IPv6 { // the lower end may not begin by itself
			l.kickAt(p, now.Add(proofRetryMax))
		}
		return
	}
	if !p.rounds.allow(now, roundEvery, roundBurst) {
		l.kickAt(p, now.Add(roundEvery))
		return
	}
	// The MTU is that of the way to the peer, which we learn with its address: the
	// peer's Response is measured against the real route.
	l.prove(p, func() []proofAction { return pr.ask(home.addr, 65535, now) })
}

// homeless: we have no address to offer. The peer is told why, whichever end it is.
func (l *loop) homeless(p *peer, why Reason, now time.Time) {
	if why == ReasonNone {
		return // it is being looked up
	}
	p.invited = false // once it has been said an IPv6 path is not tried again
	l.prove(p, func() []proofAction {
		p.proof.begin(l.draw(), now)
		return p.proof.fail(why, now)
	})
	l.kick(p, now) // later
}

// kickAt kicks p at a time, unless it is kicked before.
func (l *loop) kickAt(p *peer, at time.Time) {
	if !p.kicked.IsZero() && !p.kicked.After(at) {
		return
	}
	p.kicked = at
	l.timers.add(at, func() {
		if p.kicked.Equal(at) && l.known(p) {
			p.kicked = time.Time{}
			l.kick(p, time.Now())
		}
	})
}

// prove lets f change the proof, does what it asks for, and draws the consequences.
func (l *loop) prove(p *peer, f func() []proofAction) {
	before, guarded, reason := p.proof.phase, p.proof.remote, p.proof.reason
	acts := f()
	if p.proof.phase != before || p.proof.remote != guarded {
		l.setBase(nil) // who is guarded; queued before the Listen rules below
		l.flushBase()
	}
	l.proofDo(p, acts)
	now := time.Now()
	switch {
	case p.proof.phase == proofFresh && before != proofFresh:
		l.proven(p, now)
	case p.proof.phase == proofFailed && before != proofFailed:
		l.disproven(p, now)
	case p.eager && p.proof.recent(now):
		l.wantedNow(p, now)
	case p.proof.phase == proofFailed && p.proof.reason != reason:
		l.explain(p, now)
	}
	l.armProof(p)
}

func (l *loop) proofDo(p *peer, acts []proofAction) {
	for _, a := range acts {
		switch a := a.(type) {
		case tell:
			l.send(p, a.message)
		case emit:
			l.emit(a.frame)
		case apply:
			round := p.proof.round
			adding := len(a.change.Add) > 0
			l.enqueue(a.change, func(err error) {
				if adding {
					l.guardStands(func(guard error) { l.listening(p, round, err, guard) })
				}
			})
		}
	}
}

// listening: the Listen rules of a round are in the switch, and the guard stands: not
// before may the peer know where to send its probes. Or one of them failed.
func (l *loop) listening(p *peer, round uint64, rules, guard error) {
	if p.proof.round != round || !l.known(p) {
		return
	}
	now := time.Now()
	l.prove(p, func() []proofAction {
		switch {
		case p.proof.phase != proofListening:
			return nil
		case rules != nil:
			return p.proof.fail(switchReason(rules), now)
		case guard != nil:
			return p.proof.fail(ReasonGuard, now)
		}
		return p.proof.listens(now)
	})
}

// armProof sees to it that tick is called when due.
func (l *loop) armProof(p *peer) {
	at := p.proof.due()
	if at.IsZero() || at.Equal(p.timer) {
		return
	}
	p.timer = at
	l.timers.add(at, func() {
		if !p.timer.Equal(at) || !l.known(p) {
			return
		}
		p.timer = time.Time{}
		now := time.Now()
		p.proof.late(now.Sub(at))
		l.prove(p, func() []proofAction { return p.proof.tick(now, p.busy() || p.eager) })
		l.askHop(p, now)
	})
}

// proven: flows that waited for the proof may go on.
func (l *loop) proven(p *peer, now time.Time) {
	pair := AddrPair{p.proof.local, p.proof.remote}
	if p.busy() && p.pair != pair || p.unbinding() {
		// Flows of the old addresses are still leaving; or outbound rules that should be
		// gone may still be in the switch, and must not forward again.
		l.prove(p, func() []proofAction { return p.proof.fail(ReasonProving, now) })
		return
	}
	p.pair, p.hop = pair, l.hopFor(p.proof.route)
	l.log.Info("bypass: path proven", "peer", p.id.Short(), "local", pair.Local.String(), "remote", pair.Remote.String(),
		"mtu", p.proof.mtu, "rtt", p.proof.half[0].rtt)
	l.wantedNow(p, now)
}

// wantedNow: flows that waited for the path may begin.
func (l *loop) wantedNow(p *peer, now time.Time) {
	p.eager = false
	for _, e := range sorted(p.flows) {
		if e.wanted {
			l.begins(e, now)
		}
	}
}

// disproven: nothing may leave towards the peer any more. One change closes the
// gates, whatever the number of flows; then each flow takes its rules down.
func (l *loop) disproven(p *peer, now time.Time) {
	p.eager = false
	if p.busy() {
		l.log.Warn("bypass: path no longer proven; flows go back to the overlay", "peer", p.id.Short(), "reason", p.proof.reason.String())
		clear(p.gates)
		l.enqueue(Change{Leases: l.leases(p)}, func(error) {})
		for _, e := range sorted(p.flows) {
			l.step(e, input{event: evLeave, reason: p.proof.reason}, now)
		}
	}
	l.explain(p, now)
	l.timers.add(now.Add(l.cfg.Drain), func() {
		if l.known(p) && p.proof.phase != proofListening && p.proof.phase != proofProbing && p.proof.phase != proofFresh {
			l.unlisten(p)
		}
	})
	l.kick(p, now)
}

// explain gives the reason of a failed proof to the flows that wait for it.
func (l *loop) explain(p *peer, now time.Time) {
	for _, e := range sorted(p.flows) {
		if e.t.phase == phaseOverlay && e.wanted {
			e.t.reason = p.proof.reason
			l.publish(e, now)
		}
	}
}

// recheckRoute proves the path again when the way to the peer has changed. A next
// hop that only changed its MAC costs one change of the hop.
func (l *loop) recheckRoute(p *peer) {
	now := time.Now()
	if !p.proof.remote.IsValid() || p.proof.phase == proofNone || p.proof.phase == proofFailed {
		l.kick(p, now)
		return
	}
	round, remote := p.proof.round, p.proof.remote
	l.routeTo(remote, func(r Route, err error) {
		if p.proof.round != round || p.proof.remote != remote || !l.known(p) {
			return
		}
		old := p.proof.route
		if err == nil && old.Local == r.Local && old.Via == r.Via && old.OnLink == r.OnLink && old.MTU == r.MTU {
			if old != r {
				l.leads(p, r)
			}
			return
		}
		l.prove(p, func() []proofAction { return p.proof.fail(ReasonNoRoute, time.Now()) })
	})
}

// packetIn is a frame that a rule sent up.
func (l *loop) packetIn(e PacketIn, now time.Time) {
	switch e.Kind {
	case PacketOrphan:
		l.orphan(e.Frame, now)
		return
	case PacketError:
		l.icmpError(e.Frame, now)
		return
	case PacketGuard:
		return // dropped here, which is what matters
	}
	pr, err := parseProbe(e.Frame)
	if err != nil {
		return
	}
	for _, p := range l.peers {
		mine := false
		if p.proof.listensOn(pr.dst) {
			l.prove(p, func() []proofAction {
				acts, ok := p.proof.packet(&pr, now)
				mine = ok
				return acts
			})
		}
		if mine { // another peer may have drawn the same port: the MAC tells
			return
		}
	}
}

// onProofMessage handles the proof's part of the control protocol.
func (l *loop) onProofMessage(p *peer, m message, now time.Time) {
	switch m.Kind {
	case msgChallenge:
		l.onChallenge(p, m, now)
	case msgResponse:
		if p.proof.phase == proofAsked && p.proof.round == m.ID {
			l.lookUp(p, m)
		}
	case msgWant:
		if p.proof.phase == proofFailed {
			p.proof.deadline = now
		}
		p.invited = true
		l.kick(p, now)
	case msgReady:
		l.prove(p, func() []proofAction { return p.proof.readied(m, now) })
	case msgResult:
		l.prove(p, func() []proofAction { return p.proof.resulted(m, now) })
	case msgRefuse:
		l.prove(p, func() []proofAction { return p.proof.refused(m, now) })
	}
}

// onChallenge: the lower end wants the path proven.
func (l *loop) onChallenge(p *peer, m message, now time.Time) {
	if p.proof.lower() || p.member.policyNow() == nil || p.member.left.Load() || !l.up || !l.cleared {
		r := ReasonPolicy
		if !l.up || !l.cleared {
			r = ReasonSwitchDown
		}
		l.send(p, message{Kind: msgRefuse, ID: m.ID, Reason: r})
		return
	}
	if !p.rounds.allow(now, roundEvery, roundBurst) {
		l.send(p, message{Kind: msgRefuse, ID: m.ID, Reason: ReasonBackoff})
		return
	}
	if l.home(p.family).why == ReasonFamily {
		l.send(p, message{Kind: msgRefuse, ID: m.ID, Reason: ReasonFamily})
		return
	}
	if p.proof.fresh() {
		// The peer has given its proof up: so do we, flows first.
		l.prove(p, func() []proofAction { return p.proof.failQuietly(ReasonProving, now) })
	}
	l.lookUp(p, m)
}

// lookUp finds the way to the address that a Challenge or a Response names, and goes
// on with the round. A peer has one look-up under way; of what it sends meanwhile only
// the newest counts, so it cannot keep the look-ups of others waiting.
func (l *loop) lookUp(p *peer, m message) {
	if p.looking {
		p.next = &m
		return
	}
	p.looking = true
	l.routeTo(m.Addr, func(r Route, err error) {
		p.looking = false
		if !l.known(p) || p.member.left.Load() {
			return
		}
		if next := p.next; next != nil {
			p.next = nil
			l.onProofMessage(p, *next, time.Now())
			return
		}
		now := time.Now()
		l.prove(p, func() []proofAction {
			switch {
			case err != nil: // a zero Route fails the round with a reason
				return p.refuse(m, now)
			case m.Kind == msgChallenge:
				return p.proof.challenged(m, r, now)
			}
			return p.proof.responded(m, r, now)
		})
	})
}

// refuse ends a round to whose other end there is no way.
func (p *peer) refuse(m message, now time.Time) []proofAction {
	if m.Kind == msgChallenge {
		p.proof.begin(m.ID, now)
	}
	if p.proof.round != m.ID {
		return nil
	}
	return p.proof.fail(ReasonNoRoute, now)
}

// unlisten takes the Listen rules of a failed round down.
func (l *loop) unlisten(p *peer) {
	if len(p.proof.installed) > 0 {
		l.enqueue(Change{Remove: p.proof.installed}, func(error) {}) // or they end by themselves
		p.proof.installed = nil
	}
}

// pathReason tells why the path to the peer is not proven, and where it leads.
func (l *loop) pathReason(p *peer) (Reason, netip.Addr) {
	switch why := l.home(p.family).why; {
	case p.proof.fresh():
		return ReasonNone, p.proof.remote
	case p.proof.phase == proofNone && why != ReasonNone:
		return why, netip.Addr{}
	case p.proof.reason == ReasonNone:
		return ReasonProving, p.proof.remote
	}
	return p.proof.reason, p.proof.remote
}

// sever ends the path to a peer that cannot be told, or does not confirm, that a flow
// is over: it may go on sending in clear, without our consent or into nothing. We
// answer its pings no more, and so its own gates close.
func (l *loop) sever(p *peer, r Reason, now time.Time) {
	if p.proof.phase != proofNone && p.proof.phase != proofFailed {
		l.prove(p, func() []proofAction { return p.proof.fail(r, now) })
	}
}
