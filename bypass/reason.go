package bypass

// State is where a flow is, for people and programs that ask. The transaction's
// own, finer states are in txn.go.
type State uint8

// States of a flow.
const (
	OnOverlay State = iota // its packets go through the encrypted overlay
	Moving                 // a bypass is being set up; packets go through the overlay
	Bypassed               // its packets stay in the switches
	Leaving                // the bypass is being taken down; packets go through the overlay
)

func (s State) String() string {
	return [...]string{"overlay", "moving", "bypassed", "leaving"}[min(s, Leaving)]
}

// Reason says why a flow is not bypassed, or why a bypass ended. ReasonNone goes
// with a flow that is bypassed or on its way there.
type Reason uint8

// Reasons. String says each in words, Remedy what would have to change; docs/reasons.md
// lists them all, with the tests that reach them.
const (
	// ReasonNone: it is bypassed, or on its way there.
	ReasonNone Reason = iota
	// ReasonNoHost: the Network was made without a Host (by the Network).
	ReasonNoHost
	// ReasonPolicy: our policy does not allow it, or no longer (by the end whose policy
	// it is).
	ReasonPolicy
	// ReasonPeerPolicy: the peer said ReasonPolicy (by the other end).
	ReasonPeerPolicy
	// ReasonThreshold: it has not sent Verdict.After bytes (by the Network).
	ReasonThreshold
	// ReasonProtocol: it is not one that can be bypassed (by Classifier and Network).
	ReasonProtocol
	// ReasonFragment: fragments have no ports (by Classifier).
	ReasonFragment
	// ReasonTagged: the frame has a VLAN tag (by Classifier).
	ReasonTagged
	// ReasonMalformed: the frame's headers are cut off or lie (by Classifier).
	ReasonMalformed
	// ReasonNoPeer: nobody announced the destination, or its peer was removed (by the
	// Network, and by the end that removed the peer).
	ReasonNoPeer
	// ReasonLinkDown: the peer cannot be asked or told (by the end that would).
	ReasonLinkDown
	// ReasonUntrusted: an underlay address is outside of Trust (by either end, to both).
	ReasonUntrusted
	// ReasonDomain: the ends' Trust.Domain differ (by either end, to both).
	ReasonDomain
	// ReasonSameHost: both ends have one underlay address, or the endpoints one node (by
	// either end, to both, and by the Network).
	ReasonSameHost
	// ReasonNoRoute: there is no usable way to the peer's address, or it has just changed
	// (by either end, to both).
	ReasonNoRoute
	// ReasonProving: a round of proof is under way, or was ended for a new one (by
	// either end).
	ReasonProving
	// ReasonProofTimeout: probes get no answer, or no longer (by either end, to both).
	ReasonProofTimeout
	// ReasonProofHops: probes arrive with a lower TTL than Trust.MaxHops allows (by the
	// end at which they arrive, to both).
	ReasonProofHops
	// ReasonProofRTT: probes take longer than Trust.MaxRTT (by the prober, to both).
	ReasonProofRTT
	// ReasonProofNAT: probes arrive from another address than they were sent from (by the
	// end at which they arrive, to both).
	ReasonProofNAT
	// ReasonProofTCP: only probes over UDP are answered (by the prober, to both).
	ReasonProofTCP
	// ReasonProofStranger: the peer's address on our network is another machine's (by the
	// prober, to both).
	ReasonProofStranger
	// ReasonHostStack: a probe was answered by RST (by the prober, to both).
	ReasonHostStack
	// ReasonGuard: Underlay.Guard failed (by the end where it did, to both).
	ReasonGuard
	// ReasonMTU: full-size probes do not pass (by either end).
	ReasonMTU
	// ReasonSwitch: Datapath refused a change (by the end whose it is).
	ReasonSwitch
	// ReasonSwitchDown: Datapath is away, or did not confirm a change (by the end whose it
	// is, and to a peer that wants the path proven).
	ReasonSwitchDown
	// ReasonPorts: no pair of ports is free, too many flows are known, or the peer
	// proposed ports that are no flow's (by the responder, to both, or the initiator).
	ReasonPorts
	// ReasonPortRange: the peer's probe ports are not in our range (by either end, to both).
	ReasonPortRange
	// ReasonPeerFailed: the peer said that its switch failed, gave no reason, or one that
	// this end does not know (by the other end).
	ReasonPeerFailed
	// ReasonTimeout: the peer did not answer an Offer, an Accept, a Confirm, a Close or a
	// Challenge (by the end that waited).
	ReasonTimeout
	// ReasonGlare: both ends offered, and the lower PeerID's offer goes on (by either end).
	ReasonGlare
	// ReasonIdle: the outbound rule was not hit for Verdict.Idle (by the end whose rule it is).
	ReasonIdle
	// ReasonPeerClosed: the peer closed the bypass for another reason than its policy, or
	// left, or removed us (by the other end).
	ReasonPeerClosed
	// ReasonPeerRestarted: messages come from a new run of the peer (by the other end).
	ReasonPeerRestarted
	// ReasonFlowLost: a rule vanished or the switch restarted (by the end whose rule it is).
	ReasonFlowLost
	// ReasonFlowBroken: packets leave one end and none arrives at the other, though probes
	// pass (by the end where they should arrive, to both; see health.go).
	ReasonFlowBroken
	// ReasonDetached: the endpoint is not attached, is being detached, or is not where it
	// was (by the end that sees it, and to the peer that offers).
	ReasonDetached
	// ReasonShutdown: the Network leaves its Host (by the end that leaves).
	ReasonShutdown
	// ReasonBackoff: an earlier bypass of the flow is still being taken down (by the
	// responder, to the initiator).
	ReasonBackoff
	// ReasonQueued: very many flows are to move to the peer's bypass; those that asked
	// before it come first (by the initiator).
	ReasonQueued
	// ReasonFamily: an end has no underlay address of the flow's family (by either end, to
	// both).
	ReasonFamily
	reasons
)

var reasonText = [reasons]struct{ what, remedy string }{
	ReasonNone:          {"", ""},
	ReasonNoHost:        {"this network has no bypass host", "give Config.Bypass a Host"},
	ReasonPolicy:        {"our policy keeps it on the overlay", "change the policy on this node"},
	ReasonPeerPolicy:    {"the peer's policy keeps it on the overlay", "change the policy on the peer"},
	ReasonThreshold:     {"it has not sent enough yet", "wait, or lower the verdict's After"},
	ReasonProtocol:      {"only TCP and UDP between two hosts can be bypassed", ""},
	ReasonFragment:      {"IP fragments cannot be bypassed", "lower the workload's MTU"},
	ReasonTagged:        {"VLAN-tagged frames cannot be bypassed", "untag the workload's frames"},
	ReasonMalformed:     {"its headers are malformed or have options that switches do not parse", ""},
	ReasonNoPeer:        {"no peer announced the destination", "attach the endpoint on its node"},
	ReasonLinkDown:      {"there is no link to the peer", "see the peer's state"},
	ReasonUntrusted:     {"the peer's underlay address is outside the trusted domain", "list its prefix as trusted on both ends, if it is"},
	ReasonDomain:        {"the two ends name different trusted domains", "give both the same domain, if they share one network"},
	ReasonSameHost:      {"both endpoints stand on one host", ""},
	ReasonNoRoute:       {"the uplink has no route or next hop to the peer", "check routes and neighbours on the uplink"},
	ReasonProving:       {"the path is being proven", "wait"},
	ReasonProofTimeout:  {"probes to the peer get no answer on the provider's network", "check firewalls between the two hosts for the reserved ports"},
	ReasonProofHops:     {"there are more routers between the hosts than allowed", "raise MaxHops on both ends, if the routers are the provider's"},
	ReasonProofRTT:      {"the path's round trip is longer than allowed", "raise MaxRTT on both ends, if the path stays in one provider"},
	ReasonProofNAT:      {"addresses are translated between the two hosts", "bypass needs a path without NAT"},
	ReasonProofTCP:      {"probes over UDP pass, over TCP they do not", "open TCP on the reserved ports between the two hosts"},
	ReasonProofStranger: {"another host has the peer's underlay address here", "renumber one of the two networks and join them; they use the same addresses"},
	ReasonHostStack:     {"a host's own stack answers on the reserved ports", "drop the uplink's kernel input (see node check)"},
	ReasonGuard:         {"the host's guard on the reserved ports could not be set", "check that nft works and that the process has CAP_NET_ADMIN"},
	ReasonMTU:           {"the proven path is narrower than the workloads' MTU", "lower the workloads' MTU or raise the underlay's"},
	ReasonSwitch:        {"the switch refused the rules", "see the log"},
	ReasonSwitchDown:    {"the switch does not answer", "check that it runs"},
	ReasonPorts:         {"no free pair of reserved ports", "widen the range, or wait for the quarantine"},
	ReasonPortRange:     {"the two ends set different ports aside", "give both hosts the same range"},
	ReasonPeerFailed:    {"the peer could not install its half", "see the peer's log"},
	ReasonTimeout:       {"the peer did not answer in time", "wait; it is tried again"},
	ReasonGlare:         {"both ends offered at once and the peer's offer won", "wait"},
	ReasonIdle:          {"it was silent for its idle time", "send something"},
	ReasonPeerClosed:    {"the peer took the bypass down", "see the peer's reason"},
	ReasonPeerRestarted: {"the peer restarted", "wait; it is tried again"},
	ReasonFlowLost:      {"its rules vanished from the switch", "see who else programs the switch"},
	ReasonFlowBroken:    {"the path drops this flow's packets though probes pass", "look for a broken link among those that the provider spreads flows over; it is tried again between other ports"},
	ReasonDetached:      {"its endpoint was detached or moved", ""},
	ReasonShutdown:      {"this node is shutting down", ""},
	ReasonBackoff:       {"an earlier bypass of it is still being taken down", "wait"},
	ReasonQueued:        {"many flows are to move at once, and others come first", "wait, or raise the host's Rate"},
	ReasonFamily:        {"one of the hosts has no underlay address of its family (IPv4 or IPv6)", "give both uplinks addresses of that family"},
}

// String says the reason in words; "" for ReasonNone.
func (r Reason) String() string { return reasonText[min(r, reasons-1)].what }

// Remedy says what would have to change for the flow to be bypassed; "" when
// nothing can.
func (r Reason) Remedy() string { return reasonText[min(r, reasons-1)].remedy }

// peersReason is what the peer's reason means to us.
func peersReason(r Reason) Reason {
	switch r {
	case ReasonPolicy:
		return ReasonPeerPolicy
	case ReasonNone, ReasonSwitch, ReasonSwitchDown:
		return ReasonPeerFailed
	}
	return r
}

// refusal is what it means to us that the peer will not prove the path: what is said of
// the path, or of a host, is true for both ends.
func refusal(r Reason) Reason {
	switch r {
	case ReasonPolicy:
		return ReasonPeerPolicy
	case ReasonNoPeer, ReasonShutdown:
		return ReasonPeerClosed
	}
	return r
}

// closeReason is what the reason of a peer's Close means to us.
func closeReason(r Reason) Reason {
	switch r {
	case ReasonPolicy, ReasonIdle:
		return peersReason(r)
	case ReasonFlowBroken: // no end's doing
		return r
	}
	return ReasonPeerClosed
}
