package bypass

import (
	"time"

	"github.com/viasnet/vias/overlay"
)

// Request is what a Policy decides on.
type Request struct {
	// Flow as the local workload sends it.
	Flow    Flow
	Network string
	Peer    overlay.PeerID
	// LocalTag and PeerTag are the Tags of the two endpoints.
	LocalTag, PeerTag string
	// Initiator: the local workload opened the connection (sent the SYN), or, when
	// that was not seen, our side is the one that asks for the bypass.
	Initiator bool
}

// Verdict is a Policy's answer. The zero Verdict keeps the flow on the overlay.
type Verdict struct {
	// Bypass allows the flow to leave the overlay, in clear, on the provider's
	// network, once the peer allows it too and the path is proven.
	Bypass bool
	// After is how many bytes the flow must have carried on the overlay before, both
	// ways. 0 for TCP = at its first packet, the SYN, which is held meanwhile; 0 for
	// UDP = DefaultUDPBytes.
	After int64
	// Packets is how many packets a UDP flow must have carried on the overlay before,
	// both ways, unless After comes first: question and answer are not worth a bypass.
	// 0 = DefaultUDPPackets. Not for TCP.
	Packets int
	// Hold is how long a SYN may be held while the bypass is set up; 0 = 5 ms,
	// negative = not at all, at most 20 ms.
	Hold time.Duration
	// Idle is how long a bypassed flow may be silent before its rules go; 0 = 60 s.
	// Whole seconds, at least 1 s.
	Idle time.Duration
}

// Policy decides for one flow. It is called on the packet path: it must not
// block, and it may be called by several goroutines at once. Both ends are asked,
// and a flow is bypassed only while both say so.
type Policy func(Request) Verdict

// Never keeps every flow on the overlay. It is what a nil Policy means.
func Never(Request) Verdict { return Verdict{} }

// Always lets every flow be bypassed: TCP at its first packet, UDP once it has carried
// what is worth it by default.
func Always(Request) Verdict { return Verdict{Bypass: true} }

// Default hold and idle times, and the longest hold.
const (
	DefaultHold = 5 * time.Millisecond
	MaxHold     = 20 * time.Millisecond
	DefaultIdle = 60 * time.Second
)

// What a UDP flow must have carried by default before it is worth a bypass.
const (
	DefaultUDPBytes   = 16 << 10
	DefaultUDPPackets = 16
)

// Due tells whether a flow has carried enough on the overlay, both ways, to be asked for.
func (v Verdict) Due(p Proto, packets, bytes int64) bool {
	if p != UDP {
		return bytes >= v.After
	}
	if v.After <= 0 {
		v.After = DefaultUDPBytes
	}
	if v.Packets <= 0 {
		v.Packets = DefaultUDPPackets
	}
	return bytes >= v.After || packets >= int64(v.Packets)
}

// normal fills in defaults and enforces bounds.
func (v Verdict) normal() Verdict {
	switch {
	case v.Hold == 0:
		v.Hold = DefaultHold
	case v.Hold < 0:
		v.Hold = 0
	}
	v.Hold = min(v.Hold, MaxHold)
	if v.Idle == 0 {
		v.Idle = DefaultIdle
	}
	v.Idle = max(v.Idle.Round(time.Second), time.Second)
	return v
}
