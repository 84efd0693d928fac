// Package bypass moves single TCP and UDP flows off the overlay and onto the
// provider's own network, and back, without losing or leaking them.
//
// It holds the [Classifier] (the only importer of gopacket), the [Policy] a host
// program answers with, the transaction between two ends (a pure step function,
// txn.go), the proof that two ends stand in one network (proof.go), and the [Host]
// that runs them over two contracts: [Datapath] (the switch) and [Underlay] (the
// host's addresses and routes). It knows nothing of OpenFlow: package
// bypass/ofpath does.
//
// Directions are relative to the host: outbound is from a workload to the
// provider's network, inbound the reverse.
package bypass

import (
	"net/netip"
	"strconv"
)

// Proto is an IP protocol number that can be bypassed.
type Proto uint8

// The protocols that have ports a switch can rewrite.
const (
	TCP Proto = 6
	UDP Proto = 17
)

func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return "proto" + strconv.Itoa(int(p))
}

// Family is an IP version. A flow is bypassed between underlay addresses of its own
// family: a switch can rewrite addresses, but not turn one kind of packet into the other.
type Family uint8

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

func (f Family) String() string { return "IPv" + strconv.Itoa(int(f)) }

// FamilyOf is the family of a, which is valid; an IPv4 address in an IPv6 one is IPv6.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Flow is the five-tuple of a conversation, seen from one side: Src is that
// side's address. The zero Flow is none. Flows are comparable and can key maps.
type Flow struct {
	Proto    Proto
	Src, Dst netip.AddrPort
}

// Reverse is the same conversation seen from the other side.
func (f Flow) Reverse() Flow { return Flow{f.Proto, f.Dst, f.Src} }

// Canonical is f or its reverse, whichever has the lower Src (then both ends name
// the flow alike).
func (f Flow) Canonical() Flow {
	if f.Src.Compare(f.Dst) > 0 {
		return f.Reverse()
	}
	return f
}

// String is "tcp 10.0.0.1:1234 > 10.0.0.2:80".
func (f Flow) String() string {
	return f.Proto.String() + " " + f.Src.String() + " > " + f.Dst.String()
}
