package bypass

// The way down: from an active bypass back to the overlay.

func (t txn) onActive(in input, now moment, lim limits) (txn, []action) {
	switch in.event {
	case evLeave, evClose, evPeerReset:
		return t.wish(in).unbind(now, lim)
	case evIdle: // a wish to leave, of which nothing hangs: it can wait
		if in.closes {
			t.reason = ReasonIdle
			return t.unbind(now, lim)
		}
		return t, []action{rewrite{add: []Direction{Outbound}}}
	case evFailed, evUnsure: // of that
		t.reason = ReasonSwitch
		return t.unbind(now, lim)
	}
	return t, nil
}

func (t txn) onUnbinding(in input, now moment, lim limits) (txn, []action) {
	switch in.event {
	case evClose, evCloseAck, evPeerReset:
		return t.wish(in), nil
	case evApplied:
		t.bare = t.cutting
		switch {
		case t.detached && !t.bare: // it was detached after this change was made
			return t.unbind(now, lim)
		case t.peerOff:
			return t.drain(now, lim)
		}
		return t.close(now, lim)
	case evFailed, evUnsure: // it must go: try again until the switch takes it
		t.pending = false
		return t.ask(now, lim)
	case evDeadline:
		if t.pending {
			return t.ask(now, lim)
		}
		return t.unbind(now, lim)
	}
	return t, nil
}

// ask has the peer leave at once: our switch takes its time, and our Close must wait
// for it, but the peer need not go on sending meanwhile.
func (t txn) ask(now moment, lim limits) (txn, []action) {
	t.deadline = now.Add(lim.retry)
	if t.peerOff {
		return t, nil
	}
	return t, []action{send{msgLeave}}
}

func (t txn) onClosing(in input, now moment, lim limits) (txn, []action) {
	switch in.event {
	case evClose, evCloseAck, evPeerReset:
		return t.wish(in).drain(now, lim)
	case evLeave:
		if t.detached && !t.bare {
			return t.unbind(now, lim)
		}
	case evLinkUp:
		t.since, t.deadline = now, now.Add(lim.retry)
		return t, []action{send{msgClose}}
	case evDeadline:
		if !now.Before(t.giveUp) {
			return t.drain(now, lim)
		}
		t.deadline = now.Add(lim.retry)
		patience := lim.unsure
		if t.reason == ReasonIdle { // nothing is sent, nobody has withdrawn: it may wait
			patience = lim.lease
		}
		if now.Sub(t.since) < patience {
			return t, []action{send{msgClose}}
		}
		return t, []action{send{msgClose}, sever{}}
	}
	return t, nil
}

func (t txn) onDraining(in input, now moment, lim limits) (txn, []action) {
	switch in.event {
	case evClose:
		return t, []action{send{msgCloseAck}}
	case evLeave:
		if t.detached && !t.bare {
			return t.remove(now, lim)
		}
	case evDeadline:
		return t.remove(now, lim)
	}
	return t, nil
}

func (t txn) onRemoving(in input, now moment, lim limits) (txn, []action) {
	switch in.event {
	case evClose:
		return t, []action{send{msgCloseAck}}
	case evApplied:
		return t.gone(), []action{free{t.tuple}}
	case evFailed, evUnsure:
		t.deadline = now.Add(lim.retry)
	case evDeadline:
		return t.remove(now, lim)
	}
	return t, nil
}

// unbind takes our outbound off. If the workload is gone its inbound goes with it: who
// has the port next must not get what is still in flight.
func (t txn) unbind(now moment, lim limits) (txn, []action) {
	t.phase, t.cutting = phaseUnbinding, t.detached
	t.pending, t.deadline = true, now.Add(lim.prompt)
	off := []Direction{Outbound}
	if t.cutting {
		off = append(off, Inbound)
	}
	return t, []action{rewrite{remove: off}}
}

// close asks the peer to take its outbound off, until it says so. If it never does,
// the path was severed long before, and its outbound lease has run out twice.
func (t txn) close(now moment, lim limits) (txn, []action) {
	t.phase, t.since, t.giveUp = phaseClosing, now, now.Add(2*lim.lease)
	t.deadline = now.Add(lim.retry)
	return t, []action{send{msgClose}}
}

// drain: both outbounds are off; packets in flight still arrive.
func (t txn) drain(now moment, lim limits) (txn, []action) {
	var acts []action
	if t.answer {
		acts, t.answer = []action{send{msgCloseAck}}, false
	}
	t.phase, t.deadline = phaseDraining, now.Add(lim.drain)
	return t, acts
}

// remove takes our inbound off, at once.
func (t txn) remove(moment, limits) (txn, []action) {
	t.phase, t.deadline = phaseRemoving, 0
	return t, []action{rewrite{remove: []Direction{Inbound}}}
}

// untold: the flow leaves here, and the peer may still send.
func (t txn) untold() bool {
	return (t.phase == phaseUnbinding || t.phase == phaseClosing) && !t.peerOff
}

// gone is the end: nothing of ours is in the switch.
func (t txn) gone() txn {
	t.phase, t.deadline = phaseOverlay, 0
	return t
}

// rules are those of flow f that t has the switch hold. An inbound one, from the
// provider's network to the workload, never expires by itself while its peer has a
// lease: who sends to it may be silent for long.
func (t *txn) rules(f fiveTuple, dirs []Direction) []Rule {
	rules := make([]Rule, 0, len(dirs))
	wire := t.tuple.flow()
	for _, d := range dirs {
		r := Rule{
			ID: t.rule, Direction: d, Flow: f.flow(), Local: wire.Src, Remote: wire.Dst,
			LocalMAC: t.ends.LocalMAC, RemoteMAC: t.ends.RemoteMAC, Ofport: t.ends.Ofport, Peer: t.lease,
		}
		if d == Outbound {
			r.Hop, r.Idle = t.hop, t.idle
		}
		rules = append(rules, r)
	}
	return rules
}
