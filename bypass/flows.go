package bypass

import (
	"time"

	"github.com/viasnet/vias/overlay"
)

// request is the Network asking for a flow.
func (l *loop) request(m *Member, f Flow, v Verdict, now time.Time) {
	if !l.members[m] {
		return
	}
	e := l.entry(m, f)
	if e == nil {
		return
	}
	e.idle = v.normal().Idle
	if e.t.phase != phaseOverlay {
		return
	}
	if !e.wanted && e.retryAt <= l.at(now) && !l.mayAsk(m, f, now) {
		e.retryAt = l.at(now.Add(time.Second))
		l.unable(e, ReasonQueued, now)
		return
	}
	e.wanted, e.askedAt = true, l.at(now)
	l.begins(e, now)
}

// mayAsk tells whether the flow's workload has not asked for too many.
func (l *loop) mayAsk(m *Member, f Flow, now time.Time) bool {
	at, ok := m.cfg.Resolve(f)
	w, known := l.base.workloads[at.Ofport]
	return !ok || !known || w.begun.allow(now, time.Second/time.Duration(l.cfg.Rate), 2*l.cfg.Rate)
}

// begins starts a wanted flow's transaction, or says why not yet.
func (l *loop) begins(e *entry, now time.Time) {
	if e.t.phase != phaseOverlay || e.retryAt > l.at(now) {
		return
	}
	flow := e.flow()
	at, ok := e.member.cfg.Resolve(flow)
	if !ok || !l.attached(e.member, at.Ofport) { // or being detached just now
		l.unable(e, ReasonDetached, now)
		return
	}
	p := l.peer(e.member, at.Peer, FamilyOf(flow.Src.Addr()))
	if e.peer != p && l.crowded(p) {
		l.forget(e)
		return
	}
	e.goesTo(p)
	if !l.allows(p.member, flow, at, true).Bypass { // it may have changed since the Network asked
		e.wanted = false
		l.unable(e, ReasonPolicy, now)
		return
	}
	if p.family == IPv6 && p.proof.phase == proofNone {
		p.invited = true
		l.kick(p, now)
	}
	if r := l.usable(p); r != ReasonNone {
		l.unable(e, r, now)
		return
	}
	if !p.proof.recent(now) {
		p.eager = true
		p.proof.hurry(now)
		l.armProof(p)
		l.unable(e, ReasonProving, now)
		return
	}
	if !l.mayMove(p, e, now) {
		return
	}
	pair, ok := l.ports.propose(flow.Proto, p.pair.Local, p.pair.Remote, now)
	if !ok {
		e.retryAt = l.at(now.Add(time.Second))
		l.unable(e, ReasonPorts, now)
		return
	}
	e.wanted = false
	l.prepare(e, l.draw(), at, pair)
	l.step(e, input{event: evStart}, now)
}

// allows asks the Network's policy as it is now.
func (l *loop) allows(m *Member, f Flow, ends Ends, initiator bool) Verdict {
	policy := m.policyNow()
	if policy == nil {
		return Verdict{}
	}
	return policy(Request{Flow: f, Network: m.cfg.Network, Peer: ends.Peer, LocalTag: ends.LocalTag,
		PeerTag: ends.RemoteTag, Initiator: initiator})
}

// usable tells why no flow to p can start.
func (l *loop) usable(p *peer) Reason {
	switch {
	case !l.up:
		return ReasonSwitchDown
	case !p.linked:
		return ReasonLinkDown
	case !p.proof.fresh():
		r, _ := l.pathReason(p)
		return r
	}
	return ReasonNone
}

// unable keeps a flow waiting, with the reason.
func (l *loop) unable(e *entry, r Reason, now time.Time) {
	e.t.reason = r
	l.publish(e, now)
}

// step runs the transaction's next step and does what it asks for.
func (l *loop) step(e *entry, in input, now time.Time) {
	before, rising, deadline, silent := e.t.phase, e.t.rising(), e.t.deadline, false
	lim := l.limits
	if e.peer != nil {
		lim.lease = l.longestLease(e.peer)
	}
	next, acts := l.next(e.t, in, l.at(now), lim)
	e.t = next
	l.account(e, before, now)
	l.moved(e.peer, rising, e.t.rising())
	for _, a := range acts {
		switch a := a.(type) {
		case send:
			if !l.sendFlow(e, a.kind) && a.kind == msgOffer {
				in := input{event: evLeave, reason: ReasonLinkDown}
				l.box.post(func() { l.step(e, in, time.Now()) })
			}
		case rewrite:
			l.applyFlow(e, a, now)
		case free:
			l.ports.free(a.tuple.tuple(), now.Add(max(l.cfg.Quarantine, lim.lease)))
		case sever:
			silent = true
		}
	}
	if d := e.t.deadline; !d.IsZero() && d != deadline {
		l.timers.addFlow(d, e)
	}
	l.publish(e, now)
	switch {
	case silent:
		l.sever(e.peer, ReasonTimeout, now)
	case e.t.untold() && !e.peer.linked:
		l.sever(e.peer, ReasonLinkDown, now)
	}
	if before != phaseOverlay && e.t.phase == phaseOverlay {
		e.peer.member.settled()
	}
	if e.t.detached && (e.t.bare || e.t.phase == phaseOverlay) && len(l.detaching) > 0 && !l.releasing {
		l.releasing = true
		l.box.post(l.detached) // once for many flows
	}
}

// timeout is a flow's deadline that was due at at, if it still is one.
func (l *loop) timeout(e *entry, at moment) {
	if e.t.deadline == at {
		l.step(e, input{event: evDeadline}, time.Now())
	}
}

// account keeps the books that hang on a flow's phase.
func (l *loop) account(e *entry, before phase, now time.Time) {
	p, proto := e.peer, e.id.proto
	switch {
	case before == phaseOverlay && e.t.phase != phaseOverlay:
		p.live[proto]++
		l.watchHealth(e, now)
		p.proof.hurry(now)
		l.armProof(p)
	case before != phaseOverlay && e.t.phase == phaseOverlay:
		if p.live[proto]--; p.live[proto] == 0 {
			delete(p.gates, proto) // not renewed any more
		}
		e.health = nil
		delete(l.byRule, e.t.rule)
		delete(p.txns, e.t.id)
		e.retryAt = l.at(now.Add(l.backoff(e, now)))
		if p.proof.phase == proofFailed || p.proof.phase == proofNone {
			l.kick(p, now)
		}
		if p.gone {
			l.box.post(func() { l.dropGone(p) })
		}
	}
	if e.t.phase == phaseActive {
		e.fails = 0
	}
}

// backoff is how long a flow that came back to the overlay stays there.
func (l *loop) backoff(e *entry, now time.Time) time.Duration {
	switch e.t.reason {
	case ReasonPolicy, ReasonIdle, ReasonGlare, ReasonDetached, ReasonShutdown:
		return 0 // whoever asks again has a new reason to
	case ReasonFlowBroken:
		return e.brokenBackoff(l.time(e.retryAt), now)
	case ReasonPeerPolicy:
		e.fails = min(e.fails, 3)
	}
	if e.fails < 8 {
		e.fails++
	}
	return min(time.Second<<min(e.fails-1, 6), time.Minute)
}

func (l *loop) applyFlow(e *entry, a rewrite, now time.Time) {
	c := Change{Add: e.t.rules(e.id, a.add), Remove: e.t.rules(e.id, a.remove)}
	noted := func(error) {}
	if len(c.Add) > 0 && !l.gated(e.peer, e.id.proto, now) {
		c.Leases = l.leases(e.peer)
		noted = l.leased(e.peer, c, now)
	}
	l.enqueue(c, func(err error) {
		noted(err)
		in := input{event: evApplied}
		if err != nil {
			in.event = evFailed
			if unsure(err) {
				in.event = evUnsure
			} else {
				l.log.Warn("bypass: the switch refused a change", "flow", e.flow().String(), "err", err)
			}
		}
		l.step(e, in, time.Now())
	})
}

func switchReason(err error) Reason {
	if unsure(err) {
		return ReasonSwitchDown
	}
	return ReasonSwitch
}

// sendFlow fills in and sends a message of e's transaction.
func (l *loop) sendFlow(e *entry, k kind) bool {
	t := &e.t
	m := message{Kind: k, ID: t.id, Reason: t.reason}
	if k == msgOffer || k == msgAccept {
		f, wire := e.flow(), t.tuple.tuple()
		m.Proto, m.Src, m.Dst = f.Proto, f.Src, f.Dst
		m.SrcMAC, m.DstMAC = t.ends.LocalMAC, t.ends.RemoteMAC
		m.Local, m.Remote, m.Proof = wire.local, wire.remote, t.proof
	}
	return l.send(e.peer, m)
}

// receive takes a control message from a peer.
func (l *loop) receive(mem *Member, from overlay.PeerID, b []byte, now time.Time) {
	if !l.members[mem] {
		return
	}
	m, err := l.codec.decode(b)
	if err != nil {
		if p := l.peer(mem, from, IPv4); p.logged.allow(now, logEvery, logBurst) {
			l.log.Warn("bypass: message from peer refused", "peer", from.Short(), "err", err)
		}
		return
	}
	if m.Epoch == 0 || (m.PeerEpoch != 0 && m.PeerEpoch != l.epoch) {
		return // meant for an earlier run of ours
	}
	p := l.peer(mem, from, m.family())
	l.runs(mem, from, m.Epoch, now)
	switch m.Kind {
	case msgOffer:
		l.offered(p, m, now)
	case msgAccept, msgConfirm, msgDone, msgReject, msgClose, msgCloseAck, msgLeave:
		l.onFlowMessage(p, m, now)
	case msgAlive:
		if p.heeded.allow(now, heedEvery, heedBurst) {
			l.onAlive(p, m, now)
		}
	case msgCounters:
		l.onCounters(p, m, now)
	case msgSync:
		if p.told.allow(now, tellEvery, tellBurst) {
			l.announce(p, now)
		}
	default:
		l.onProofMessage(p, m, now)
	}
}

// onFlowMessage goes to the transaction that it names, if it is this peer's.
func (l *loop) onFlowMessage(p *peer, m message, now time.Time) {
	e := p.txns[m.ID]
	if e == nil {
		switch m.Kind {
		case msgClose: // we have nothing of it: our outbound is off
			l.send(p, message{Kind: msgCloseAck, ID: m.ID})
		case msgAccept: // of an offer that we gave up, or that was repeated on its way
			l.send(p, message{Kind: msgClose, ID: m.ID, Reason: ReasonTimeout})
		}
		return
	}
	in := input{reason: m.Reason}
	switch m.Kind {
	case msgAccept:
		in.event = evAccept
		if t := e.t.tuple.tuple(); e.t.phase == phaseOffered && (m.Remote != t.local || m.Local != t.remote) {
			in = input{event: evLeave, reason: ReasonPorts}
		}
	case msgConfirm:
		in.event = evConfirm
	case msgDone:
		in.event = evDone
	case msgReject:
		in.event, in.reason = evReject, peersReason(m.Reason)
	case msgClose:
		in.event, in.reason = evClose, closeReason(m.Reason)
	case msgCloseAck:
		in.event = evCloseAck
	case msgLeave:
		in.event, in.reason = evLeave, closeReason(m.Reason)
	}
	l.step(e, in, now)
}

// offered answers a peer's Offer: everything in it is checked against what we know.
func (l *loop) offered(p *peer, m message, now time.Time) {
	if p.txns[m.ID] != nil {
		return // it was repeated on its way
	}
	flow := Flow{m.Proto, m.Dst, m.Src}
	e, r := l.consider(p, flow, m, now)
	if r != ReasonNone {
		l.send(p, message{Kind: msgReject, ID: m.ID, Reason: r})
		return
	}
	pair := tuple{flow.Proto, m.Remote, m.Local}
	if !l.ports.take(pair, now) {
		l.send(p, message{Kind: msgReject, ID: m.ID, Reason: ReasonPorts})
		return
	}
	at, _ := p.member.cfg.Resolve(flow)
	e.goesTo(p)
	e.wanted = false
	l.prepare(e, m.ID, at, pair)
	l.step(e, input{event: evOffer}, now)
}

// consider says why an Offer cannot be taken.
func (l *loop) consider(p *peer, flow Flow, m message, now time.Time) (*entry, Reason) {
	ends, ok := p.member.cfg.Resolve(flow)
	if !ok || ends.Peer != p.id || ends.LocalMAC != m.DstMAC || ends.RemoteMAC != m.SrcMAC || !l.attached(p.member, ends.Ofport) {
		return nil, ReasonDetached
	}
	v := l.allows(p.member, flow, ends, false)
	if !v.Bypass {
		return nil, ReasonPolicy
	}
	if r := l.usable(p); r != ReasonNone {
		return nil, r
	}
	if m.Proof != p.proof.round || m.Local.Addr() != p.pair.Remote || m.Remote.Addr() != p.pair.Local {
		return nil, ReasonProving
	}
	if !l.ports.flowPort(m.Local.Port()) || !l.ports.flowPort(m.Remote.Port()) {
		return nil, ReasonPorts
	}
	if p.member.find(flow) == nil && l.crowded(p) {
		return nil, ReasonPorts
	}
	if l.changes >= maxChanges || p.txns[m.ID] != nil {
		return nil, ReasonBackoff
	}
	e := l.entry(p.member, flow)
	switch {
	case e == nil:
		return nil, ReasonPorts
	case e.t.phase == phaseOverlay:
	case e.t.phase == phaseOffered && p.member.cfg.Self.Compare(p.id) > 0: // the lower PeerID's offer wins
		l.step(e, input{event: evReject, reason: ReasonGlare}, now)
	case e.t.phase == phaseOffered:
		return nil, ReasonGlare
	default: // an earlier bypass of this flow is still here
		return nil, ReasonBackoff
	}
	e.idle = v.normal().Idle
	return e, ReasonNone
}
