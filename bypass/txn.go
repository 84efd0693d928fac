package bypass

import "time"

// The transaction moves one flow onto the bypass and back. It makes before it
// breaks, and breaks before it unmakes: no outbound rule exists before the other
// end's inbound is confirmed, and no inbound goes before the other end's outbound
// did, and what was in flight had its time to arrive.
//
//	 initiator A                              responder B
//	 overlay ── start: Offer ───────────────► overlay
//	 offered                                  preparing   (inbound being installed)
//	    ◄──────────────────────── Accept ──── accepted    (inbound confirmed)
//	 installing  (inbound and outbound)
//	 confirming ── Confirm ─────────────────► completing  (outbound being installed)
//	    ◄──────────────────────── Done ────── active
//	 active
//
//	 either end: a wish to leave, or the peer's Close
//	 unbinding   (own outbound being removed)
//	 closing ── Close ──────────────────────► unbinding
//	    ◄──────────────────────── CloseAck ── draining
//	 draining    (packets in flight)
//	 removing    (own inbound being removed)
//	 overlay     (the tuple rests)
//
// Both Close and CloseAck say "my outbound is off"; Close also asks for the answer.

// phase is a transaction's state at one end.
type phase uint8

const (
	phaseOverlay phase = iota
	phaseOffered
	phaseInstalling
	phaseConfirming
	phasePreparing
	phaseAccepted
	phaseCompleting
	phaseActive
	phaseUnbinding
	phaseClosing
	phaseDraining
	phaseRemoving
	phases
)

func (p phase) String() string {
	return [phases]string{"overlay", "offered", "installing", "confirming", "preparing", "accepted",
		"completing", "active", "unbinding", "closing", "draining", "removing"}[p]
}

// state is the phase in the words of a Status.
func (p phase) state() State {
	switch p {
	case phaseOverlay:
		return OnOverlay
	case phaseActive:
		return Bypassed
	case phaseUnbinding, phaseClosing, phaseDraining, phaseRemoving:
		return Leaving
	}
	return Moving
}

// txn is all that one end knows of a transaction. It is a value: step takes one
// and returns the next, and touches nothing else.
type txn struct {
	phase     phase
	id        uint64
	initiator bool
	flow      Flow // Src is the local workload
	ends      Ends
	tuple     tuple // underlay; a port that is not known yet is 0
	hop       uint32
	lease     uint32 // number of the peer's lease
	rule      uint32 // ID of its rules
	idle      time.Duration
	proof     uint64

	offered  time.Time // when the Offer was sent
	deadline time.Time // when a deadline event is due; zero = none
	reason   Reason    // why it leaves or left
	peerOff  bool      // the peer's outbound is off, or will never be
	answer   bool      // the peer waits for a CloseAck
}

// limits are the times that a transaction runs by.
type limits struct {
	answer time.Duration // for the peer's next message
	retry  time.Duration // of a change that the switch did not take
	lease  time.Duration // longest outbound lease of any peer
	drain  time.Duration
}

// event is what happens to a transaction.
type event uint8

const (
	evStart     event = iota // initiator: all is checked, go
	evOffer                  // responder: all is checked, tuple taken
	evAccept                 // its tuple is taken
	evConfirm                //
	evDone                   //
	evReject                 // with reason
	evClose                  // with reason
	evCloseAck               //
	evApplied                // the pending change is confirmed
	evFailed                 // the pending change was refused: nothing changed
	evUnsure                 // the pending change may or may not have happened
	evDeadline               //
	evLeave                  // with reason: policy, proof, idle, lost rules, shutdown
	evPeerReset              // the peer restarted: it knows nothing of us, its rules are going
	evLinkUp                 // a new control session: earlier messages may be lost
	events
)

func (e event) String() string {
	return [events]string{"start", "offer", "accept", "confirm", "done", "reject", "close", "close-ack", "applied",
		"failed", "unsure", "deadline", "leave", "peer-reset", "link-up"}[e]
}

// input is an event with what comes along.
type input struct {
	event  event
	reason Reason
	tuple  tuple // evAccept: with both ports
}

// action is what a step wants done: send, apply or free.
type action interface{ isAction() }

type (
	send  struct{ kind kind }     // the caller fills in the message from the txn
	apply struct{ change Change } // answered by evApplied, evFailed or evUnsure
	free  struct{ tuple tuple }   // into quarantine
)

func (send) isAction()  {}
func (apply) isAction() {}
func (free) isAction()  {}

// step is the transaction's whole logic: pure, no I/O. Events that a phase does not
// expect (late, repeated, reordered) leave it as it is; a Close is always answered.
func step(t txn, in input, now time.Time, lim limits) (txn, []action) {
	switch t.phase {
	case phaseOverlay:
		return t.onOverlay(in, now, lim)
	case phaseOffered:
		return t.onOffered(in, now, lim)
	case phaseInstalling:
		return t.onInstalling(in, now, lim)
	case phaseConfirming:
		return t.onConfirming(in, now, lim)
	case phasePreparing:
		return t.onPreparing(in, now, lim)
	case phaseAccepted:
		return t.onAccepted(in, now, lim)
	case phaseCompleting:
		return t.onCompleting(in, now, lim)
	case phaseActive:
		return t.onActive(in, now, lim)
	case phaseUnbinding:
		return t.onUnbinding(in, now, lim)
	case phaseClosing:
		return t.onClosing(in, now, lim)
	case phaseDraining:
		return t.onDraining(in)
	case phaseRemoving:
		return t.onRemoving(in, now, lim)
	}
	return t, nil
}

func (t txn) onOverlay(in input, now time.Time, lim limits) (txn, []action) {
	switch in.event {
	case evStart:
		t.phase, t.initiator = phaseOffered, true
		t.offered, t.deadline = now, now.Add(lim.answer)
		return t, []action{send{msgOffer}}
	case evOffer:
		t.phase, t.initiator = phasePreparing, false
		return t, []action{apply{Change{Add: []Rule{t.inbound()}}}}
	}
	return t, nil
}

func (t txn) onOffered(in input, now time.Time, lim limits) (txn, []action) {
	switch in.event {
	case evAccept:
		t.tuple = in.tuple
		if now.Sub(t.offered) > lim.answer { // late: B keeps its inbound only so long
			t.reason = ReasonTimeout
			return t.gone(), []action{send{msgClose}, free{t.tuple}}
		}
		t.phase, t.deadline = phaseInstalling, time.Time{}
		return t, []action{apply{Change{Add: []Rule{t.inbound(), t.outbound()}}}}
	case evReject:
		t.reason = in.reason
		return t.gone(), nil
	case evDeadline, evLeave:
		// B may have installed its inbound: it need not wait for its own deadline.
		t.reason = in.reason
		if in.event == evDeadline {
			t.reason = ReasonTimeout
		}
		return t.gone(), []action{send{msgClose}}
	case evClose:
		t.reason = in.reason
		return t.gone(), []action{send{msgCloseAck}}
	case evPeerReset:
		t.reason = ReasonPeerRestarted
		return t.gone(), nil
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

func (t txn) onInstalling(in input, now time.Time, lim limits) (txn, []action) {
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

func (t txn) onConfirming(in input, now time.Time, lim limits) (txn, []action) {
	switch in.event {
	case evDone:
		t.phase, t.deadline = phaseActive, time.Time{}
		return t, nil
	case evDeadline:
		t.reason = ReasonTimeout
		return t.unbind(now, lim)
	case evLeave, evClose, evPeerReset:
		return t.wish(in).unbind(now, lim)
	case evReject: // B could not install its outbound, and has turned back
		t.reason, t.peerOff = in.reason, true
		return t.unbind(now, lim)
	}
	return t, nil
}

func (t txn) onPreparing(in input, now time.Time, lim limits) (txn, []action) {
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

func (t txn) onAccepted(in input, now time.Time, lim limits) (txn, []action) {
	switch in.event {
	case evConfirm:
		t.phase, t.deadline = phaseCompleting, time.Time{}
		return t, []action{apply{Change{Add: []Rule{t.outbound()}}}}
	case evClose:
		t = t.wish(in)
		return t.drain(now, lim)
	case evLeave: // we have no outbound, A may: ask it to turn back
		t.reason = in.reason
		t.phase, t.deadline = phaseClosing, now.Add(lim.lease+lim.drain)
		return t, []action{send{msgClose}}
	case evPeerReset:
		t.reason, t.peerOff = ReasonPeerRestarted, true
		return t.drain(now, lim)
	case evDeadline:
		t.reason = ReasonTimeout
		return t.remove(now, lim)
	}
	return t, nil
}

func (t txn) onCompleting(in input, now time.Time, lim limits) (txn, []action) {
	switch in.event {
	case evLeave, evClose, evPeerReset:
		return t.wish(in), nil
	case evApplied:
		if t.reason != ReasonNone {
			return t.unbind(now, lim)
		}
		t.phase = phaseActive
		return t, []action{send{msgDone}}
	case evFailed, evUnsure:
		if t.reason == ReasonNone {
			t.reason = ReasonSwitch
		}
		return t.unbind(now, lim)
	}
	return t, nil
}

func (t txn) onActive(in input, now time.Time, lim limits) (txn, []action) {
	switch in.event {
	case evLeave, evClose, evPeerReset:
		return t.wish(in).unbind(now, lim)
	}
	return t, nil
}

func (t txn) onUnbinding(in input, now time.Time, lim limits) (txn, []action) {
	switch in.event {
	case evClose, evCloseAck, evPeerReset:
		return t.wish(in), nil
	case evApplied:
		if t.peerOff {
			return t.drain(now, lim)
		}
		// No answer: the peer's outbound lease is what ends it.
		t.phase, t.deadline = phaseClosing, now.Add(2*lim.lease)
		return t, []action{send{msgClose}}
	case evFailed, evUnsure: // it must go: try again until the switch takes it
		t.deadline = now.Add(lim.retry)
	case evDeadline:
		return t.unbind(now, lim)
	}
	return t, nil
}

func (t txn) onClosing(in input, now time.Time, lim limits) (txn, []action) {
	switch in.event {
	case evClose, evCloseAck, evPeerReset:
		return t.wish(in).drain(now, lim)
	case evReject: // B's answer to an Offer that we both gave up
		return t.drain(now, lim)
	case evLinkUp:
		return t, []action{send{msgClose}}
	case evDeadline:
		return t.drain(now, lim)
	}
	return t, nil
}

func (t txn) onDraining(in input) (txn, []action) {
	switch in.event {
	case evClose:
		return t, []action{send{msgCloseAck}}
	case evDeadline:
		t.phase, t.deadline = phaseRemoving, time.Time{}
		return t, []action{apply{Change{Remove: []Rule{t.inbound()}}}}
	}
	return t, nil
}

func (t txn) onRemoving(in input, now time.Time, lim limits) (txn, []action) {
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

// unbind takes our outbound off.
func (t txn) unbind(time.Time, limits) (txn, []action) {
	t.phase, t.deadline = phaseUnbinding, time.Time{}
	return t, []action{apply{Change{Remove: []Rule{t.outbound()}}}}
}

// drain: both outbounds are off; packets in flight still arrive.
func (t txn) drain(now time.Time, lim limits) (txn, []action) {
	var acts []action
	if t.answer {
		acts, t.answer = []action{send{msgCloseAck}}, false
	}
	t.phase, t.deadline = phaseDraining, now.Add(lim.drain)
	return t, acts
}

// remove takes our inbound off, at once.
func (t txn) remove(time.Time, limits) (txn, []action) {
	t.phase, t.deadline = phaseRemoving, time.Time{}
	return t, []action{apply{Change{Remove: []Rule{t.inbound()}}}}
}

// gone is the end: nothing of ours is in the switch.
func (t txn) gone() txn {
	t.phase, t.deadline = phaseOverlay, time.Time{}
	return t
}

// outbound is the rule from the workload to the provider's network.
func (t txn) outbound() Rule {
	return Rule{
		ID: t.rule, Direction: Outbound, Flow: t.flow, Local: t.tuple.local, Remote: t.tuple.remote,
		LocalMAC: t.ends.LocalMAC, RemoteMAC: t.ends.RemoteMAC, Ofport: t.ends.Ofport,
		Hop: t.hop, Peer: t.lease, Idle: t.idle,
	}
}

// inbound is the rule from the provider's network to the workload. It never expires
// by itself while its peer has a lease: who sends to it may be silent for long.
func (t txn) inbound() Rule {
	r := t.outbound()
	r.Direction, r.Hop, r.Idle = Inbound, 0, 0
	return r
}
