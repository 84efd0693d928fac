package bypass

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/viasnet/vias/tap"
)

// Errors of a Datapath that callers tell apart with errors.Is.
var (
	// ErrSwitchDown: the switch is away; nothing can be said of its rules. A
	// Datapath reconnects by itself and says so with a DatapathUp event.
	ErrSwitchDown = errors.New("bypass: switch down")
	// ErrUnconfirmed: the rules may or may not be installed.
	ErrUnconfirmed = errors.New("bypass: change not confirmed by the switch")
)

// Datapath is a switch that can carry bypassed flows. bypass/ofpath is one on
// OpenFlow, bypass/bypasstest one in memory; a suite there says what each must do.
// All methods may be called by several goroutines.
//
// What a Datapath holds has two halves. The slow half ([Base]) is declarative. The
// fast half is rules and leases: a [Rule] forwards a flow only while the [Lease] of
// its peer lives, and a lease ends by itself. Packets of a workload that match no
// live rule are forwarded as if there were no bypass at all.
type Datapath interface {
	// Set makes the slow half be b, atomically, touching nothing else. It is
	// idempotent, and it is called again at least every b.Lease/3 to keep it alive.
	Set(ctx context.Context, b Base) error
	// Apply makes c so, atomically, and returns when the switch has confirmed. An
	// error that is not ErrUnconfirmed or ErrSwitchDown means that nothing was
	// changed. Removing what is not there, or adding what is, is no error.
	Apply(ctx context.Context, c Change) error
	// Rules lists all rules that carry this Datapath's owner mark, of any epoch:
	// also those that an earlier run left.
	Rules(ctx context.Context) ([]RuleStat, error)
	// Inject sends a complete frame as if the workload at ofport had sent it, or,
	// with ofport 0, out of the uplink as it is.
	Inject(ctx context.Context, ofport uint32, frame []byte) error
	// Deliver sends a complete frame out of the port of a workload.
	Deliver(ctx context.Context, ofport uint32, frame []byte) error
	// Watch calls f for each event, in order, from one goroutine, until ctx ends
	// (nil) or the Datapath is closed. Its first event is DatapathUp once the switch
	// is there. f must not block.
	Watch(ctx context.Context, f func(Event)) error
	// Close frees the connection. Rules stay until their leases end; whoever wants
	// them gone removes them before.
	Close() error
}

// PortRange is an aligned power-of-two range of ports, set aside on every host
// for bypassed flows and probes. The zero range stands for DefaultPorts.
type PortRange struct{ Base, Mask uint16 }

// DefaultPorts is 61440-65535.
var DefaultPorts = PortRange{0xf000, 0xf000}

// Contains tells whether p is in r.
func (r PortRange) Contains(p uint16) bool { return p&r.Mask == r.Base }

// First, Last and Len describe the range.
func (r PortRange) First() uint16 { return r.Base }

// Last is the highest port of the range.
func (r PortRange) Last() uint16 { return r.Base | ^r.Mask }

// Len is how many ports the range has.
func (r PortRange) Len() int { return int(^r.Mask) + 1 }

// Valid tells whether Mask is a prefix of ones and Base lies in it.
func (r PortRange) Valid() bool {
	return r.Mask != 0 && ^r.Mask&(^r.Mask+1) == 0 && r.Base&^r.Mask == 0 && r.Base != 0
}

// Base is the slow half of a Datapath.
type Base struct {
	// Epoch marks every rule of this run, so that those of an earlier one can be told.
	Epoch uint16
	Ports PortRange
	// Lease is the hard time-out of all that Set installs, in whole seconds: what a
	// dead run leaves is gone after it. 0, with nothing else, ends it all: everything
	// that carries the Datapath's owner mark, rules of any epoch too, is removed.
	Lease time.Duration
	// Workloads are the ports whose flows may be bypassed.
	Workloads []Workload
	// Hops are the next hops that outbound rules name.
	Hops []Hop
	// Guard lists pairs of underlay addresses between which bypassed packets may
	// be in flight: a packet between them to a reserved port that no rule takes must
	// never reach the host's own stack (it would answer RST). ICMP errors (ICMPv6 too) to
	// one of the Local addresses reach the host, and come as PacketError besides, at a
	// bounded rate.
	Guard []AddrPair
}

// Workload is a local endpoint as the switch must know it.
type Workload struct {
	Ofport uint32
	MAC    tap.MAC
	IPs    []netip.Addr
}

// AddrPair is our and a peer's underlay address.
type AddrPair struct{ Local, Remote netip.Addr }

// Hop is a way out of the uplink: frames to the next hop leave with these MACs.
// Hops are shared by many rules; a next hop whose MAC changes costs one change.
type Hop struct {
	ID       uint32 // names the hop in rules; > 0
	Src, Dst tap.MAC
}

// Direction of a rule, relative to the host.
type Direction uint8

// Directions. Listen is an inbound rule for probes: packets go to us, not to a
// workload.
const (
	Outbound Direction = iota
	Inbound
	Listen
)

func (d Direction) String() string {
	return [...]string{"outbound", "inbound", "listen"}[min(d, Listen)]
}

// Rule is one exact rule: it rewrites one direction of a flow between the
// workload's view (Flow, MACs) and the underlay's (Local, Remote). All four addresses
// are of one family.
//
//	Outbound: a frame of the workload at Ofport with LocalMAC > RemoteMAC and
//	          Flow leaves by Hop as Local > Remote.
//	Inbound:  a packet from the uplink with Remote > Local reaches the workload at
//	          Ofport as RemoteMAC > LocalMAC and Flow reversed.
//	Listen:   a packet of Flow.Proto from the uplink, Remote > Local, arrives as a
//	          PacketIn event of kind Probe, whole. Remote's port 0 means any; its
//	          address 0.0.0.0 or :: any sender (who may have been translated, which is
//	          what a probe must find out).
type Rule struct {
	// ID names the rule among those of one epoch and direction; two rules with one
	// ID and direction are the same rule. 0 is no ID.
	ID        uint32
	Direction Direction
	Flow      Flow // Src is the local workload
	// Local and Remote are the underlay's addresses and reserved ports.
	Local, Remote       netip.AddrPort
	LocalMAC, RemoteMAC tap.MAC // of the workloads
	Ofport              uint32
	Hop                 uint32 // outbound only
	// Peer is the number of the lease that the rule depends on; not for Listen.
	Peer uint32
	// Idle removes an outbound rule that has not been hit for so long, in whole
	// seconds, with a RuleIdle event; 0 = never. Inbound: never, it is ignored.
	Idle time.Duration
	// Hard removes a Listen rule after so long, in whole seconds.
	Hard time.Duration
}

// Lease lets the rules of one peer forward packets of one protocol between two
// underlay addresses, for a while. Its cost does not depend on how many rules
// there are.
//
// When both halves of all of a peer's leases have ended, the peer's outbound and
// inbound rules are gone from the switch by themselves, in a second or two: so
// nothing that a dead run left outlives its leases. RuleLost reports them, unless the
// leases were ended with 0. Rules of a peer that has had no lease yet stay.
type Lease struct {
	Peer          uint32 // > 0, below 2^24
	Proto         Proto
	Local, Remote netip.Addr
	// Outbound and Inbound are whole seconds from now; 0 ends that half at once.
	// An outbound lease must end before the peer's inbound one.
	Outbound, Inbound time.Duration
}

// Change is one atomic step: leases and additions first, removals last. Leases take
// effect in their order: what lets packets in belongs to the two addresses, so that of
// several peers between the same two the last lease counts.
type Change struct {
	Leases      []Lease
	Add, Remove []Rule
	// Purge removes rules of earlier epochs, as Rules listed them. Epoch, Direction
	// and Rule.Peer name them: all rules that have these three go.
	Purge []RuleStat
}

// RuleStat is a rule as the switch holds it.
type RuleStat struct {
	Epoch uint16
	// Rule is complete but for the fields that a switch does not tell: of a rule from
	// another epoch only Direction, Peer, Local, Remote and Flow.Proto can be relied
	// on, and its ID may be 0.
	Rule           Rule
	Packets, Bytes uint64
}

// Event is what a Datapath reports: DatapathUp, DatapathDown, RuleIdle, RuleLost,
// PacketIn or PortsChanged.
type Event interface{ datapathEvent() }

// DatapathUp: the switch is connected. Fresh is true when its rules may not be
// those we left: list and set them again.
type DatapathUp struct{ Fresh bool }

// DatapathDown: the connection is lost; rules go on forwarding until their lease
// ends, or are gone if the switch died.
type DatapathDown struct{ Err error }

// RuleIdle: an outbound rule expired by its idle time.
type RuleIdle struct {
	ID             uint32
	Packets, Bytes uint64
}

// RuleLost: a rule of this epoch vanished though nobody here removed it: somebody
// else did, or the peer's leases ran out.
type RuleLost struct {
	ID        uint32
	Direction Direction
}

// PacketKind says which rule sent a packet up.
type PacketKind uint8

// Kinds of PacketIn.
const (
	PacketProbe  PacketKind = iota // a Listen rule; the frame is whole
	PacketOrphan                   // to a reserved port, behind a live lease, but no rule took it
	PacketGuard                    // to a reserved port, caught by the guard
	PacketError                    // an ICMP error to an address that is guarded, whole; the host has it too
)

// PacketIn is a frame from the uplink that is for us. Frame is the callee's.
type PacketIn struct {
	Kind  PacketKind
	Frame []byte
}

// PortsChanged: a port came, went or was renumbered.
type PortsChanged struct{}

func (DatapathUp) datapathEvent()   {}
func (DatapathDown) datapathEvent() {}
func (RuleIdle) datapathEvent()     {}
func (RuleLost) datapathEvent()     {}
func (PacketIn) datapathEvent()     {}
func (PortsChanged) datapathEvent() {}
