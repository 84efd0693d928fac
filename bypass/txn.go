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
//	 closing ── Close, again each second ───► unbinding
//	    ◄──────────────────────── CloseAck ── draining
//	 draining    (packets in flight)
//	 removing    (own inbound being removed)
//	 overlay     (the tuple rests)
//
// While our switch does not take our outbound off, Leave asks the peer to take its own off.
// Both Close and CloseAck say "my outbound is off"; Close also asks for the answer.
// While no answer comes, the peer may still send. Its leases would let it for ever,
// since it renews them while its pings are answered: so an end whose Close goes
// unanswered, or cannot be sent, ends the path (see sever), and the peer's own gates
// close as it goes silent.

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

// state is the phase in the words of a Status. An initiator that confirms has both its
// rules, and the peer its inbound: a held SYN can go. The peer holds the answer until it
// has its outbound.
func (p phase) state() State {
	switch p {
	case phaseOverlay:
		return OnOverlay
	case phaseConfirming, phaseActive:
		return Bypassed
	case phaseUnbinding, phaseClosing, phaseDraining, phaseRemoving:
		return Leaving
	}
	return Moving
}

// txn is all that one end knows of a transaction, but for its flow, which the entry
// has. It is a value: step takes one and returns the next, and touches nothing else.
// There are very many of them, so that the order of the fields counts.
type txn struct {
	id    uint64
	proof uint64
	idle  time.Duration
	tuple fiveTuple // underlay, from here
	ends  ends
	hop   uint32
	lease uint32 // number of the peer's lease
	rule  uint32 // ID of its rules

	phase     phase
	initiator bool
	reason    Reason // why it leaves or left
	peerOff   bool   // the peer's outbound is off, or will never be
	answer    bool   // the peer waits for a CloseAck
	detached  bool   // the workload's port may be another's soon: nothing may reach it
	cutting   bool   // the pending change takes both rules off
	pending   bool   // unbinding: the change is under way
	bare      bool   // neither rule is in the switch any more

	since    moment // when the Offer was sent; since when a Close is unanswered on this link
	deadline moment // when a deadline event is due; zero = none
	giveUp   moment // when the peer's outbound must have ended without an answer
}

// limits are the times that a transaction runs by.
type limits struct {
	answer time.Duration // for the peer's next message
	prompt time.Duration // for the switch to take a rule off, until the peer is asked to leave
	retry  time.Duration // of a change that the switch did not take, of a Close without answer
	unsure time.Duration // for an answer to Close, until the path is ended
	lease  time.Duration // the longer one of both ends
	drain  time.Duration
}

// event is what happens to a transaction.
type event uint8

const (
	evStart     event = iota // initiator: all is checked, go
	evOffer                  // responder: all is checked, tuple taken
	evAccept                 // of our tuple
	evConfirm                //
	evDone                   //
	evReject                 // with reason
	evClose                  // with reason
	evCloseAck               //
	evApplied                // the pending change is confirmed
	evFailed                 // the pending change was refused: nothing changed
	evUnsure                 // the pending change may or may not have happened
	evDeadline               //
	evLeave                  // with reason: policy, proof, lost rules, shutdown
	evIdle                   // our outbound ran out, unused; with closes
	evPeerReset              // the peer restarted: it knows nothing of us, its rules are going
	evLinkUp                 // a new control session: earlier messages may be lost
	events
)

func (e event) String() string {
	return [events]string{"start", "offer", "accept", "confirm", "done", "reject", "close", "close-ack", "applied",
		"failed", "unsure", "deadline", "leave", "idle", "peer-reset", "link-up"}[e]
}

// input is an event with what comes along.
type input struct {
	event  event
	reason Reason
	closes bool // evIdle: the peer can be told, and sends nothing either
}

// action is what a step wants done: send, rewrite, free or sever.
type action interface{ isAction() }

type (
	send    struct{ kind kind }               // the caller fills in the message from the txn
	rewrite struct{ add, remove []Direction } // the rules; answered by evApplied, evFailed or evUnsure
	free    struct{ tuple fiveTuple }         // into quarantine
	sever   struct{}                          // the path to the peer, which does not answer our Close
)

func (send) isAction()    {}
func (rewrite) isAction() {}
func (free) isAction()    {}
func (sever) isAction()   {}

// step is the transaction's whole logic: pure, no I/O. Events that a phase does not
// expect (late, repeated, reordered) leave it as it is; a Close is always answered.
func step(t txn, in input, now moment, lim limits) (txn, []action) {
	switch {
	case in.event == evLeave && in.reason == ReasonDetached:
		t.detached = true
	case in.event == evIdle && t.phase != phaseActive:
		in.event, in.reason = evLeave, ReasonIdle
	}
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
		return t.onDraining(in, now, lim)
	case phaseRemoving:
		return t.onRemoving(in, now, lim)
	}
	return t, nil
}
