// Package ofp holds what of OpenFlow 1.3 (ONF TS-023) no user of ofctl sees: the
// numbers of the protocol, the framing of messages on a stream, and the messages
// that carry no table entries. Package ofctl turns these and its own values into
// bytes and back.
package ofp

// Version is OpenFlow 1.3's number on the wire.
const Version = 4

// Sizes. A message's length is a 16-bit field of its header.
const (
	HeaderLen  = 8
	MaxMessage = 0xffff
)

// Types of messages (section 7.1).
const (
	TypeHello            = 0
	TypeError            = 1
	TypeEchoRequest      = 2
	TypeEchoReply        = 3
	TypeExperimenter     = 4
	TypeFeaturesRequest  = 5
	TypeFeaturesReply    = 6
	TypeGetConfigRequest = 7
	TypeGetConfigReply   = 8
	TypeSetConfig        = 9
	TypePacketIn         = 10
	TypeFlowRemoved      = 11
	TypePortStatus       = 12
	TypePacketOut        = 13
	TypeFlowMod          = 14
	TypeGroupMod         = 15
	TypeMultipartRequest = 18
	TypeMultipartReply   = 19
	TypeBarrierRequest   = 20
	TypeBarrierReply     = 21
	TypeSetAsync         = 28
	TypeMeterMod         = 29
)

// Types of multipart messages (section 7.3.5).
const (
	MultipartFlow          = 1
	MultipartGroupDesc     = 7
	MultipartMeterConfig   = 10
	MultipartMeterFeatures = 11
	MultipartPortDesc      = 13
)

// Experimenter IDs.
const (
	ExperimenterONF    = 0x4f4e4600
	ExperimenterNicira = 0x00002320
)

// Messages and commands of the bundle extension (ONF EXT-230).
const (
	BundleControlType = 2300
	BundleAddType     = 2301

	BundleOpen         = 0
	BundleOpenReply    = 1
	BundleClose        = 2
	BundleCloseReply   = 3
	BundleCommit       = 4
	BundleCommitReply  = 5
	BundleDiscard      = 6
	BundleDiscardReply = 7

	BundleAtomic  = 1
	BundleOrdered = 2
)

// ErrorExperimenter is the type of error messages whose code is an experimenter's.
const ErrorExperimenter = 0xffff

// Hello opens a connection from both sides.
type Hello struct {
	// Version is the highest one spoken.
	Version uint8
	// Bitmap has bit n for version n; 0 = no bitmap was sent.
	Bitmap uint32
}

// Speaks tells whether the sender can speak version v (section 6.3.1).
func (h Hello) Speaks(v uint8) bool {
	if h.Bitmap != 0 {
		return v < 32 && h.Bitmap>>v&1 == 1
	}
	return h.Version >= v
}

// EchoRequest asks for an EchoReply with the same data.
type EchoRequest struct{ Data []byte }

// EchoReply answers an EchoRequest.
type EchoReply struct{ Data []byte }

// FeaturesRequest asks for a FeaturesReply.
type FeaturesRequest struct{}

// FeaturesReply describes the switch.
type FeaturesReply struct {
	DatapathID   uint64
	Buffers      uint32
	Tables       uint8
	Capabilities uint32
}

// ConfigRequest asks for a ConfigReply.
type ConfigRequest struct{}

// ConfigReply is the switch's configuration.
type ConfigReply struct{ Flags, MissSendLen uint16 }

// SetConfig changes the switch's configuration.
type SetConfig struct{ Flags, MissSendLen uint16 }

// BarrierRequest asks the switch to finish what it was asked before.
type BarrierRequest struct{}

// BarrierReply says that it has.
type BarrierReply struct{}

// BundleControl opens, closes, commits or discards a bundle, or answers to that.
type BundleControl struct {
	ID    uint32
	Type  uint16
	Flags uint16
}

// BundleAdd puts a message, an ofctl.Mod, into a bundle. It has the xid of the
// message that carries it.
type BundleAdd struct {
	ID    uint32
	Flags uint16
	Mod   any
}

// GroupDescRequest asks for all groups, PortDescRequest for all ports.
type GroupDescRequest struct{}

// PortDescRequest asks for all ports.
type PortDescRequest struct{}

// Part is one message of a multipart reply: of flows (ofctl.FlowStat), groups
// (ofctl.Group) or ports (ofctl.Port).
type Part[T any] struct {
	Items []T
	// More parts follow with the same xid.
	More bool
}

// Unknown is a well-framed message that this implementation does not know.
type Unknown struct {
	Type uint8
	Body []byte
}

// AllAsync is the message that asks for every asynchronous message there is, also
// for packets whose TTL ran out, which are off by default (section 7.3.10). Masks
// come in pairs: for a master or equal controller, and for a slave.
func AllAsync() Unknown {
	return Unknown{Type: TypeSetAsync, Body: []byte{
		0, 0, 0, 0x07, 0, 0, 0, 0, // packet-in: no match, action, invalid TTL
		0, 0, 0, 0x07, 0, 0, 0, 0, // port-status: add, delete, modify
		0, 0, 0, 0x1f, 0, 0, 0, 0, // flow-removed: idle, hard, delete, group delete
	}}
}

// MeterConfigRequest asks for all meters.
type MeterConfigRequest struct{}

// MeterFeaturesRequest asks for a MeterFeatures.
type MeterFeaturesRequest struct{}

// MeterFeatures is what a switch's meters can do. Bands has bit n for bands of type n,
// Capabilities is of meters' flags.
type MeterFeatures struct {
	MaxMeters, Bands, Capabilities uint32
	MaxBands, MaxColor             uint8
}
