// Package ofp holds what of OpenFlow 1.3 (ONF TS-023) no user of ofctl sees: the
// numbers of the protocol and the framing of messages on a stream.
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
	TypePortMod          = 16
	TypeTableMod         = 17
	TypeMultipartRequest = 18
	TypeMultipartReply   = 19
	TypeBarrierRequest   = 20
	TypeBarrierReply     = 21
	TypeRoleRequest      = 24
	TypeRoleReply        = 25
	TypeGetAsyncRequest  = 26
	TypeGetAsyncReply    = 27
	TypeSetAsync         = 28
	TypeMeterMod         = 29
)

// Types of multipart messages (section 7.3.5).
const (
	MultipartDesc          = 0
	MultipartFlow          = 1
	MultipartAggregate     = 2
	MultipartTable         = 3
	MultipartPortStats     = 4
	MultipartQueue         = 5
	MultipartGroup         = 6
	MultipartGroupDesc     = 7
	MultipartGroupFeatures = 8
	MultipartMeter         = 9
	MultipartMeterConfig   = 10
	MultipartMeterFeatures = 11
	MultipartTableFeatures = 12
	MultipartPortDesc      = 13
)

// Experimenter IDs.
const (
	ExperimenterONF    = 0x4f4e4600
	ExperimenterNicira = 0x00002320
)

// Messages of the bundle extension (ONF EXT-230).
const (
	BundleControlType = 2300
	BundleAddType     = 2301
)

// ErrorExperimenter is the type of error messages whose code is an experimenter's.
const ErrorExperimenter = 0xffff
