// Package ofctl programs OpenFlow 1.3 switches from Go: plain values for what an
// OpenFlow table holds ([Flow], [Match], [Action], [Group], [Meter]), printed and parsed
// in the words of ovs-ofctl, and native connections that speak the protocol over a unix
// or TCP socket or TLS. It imports nothing of vias and can be used by itself. It forks no
// program, and does not use reflection.
//
//	sw, err := ofctl.Dial(ctx, "unix:/var/run/openvswitch/br0.mgmt", ofctl.Config{})
//	if err != nil {
//		return err
//	}
//	defer sw.Close()
//	flow, err := ofctl.ParseFlow("table=0,priority=10,tcp,nw_dst=10.0.0.0/8,tp_dst=80,actions=output:3")
//	if err != nil {
//		return err
//	}
//	return sw.Apply(ctx, []ofctl.Mod{ofctl.FlowMod{Flow: flow}}) // confirmed by the switch
//
// # Connections
//
// [Dial] goes to a switch that listens (Open vSwitch's bridges do, on NAME.mgmt);
// [Listen] and [Serve] are for switches that dial in, as after ovs-vsctl set-controller.
// A [Conn] keeps itself alive by echoes; it answers the switch's by itself. It is lost for
// good when its stream is: whoever wants more has a [Keeper].
//
// # Changing a switch
//
// [Conn.Apply] is one atomic bundle and its confirmation; [Conn.Send] is many messages on
// their way at once, each by itself, and the confirmation of all. [Set] compares what an
// owner wants with what there is, and changes the difference. A [Keeper] does so again
// and again: when somebody else deletes what is wanted, when the switch was restarted,
// when what is wanted changes.
//
// Matches and actions are checked before anything is sent, and an error names what is
// missing: "match field tcp_dst needs nw_proto=0x6".
//
// # Asking a switch
//
// [Ask] sends any request, and returns the answer that belongs to it:
//
//	stats, err := ofctl.Ask(ctx, sw, ofctl.PortStatsRequest{Port: 3}) // []ofctl.PortStat
//	role, err := ofctl.Ask(ctx, sw, ofctl.RoleRequest{Role: ofctl.RoleMaster, GenerationID: 7})
//
// [Conn.Watch] brings packet-ins, removed flows and port changes.
//
// # Messages
//
// [Encode] and [Decode] turn every message into bytes and back, for both sides of a
// connection: hello, error, echo, experimenter, features, config, packet-in, packet-out,
// flow-removed, port-status, flow-mod, group-mod, meter-mod, port-mod, table-mod, barrier,
// role, get-async and set-async, and all multiparts of OpenFlow 1.3 (changing table
// features excepted). What is not known decodes to [Unknown] or [Experimenter] and
// disturbs nobody; flows with parts that have no value here are marked as Partial.
//
// # Switches without a switch
//
// What depends on a running switch stands behind [Switch], which a Conn and the in-memory
// switch of package ofctltest both are.
//
// The protocol is OpenFlow 1.3.5 (ONF TS-023) with the ONF bundle extension
// (EXT-230) and those Nicira extensions of Open vSwitch that are named where used.
package ofctl

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrClosed: the connection was closed on this side, or is lost for good. It
	// unwraps to net.ErrClosed.
	ErrClosed = fmt.Errorf("ofctl: connection closed: %w", net.ErrClosed)
	// ErrUnconfirmed: the connection went away, or the caller's context ended,
	// between a request and its confirmation. What was asked may or may not be in
	// the switch; only a dump, on a new connection if this one is gone, tells.
	// Such an error matches ErrUnconfirmed and not ErrClosed.
	ErrUnconfirmed = errors.New("ofctl: sent, but not confirmed by the switch")
	// ErrNotSupported: the switch lacks what was asked (see Capabilities).
	ErrNotSupported = fmt.Errorf("ofctl: not supported by the switch: %w", errors.ErrUnsupported)
)

// Reserved port numbers (OpenFlow 1.3.5, section 7.2.1).
const (
	PortInPort     uint32 = 0xfffffff8
	PortTable      uint32 = 0xfffffff9
	PortNormal     uint32 = 0xfffffffa
	PortFlood      uint32 = 0xfffffffb
	PortAll        uint32 = 0xfffffffc
	PortController uint32 = 0xfffffffd
	PortLocal      uint32 = 0xfffffffe
	PortAny        uint32 = 0xffffffff
)

// GroupAny and TableAll are wildcards of filters and deletions.
const (
	GroupAny uint32 = 0xffffffff
	TableAll uint8  = 0xff
)

// NoBuffer says that a packet-in or packet-out carries its frame itself. vias
// never lets a switch buffer frames.
const NoBuffer uint32 = 0xffffffff

// Switch is one connection to one OpenFlow switch. All methods may be called by
// several goroutines at once. An error that matches ErrClosed or ErrUnconfirmed
// means that the connection should be given up; a switch's refusal is a
// *SwitchError and leaves it intact.
type Switch interface {
	// Features is what the switch said of itself when the connection was made,
	// and what probing it showed.
	Features() Features
	// Apply sends mods (a MeterMod alone) as one atomic bundle, in order, and waits for the switch's
	// confirmation: all of them are in its tables, or (error) none is. Confirmed is
	// not yet in the datapath: Open vSwitch's caches lag its tables.
	Apply(ctx context.Context, mods []Mod) error
	// Flows dumps the flows that filter selects, with counters, in no order.
	Flows(ctx context.Context, filter FlowFilter) ([]FlowStat, error)
	// Aggregate is the sum over the flows that filter selects.
	Aggregate(ctx context.Context, filter FlowFilter) (Aggregate, error)
	// Groups dumps all groups.
	Groups(ctx context.Context) ([]Group, error)
	// Meters dumps all meters.
	Meters(ctx context.Context) ([]Meter, error)
	// Ports lists the switch's ports, LOCAL included.
	Ports(ctx context.Context) ([]Port, error)
	// PacketOut sends a frame out of the switch. It returns when it is written, not
	// when the switch has acted; a refusal shows up as a Refused event.
	PacketOut(ctx context.Context, p PacketOut) error
	// Watch calls f, from one goroutine and in order, for every event until ctx
	// ends (nil) or the connection is lost (ErrClosed). Several may watch. f must
	// not block: a watcher that falls behind loses packet-ins, never flow-removeds
	// or port changes.
	Watch(ctx context.Context, f func(Event)) error
	// Close ends the connection. What was programmed stays in the switch.
	Close() error
}

// Features describes a switch.
type Features struct {
	DatapathID uint64
	Tables     uint8
	// Capabilities are the extensions that were found to work.
	Capabilities Capabilities
}

// Capabilities is a set of what not every OpenFlow 1.3 switch has.
type Capabilities uint32

// Capabilities that vias looks for.
const (
	CapBundle         Capabilities = 1 << iota // atomic bundles
	CapFragMatch                               // NXM_NX_IP_FRAG (nw_frag)
	CapPortMask                                // masked L4 ports
	CapCheckPktLarger                          // check_pkt_larger action
	CapTTLMatch                                // NXM_NX_IP_TTL
	CapTether                                  // Tether
	CapMeter                                   // Meter
)

// Has tells whether all of want are in c.
func (c Capabilities) Has(want Capabilities) bool { return c&want == want }

// PacketOut is a frame for the switch to act on.
type PacketOut struct {
	// InPort is the port that the frame pretends to have come from; PortController
	// when 0.
	InPort  uint32
	Actions []Action // Output(PortTable) sends it through the tables
	Frame   []byte   // complete: no partial checksum, no super-frame
}

// Event is one of PacketIn, FlowRemoved, PortStatus, Refused.
type Event interface {
	Message
	event()
}

// PacketIn is a frame that a flow sent to the controller.
type PacketIn struct {
	Table    uint8
	Cookie   uint64
	InPort   uint32
	Reason   uint8 // OFPR_*: 0 no match, 1 action, 2 invalid TTL
	TotalLen int   // of the frame; Frame may be cut to the flow's max_len
	Frame    []byte
}

// FlowRemoved says that a flow with SendFlowRemoved is gone.
type FlowRemoved struct {
	Flow             Flow // match, priority, table, cookie, time-outs; no actions
	Reason           RemovedReason
	Packets, Bytes   uint64
	DurationSeconds  uint32
	DurationNanosecs uint32
}

// RemovedReason is why a flow was removed.
type RemovedReason uint8

// Reasons of OpenFlow 1.3 (OFPRR_*).
const (
	RemovedIdle RemovedReason = iota
	RemovedHard
	RemovedDelete
	RemovedGroup
)

// PortStatus says that a port came, went or changed.
type PortStatus struct {
	Reason PortReason
	Port   Port
}

// PortReason is OFPPR_*.
type PortReason uint8

// Port changes.
const (
	PortAdded PortReason = iota
	PortDeleted
	PortModified
)

// Refused is an error message that answers no request that waits for one, such
// as a PacketOut.
type Refused struct{ Err *SwitchError }

func (PacketIn) event()    {}
func (FlowRemoved) event() {}
func (PortStatus) event()  {}
func (Refused) event()     {}
