package bypass

// The way up: from the overlay to an active bypass.

func (t txn) onOverlay(in input, now moment, lim limits) (txn, []action) {
	switch in.event {
	case evStart:
		t.phase, t.initiator = phaseOffered, true
		t.since, t.deadline = now, now.Add(lim.answer)
		return t, []action{send{msgOffer}}
	case evOffer:
		t.phase, t.initiator = phasePreparing, false
		return t, []action{rewrite{add: []Direction{Inbound}}}
	}
	return t, nil
}

func (t txn) onOffered(in input, now moment, lim limits) (txn, []action) {
	switch in.event {
	case evAccept:
		if now.Sub(t.since) > lim.answer { // late: B keeps its inbound only so long
			t.reason = ReasonTimeout
			return t.gone(), []action{send{msgClose}, free{t.tuple}}
		}
		t.phase, t.deadline = phaseInstalling, 0
		return t, []action{rewrite{add: []Direction{Inbound, Outbound}}}
	case evReject:
		t.reason = in.reason
		return t.gone(), []action{free{t.tuple}}
	case evDeadline, evLeave:
		// B may have installed its inbound: it need not wait for its own deadline.
		t.reason = in.reason
		if in.event == evDeadline {
			t.reason = ReasonTimeout
		}
		return t.gone(), []action{send{msgClose}, free{t.tuple}}
	case evClose:
		t.reason = in.reason
		return t.gone(), []action{send{msgCloseAck}, free{t.tuple}}
	case evPeerReset:
		t.reason = ReasonPeerRestarted
		return t.gone(), []action{free{t.tuple}}
	}
	return t, nil
}

// wish notes, while a change is pending, that the flow must leave once the change's
// fate is known.
func (t txn) wish(in input) txn {
	if t.reason == ReasonNone {
		t.reason = in.reason
	}
	switch in.event {
	case evClose:
		t.peerOff, t.answer = true, true
	case evCloseAck:
		t.peerOff = true
	case evPeerReset:
		t.peerOff, t.reason = true, ReasonPeerRestarted
	}
	return t
}

func (t txn) onInstalling(in input, now moment, lim limits) (txn, []action) {
	switch in.event {
	case evLeave, evClose, evPeerReset:
		return t.wish(in), nil
	case evApplied:
		if t.reason != ReasonNone {
			return t.unbind(now, lim)
		}
		t.phase, t.deadline = phaseConfirming, now.Add(lim.answer)
		return t, []action{send{msgConfirm}}
	case evFailed: // nothing of ours is in the switch: all the peer has is an inbound
		if t.reason == ReasonNone {
			t.reason = ReasonSwitch
		}
		return t.gone(), []action{send{msgClose}, free{t.tuple}}
	case evUnsure:
		if t.reason == ReasonNone {
			t.reason = ReasonSwitchDown
		}
		return t.unbind(now, lim)
	}
	return t, nil
}

func (t txn) onConfirming(in input, now moment, lim limits) (txn, []action) {
	switch in.event {
	case evDone:
		t.phase, t.deadline = phaseActive, 0
		return t, nil
	case evDeadline:
		t.reason = ReasonTimeout
		return t.unbind(now, lim)
	case evLeave, evClose, evPeerReset:
		return t.wish(in).unbind(now, lim)
	}
	return t, nil
}

func (t txn) onPreparing(in input, now moment, lim limits) (txn, []action) {
	switch in.event {
	case evLeave, evClose, evPeerReset:
		return t.wish(in), nil
	case evApplied:
		if t.reason != ReasonNone { // no Accept was sent: A cannot have used it
			t.peerOff = true
			t2, acts := t.remove(now, lim)
			return t2, append([]action{t.refusal()}, acts...)
		}
		// A may use the Accept though nothing comes back from it: until its offer
		// timed out, and then for the longest that its outbound lease can run.
		t.phase, t.deadline = phaseAccepted, now.Add(lim.answer+lim.lease+lim.drain)
		return t, []action{send{msgAccept}}
	case evFailed:
		if t.reason == ReasonNone {
			t.reason = ReasonSwitch
		}
		return t.gone(), []action{t.refusal(), free{t.tuple}}
	case evUnsure:
		t.reason, t.peerOff = ReasonSwitchDown, true
		t2, acts := t.remove(now, lim)
		return t2, append([]action{send{msgReject}}, acts...)
	}
	return t, nil
}

// refusal answers an Offer that came to nothing: an ack if the peer has closed it.
func (t txn) refusal() action {
	if t.answer {
		return send{msgCloseAck}
	}
	return send{msgReject}
}

func (t txn) onAccepted(in input, now moment, lim limits) (txn, []action) {
	switch in.event {
	case evConfirm:
		t.phase, t.deadline = phaseCompleting, 0
		return t, []action{rewrite{add: []Direction{Outbound}}}
	case evClose:
		t = t.wish(in)
		return t.drain(now, lim)
	case evLeave: // we have no outbound, A may: ask it to turn back
		t.reason = in.reason
		if t.detached {
			return t.unbind(now, lim)
		}
		return t.close(now, lim)
	case evPeerReset:
		t.reason, t.peerOff = ReasonPeerRestarted, true
		return t.drain(now, lim)
	case evDeadline:
		t.reason = ReasonTimeout
		return t.remove(now, lim)
	}
	return t, nil
}

func (t txn) onCompleting(in input, now moment, lim limits) (txn, []action) {
	switch in.event {
	case evLeave: // the initiator may be sending already
		t.deadline = now.Add(lim.prompt)
		return t.wish(in), nil
	case evDeadline:
		return t.ask(now, lim)
	case evClose, evPeerReset:
		return t.wish(in), nil
	case evApplied:
		if t.reason != ReasonNone {
			return t.unbind(now, lim)
		}
		t.phase, t.deadline = phaseActive, 0
		return t, []action{send{msgDone}}
	case evFailed, evUnsure:
		if t.reason == ReasonNone {
			t.reason = ReasonSwitch
		}
		return t.unbind(now, lim)
	}
	return t, nil
}
