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

// Reasons. String says each in words, Remedy what would have to change.
const (
	ReasonNone Reason = iota
	ReasonNoHost
	ReasonPolicy
	ReasonPeerPolicy
	ReasonThreshold
	ReasonProtocol
	ReasonFragment
	ReasonTagged
	ReasonMalformed
	ReasonNoPeer
	ReasonLinkDown
	ReasonUntrusted
	ReasonDomain
	ReasonSameHost
	ReasonNoRoute
	ReasonProving
	ReasonProofTimeout
	ReasonProofHops
	ReasonProofRTT
	ReasonProofNAT
	ReasonProofTCP
	ReasonProofStranger
	ReasonHostStack
	ReasonGuard
	ReasonMTU
	ReasonSwitch
	ReasonSwitchDown
	ReasonPorts
	ReasonPortRange
	ReasonPeerFailed
	ReasonTimeout
	ReasonGlare
	ReasonIdle
	ReasonPeerClosed
	ReasonPeerRestarted
	ReasonFlowLost
	ReasonDetached
	ReasonShutdown
	ReasonBackoff
	reasons
)

var reasonText = [reasons]struct{ what, remedy string }{
	ReasonNone:          {"", ""},
	ReasonNoHost:        {"this network has no bypass host", "give Config.Bypass a Host"},
	ReasonPolicy:        {"our policy keeps it on the overlay", "change the policy on this node"},
	ReasonPeerPolicy:    {"the peer's policy keeps it on the overlay", "change the policy on the peer"},
	ReasonThreshold:     {"it has not sent enough yet", "wait, or lower the verdict's After"},
	ReasonProtocol:      {"only TCP over IPv4 can be bypassed", ""},
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
	ReasonDetached:      {"its endpoint was detached or moved", ""},
	ReasonShutdown:      {"this node is shutting down", ""},
	ReasonBackoff:       {"a bypass failed recently; the next try is due later", "wait"},
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

func closeReason(r Reason) Reason {
	switch r {
	case ReasonPolicy, ReasonIdle:
		return peersReason(r)
	}
	return ReasonPeerClosed
}
