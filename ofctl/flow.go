package ofctl

// Flow is one entry of a flow table. The zero Flow is a table-0, priority-0 entry
// that matches everything and drops it.
type Flow struct {
	Table    uint8
	Priority uint16
	// Cookie is opaque to the switch. vias puts owner, instance, epoch and entry in it.
	Cookie uint64
	// IdleTimeout and HardTimeout are in seconds; 0 = never.
	IdleTimeout, HardTimeout uint16
	// SendFlowRemoved asks for a FlowRemoved event when the flow goes.
	SendFlowRemoved bool
	// NoPacketCounts and NoByteCounts say that nobody reads the flow's counters, which
	// may spare the switch work.
	NoPacketCounts, NoByteCounts bool
	Match                        Match

	// The instructions, in the order in which a switch executes them (OpenFlow
	// 1.3.5, section 5.9): go on only as the Meter allows; Apply now; empty the action set; add Write to the action
	// set (executed when the pipeline ends); go to a later table.
	Meter    uint32 // ID; 0 = none
	Apply    []Action
	Clear    bool
	Write    []Action
	Metadata MetadataWrite // zero Mask = none
	Goto     uint8         // 0 = the pipeline ends here
}

// MetadataWrite is the write_metadata instruction.
type MetadataWrite struct{ Value, Mask uint64 }

// FlowStat is a Flow as a switch holds it.
type FlowStat struct {
	Flow
	Packets, Bytes uint64
	// Age is how long the flow has been installed.
	AgeSeconds, AgeNanosecs uint32
	// Partial: the switch holds match fields, actions or instructions that this
	// package has no words for; Flow is without them.
	Partial bool
}

// FlowFilter selects flows. The zero filter selects all flows of table 0; use
// AllFlows for all.
type FlowFilter struct {
	Table              uint8 // TableAll = every table
	Cookie, CookieMask uint64
	// OutPort and OutGroup: only flows that send to it; 0 = any.
	OutPort, OutGroup uint32
	Match             Match // flows at least this specific; nil = any
}

// AllFlows selects every flow of a switch.
var AllFlows = FlowFilter{Table: TableAll}

// Owned selects the flows of every table whose cookie has value in mask's bits.
func Owned(cookie, mask uint64) FlowFilter {
	return FlowFilter{Table: TableAll, Cookie: cookie, CookieMask: mask}
}

// Command is what a modification does.
type Command uint8

// Commands of flow and group modifications. Strict ones work on the flow with
// exactly the given match and priority.
const (
	Add Command = iota
	Modify
	ModifyStrict
	Delete
	DeleteStrict
)

// Mod is a FlowMod, a GroupMod or a MeterMod: one step of a bundle.
type Mod interface {
	Message
	// String is the step as a line of a file for ovs-ofctl bundle.
	String() string
	mod()
}

// FlowMod changes a flow table. For Modify and Delete, CookieMask limits it to
// flows with the same Flow.Cookie in these bits. Deletions ignore instructions;
// Delete with Table = TableAll works on all tables.
//
// Modify changes the instructions of existing flows. It keeps their counters,
// cookies, flags and time-outs; in Open vSwitch it also restarts the hard time-out,
// which is how a lease is renewed. Add of a flow that is there already replaces all
// of it, time-outs included, and starts the time-outs and the age afresh; the
// counters go on.
type FlowMod struct {
	Command    Command
	Flow       Flow
	CookieMask uint64
	// OutPort and OutGroup limit Delete and DeleteStrict to flows that send to it; 0 = any.
	OutPort, OutGroup uint32
	// CheckOverlap makes Add fail where a flow of the same priority matches some of the
	// same frames.
	CheckOverlap bool
	// ResetCounts makes Add and Modify begin to count anew.
	ResetCounts bool
}

// GroupMod changes a group: Add, Modify or Delete.
type GroupMod struct {
	Command Command
	Group   Group
}

func (FlowMod) mod()  {}
func (GroupMod) mod() {}

// GroupType is OFPGT_*.
type GroupType uint8

// Group types.
const (
	GroupAll GroupType = iota
	GroupSelect
	GroupIndirect
	GroupFastFailover
)

// Group is an indirection that many flows share. vias uses indirect groups for
// next hops: a next hop that changes costs one group-mod.
type Group struct {
	ID      uint32
	Type    GroupType
	Buckets []Bucket
}

// Bucket is one set of actions of a group.
type Bucket struct {
	Weight     uint16 // select groups only
	WatchPort  uint32 // fast failover; 0 is sent as PortAny
	WatchGroup uint32 // fast failover; 0 is sent as GroupAny
	Actions    []Action
}
