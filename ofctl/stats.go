package ofctl

import "time"

// The questions that a switch answers with a multipart message (section 7.3.5), each
// with its answer. FlowFilter, which asks for flows, is with Flow. [Ask] asks.

// GroupEvery and QueueAll stand for every group and every queue.
const (
	GroupEvery uint32 = 0xfffffffc // OFPG_ALL
	QueueAll   uint32 = 0xffffffff // OFPQ_ALL
)

// DescRequest asks who made the switch.
type DescRequest struct{}

// Desc is the switch's description.
type Desc struct{ Manufacturer, Hardware, Software, Serial, Datapath string }

// AggregateRequest asks for the sum over the flows that the filter selects.
type AggregateRequest struct{ FlowFilter }

// Aggregate is a sum over flows.
type Aggregate struct {
	Packets, Bytes uint64
	Flows          uint32
}

// TableStatsRequest asks for all tables' counters.
type TableStatsRequest struct{}

// TableStat is a table's counters. Active is its number of flows.
type TableStat struct {
	Table            uint8
	Active           uint32
	Lookups, Matched uint64
}

// PortDescRequest asks for all ports.
type PortDescRequest struct{}

// PortStatsRequest asks for a port's counters; Port 0 = all ports.
type PortStatsRequest struct{ Port uint32 }

// PortStat is a port's counters. Open vSwitch gives ^0 for those that it does not
// count. The errors of frames (alignment, overrun, CRC) are among RxErrors.
type PortStat struct {
	Port                                 uint32
	RxPackets, TxPackets                 uint64
	RxBytes, TxBytes                     uint64
	RxDropped, TxDropped                 uint64
	RxErrors, TxErrors                   uint64
	RxFrameErrors, RxOverruns, CRCErrors uint64
	Collisions                           uint64
	Age                                  time.Duration // of the port
}

// QueueStatsRequest asks for the counters of a Queue (or QueueAll) of a port; Port 0 =
// all ports.
type QueueStatsRequest struct{ Port, Queue uint32 }

// QueueStat is a queue's counters.
type QueueStat struct {
	Port, Queue                  uint32
	TxBytes, TxPackets, TxErrors uint64
	Age                          time.Duration
}

// GroupStatsRequest asks for a group's counters, or for those of GroupEvery.
type GroupStatsRequest struct{ Group uint32 }

// GroupStat is a group's counters. References is how many flows and groups name it.
type GroupStat struct {
	Group, References uint32
	Packets, Bytes    uint64
	Age               time.Duration
	Buckets           []Counter
}

// Counter counts what passed a bucket or a band.
type Counter struct{ Packets, Bytes uint64 }

// GroupDescRequest asks for all groups.
type GroupDescRequest struct{}

// GroupFeaturesRequest asks what groups the switch can have.
type GroupFeaturesRequest struct{}

// GroupFeatures is what groups a switch can have: for each GroupType the number of
// groups, and the actions of its buckets, bit n for type n (OFPAT_*). Types has bit n
// for group type n; Capabilities is of OFPGFC_*.
type GroupFeatures struct {
	Types, Capabilities uint32
	MaxGroups, Actions  [4]uint32
}

// MeterStatsRequest asks for a meter's counters; ID 0 = all meters.
type MeterStatsRequest struct{ ID uint32 }

// MeterStat is a meter's counters. Packets and Bytes are what came, Bands what each of
// its bands dropped or marked.
type MeterStat struct {
	ID, Flows      uint32
	Packets, Bytes uint64
	Age            time.Duration
	Bands          []Counter
}

// MeterConfigRequest asks for a meter; ID 0 = all meters.
type MeterConfigRequest struct{ ID uint32 }

// MeterFeaturesRequest asks what meters the switch can have.
type MeterFeaturesRequest struct{}

// MeterFeatures is what a switch's meters can do. Bands has bit n for bands of type n,
// Capabilities is of meters' flags (OFPMF_*).
type MeterFeatures struct {
	MaxMeters, Bands, Capabilities uint32
	MaxBands, MaxColor             uint8
}

// TableFeaturesRequest asks what the switch's tables can do.
type TableFeaturesRequest struct{}

// TableFeatures is what a table can do. Hit is for its flows, Miss for its table-miss
// flow; a Miss that is all zero is as Hit.
type TableFeatures struct {
	Table                        uint8
	Name                         string
	MetadataMatch, MetadataWrite uint64 // bits that can be
	Config, MaxEntries           uint32
	Match, Wildcards             []OXM // Wildcards need not stand in a match
	Hit, Miss                    TableAbility
}

// TableAbility is what a table's flows can do.
type TableAbility struct {
	Instructions               []uint16 // OFPIT_*
	Next                       []uint8  // tables to go to
	WriteActions, ApplyActions []uint16 // OFPAT_*
	WriteFields, ApplyFields   []OXM    // that SetField can set
}

// OXM is the head of a match field on the wire: class, number, and length of value and
// mask (section 7.2.3.2).
type OXM uint32

// Kind is the field's kind, and 0 for a field that this package does not know. masked
// says that the field may have a mask.
func (o OXM) Kind() (k FieldKind, masked bool) {
	return kindOf(uint16(o>>16), uint8(o>>9)&0x7f), o>>8&1 == 1
}

// Part is one message of the answer to a question about many things: flows, groups,
// ports, meters, their counters, or tables.
type Part[T Item] struct {
	Items []T
	// More parts follow with the same xid.
	More bool
}

// Item is what a Part is made of: FlowStat, TableStat, Port, PortStat, QueueStat, Group,
// GroupStat, Meter, MeterStat or TableFeatures.
type Item interface {
	// multipart is the type of the message (section 7.3.5).
	multipart() uint16
	appendItem(b []byte) ([]byte, error)
}
