// Package pump moves frames between a Network's device and its links: out.go from
// the device to the links, in.go from a link to the device, each written in the
// order in which a frame meets it. Neither allocates in steady state.
package pump

import (
	"sync/atomic"

	"github.com/viasnet/vias/internal/l2"
)

// Drop is why a frame or datagram was dropped.
type Drop uint8

// Causes. Those that begin with Out met a frame of the device, those with In a
// datagram of a link.
const (
	OutMalformed  Drop = iota // too short, or an offload that does not fit its headers
	OutSourceMAC              // nobody attached or learned it, or it is a peer's
	OutSourceIP               // not the endpoint's
	OutLinkLocal              // 01:80:c2:00:00:0x, which no bridge forwards
	OutLocal                  // to a local station: the switch's job
	OutNoLink                 // to a peer without a link
	OutNoPeers                // to flood, and there is no link at all
	OutTooLong                // longer than the peer's device takes
	OutLinkError              // the link failed while sending
	OutOpening                // a SYN over its workload's allowance (see Opens)
	OutReleased               // a held SYN that could neither be injected nor sent
	OutUnresolved             // to an address that nobody has, or to whose peer no link came in time
	OutCrowded                // to an unknown address, and there was no room to wait
	OutLookups                // to an unknown address, of an endpoint that asks for too many
	OutBroadcast              // to a group, of an endpoint that sends too many
	InMalformed               // empty, or too short
	InKind                    // of a kind that we do not know
	InEarly                   // a frame before both Hellos
	InSourceMAC               // the peer did not announce it, or somebody else holds it
	InSourceIP                // the peer did not announce it for that MAC
	InLinkLocal               // 01:80:c2:00:00:0x
	InNotHere                 // to a station of another peer: never from link to link
	InFragment                // a fragment that is none, or does not fit the others
	InLate                    // a fragment that was there already, or whose frame was given up
	InIncomplete              // a frame of which a fragment did not come in time
	InCrowded                 // a frame given up because later ones needed the room
	Drops                     // how many causes there are
)

// Counters are kept by all pumps of a Network.
type Counters struct {
	drops [Drops]atomic.Uint64
	// OutFrames and OutBytes came from the device, InFrames and InBytes went to it.
	OutFrames, OutBytes, InFrames, InBytes atomic.Uint64
	// Flooded frames of the device went to every peer.
	Flooded atomic.Uint64
	// Answered are who-has questions.
	Answered atomic.Uint64
	// TooBig are the messages that told workloads so.
	TooBig atomic.Uint64
	// Held SYNs, and what became of them.
	Held, Injected, Expired atomic.Uint64
}

// Drop counts one.
func (c *Counters) Drop(d Drop) { c.drops[d].Add(1) }

// DropN counts n.
func (c *Counters) DropN(d Drop, n int) { c.drops[d].Add(uint64(n)) }

// Dropped is how many were dropped for that cause.
func (c *Counters) Dropped(d Drop) uint64 { return c.drops[d].Load() }

// outCause and inCause say the causes of a source check in our terms.
func outCause(c l2.Cause) Drop {
	switch c {
	case l2.UnknownMAC, l2.ForeignMAC:
		return OutSourceMAC
	case l2.ForeignIP:
		return OutSourceIP
	}
	return OutMalformed
}

func inCause(c l2.Cause) Drop {
	switch c {
	case l2.UnknownMAC, l2.ForeignMAC:
		return InSourceMAC
	case l2.ForeignIP:
		return InSourceIP
	}
	return InMalformed
}
