package vias

import (
	"net/netip"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/flowtable"
	"github.com/viasnet/vias/internal/l2"
	"github.com/viasnet/vias/overlay"
)

// Explanation says where a flow is and why.
type Explanation struct {
	Flow bypass.Flow // Src is the local workload, if one of the two is
	// Known: the flow was seen or is bypassed. Otherwise the rest is what would be.
	Known  bool
	Peer   overlay.PeerID
	State  bypass.State
	Reason bypass.Reason // ReasonNone: bypassed, on its way there, or nothing is against it
	// What and Remedy are words for people: what is the case, and what would have to
	// change for the flow to be bypassed ("" when nothing can).
	What, Remedy string
	Since        time.Time // zero unless Known
	RetryAt      time.Time // when a bypass is tried next; zero = as soon as the flow asks
}

// Explain answers "why is this flow slow?" for any five-tuple, given in either
// direction. It asks the policy for flows that were never seen.
func (n *Network) Explain(f bypass.Flow) Explanation {
	v := n.shared.Stations.View()
	if !local(v, f.Src) && (local(v, f.Dst) || n.shared.Flows.Get(f.Reverse()) != nil) {
		f = f.Reverse()
	}
	x := Explanation{Flow: f}
	e := n.shared.Flows.Get(f)
	if e != nil {
		s := flowStatus(e)
		x.Known, x.Peer, x.State, x.Reason, x.Since, x.RetryAt = true, s.Peer, s.State, s.Reason, s.Since, s.RetryAt
	}
	if r := n.running.Load(); r != nil && r.member != nil {
		if s, ok := r.member.Status(f); ok && (s.State != bypass.OnOverlay || s.Reason != bypass.ReasonNone) {
			x.Known, x.Peer, x.State, x.Reason, x.Since, x.RetryAt = true, s.Peer, s.State, s.Reason, s.Since, s.RetryAt
		}
	}
	if x.State == bypass.OnOverlay && x.Reason == bypass.ReasonNone {
		n.guess(&x, v, e)
	}
	x.say()
	return x
}

func local(v *l2.View, a netip.AddrPort) bool {
	s := v.IP(a.Addr())
	return s != nil && s.Local()
}

// guess finds what stands against a flow of which nobody told.
func (n *Network) guess(x *Explanation, v *l2.View, e *flowtable.Entry) {
	f := x.Flow
	from, to := v.IP(f.Src.Addr()), v.IP(f.Dst.Addr())
	switch {
	case f.Proto != bypass.TCP && f.Proto != bypass.UDP, f.Src.Addr().BitLen() != f.Dst.Addr().BitLen(),
		!leaves(f.Src.Addr()), !leaves(f.Dst.Addr()):
		x.Reason = bypass.ReasonProtocol
		return
	case !n.shared.Bypass:
		x.Reason = bypass.ReasonNoHost
		return
	case from == nil || !from.Local():
		x.Reason, x.What, x.Remedy = bypass.ReasonDetached, "neither address is of an endpoint attached here", "attach the endpoint with its IP address"
		return
	case to == nil:
		x.Reason = bypass.ReasonNoPeer
		return
	case to.Local():
		x.Reason = bypass.ReasonSameHost
		return
	}
	x.Peer = to.Peer
	switch {
	case from.Ofport == 0:
		x.Reason, x.What, x.Remedy = bypass.ReasonDetached, "the endpoint was attached without its port of the switch", "attach it with its Ofport"
	case n.shared.Ports.Get(to.Peer) == nil:
		x.Reason = bypass.ReasonLinkDown
	default:
		n.guessPolicy(x, from, to, e)
	}
}

// leaves tells whether an address can stand in a flow that leaves the overlay, as the Classifier does.
// Those of an IPv6 link cannot: other workloads may have the same.
func leaves(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && !a.IsMulticast() && !a.IsUnspecified() && !a.IsLoopback() && (a.Is4() || !a.IsLinkLocalUnicast())
}

func (n *Network) guessPolicy(x *Explanation, from, to *l2.Station, e *flowtable.Entry) {
	theirs := e != nil && e.Opened() == flowtable.OpenedThere
	decide, _ := n.policyNow()
	switch v := decide(bypass.Request{
		Flow: x.Flow, Network: n.config.Name, Peer: to.Peer,
		LocalTag: from.Tag, PeerTag: to.Tag, Initiator: !theirs,
	}); {
	case !v.Bypass:
		x.Reason = bypass.ReasonPolicy
	case theirs:
		x.What, x.Remedy = "the peer opened it, and has not asked for a bypass", "ask the peer's node"
	case v.After > 0 || x.Flow.Proto == bypass.UDP:
		x.Reason = bypass.ReasonThreshold
	default:
		x.What = "nothing is known against it: it is tried with its next packet"
	}
}

// stateWords say a state when nothing is wrong.
var stateWords = [...]string{
	bypass.OnOverlay: "its packets go through the overlay",
	bypass.Moving:    "a bypass is being set up; its packets go through the overlay",
	bypass.Bypassed:  "it is bypassed: its packets stay in the switches",
	bypass.Leaving:   "its bypass is being taken down; its packets go through the overlay",
}

// say fills in the words that were not said yet.
func (x *Explanation) say() {
	if x.What == "" {
		x.What, x.Remedy = x.Reason.String(), x.Reason.Remedy()
	}
	if x.What == "" {
		x.What = stateWords[min(x.State, bypass.Leaving)]
	}
}
