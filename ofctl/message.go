package ofctl

import (
	"encoding/binary"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// Message is an OpenFlow 1.3 message as [Encode] takes it and [Decode] returns it:
// one of the types of this package, by value (a *SwitchError alone is a pointer).
type Message interface {
	// appendBody appends what follows the header, and names the message's type. xid
	// is for messages that carry another one.
	appendBody(b []byte, xid uint32) (typ uint8, out []byte, err error)
}

// Request is a message that a switch answers with a T; [Ask] sends one.
type Request[T any] interface {
	Message
	// answer makes a T of the replies, of which there is one at least.
	answer(replies []Message) (T, error)
}

// Hello opens a connection from both sides.
type Hello struct {
	// Version is the highest one spoken, when it was read; OpenFlow 1.3's (4) is what
	// is always sent.
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

func (h Hello) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	if h.Bitmap == 0 {
		return ofp.TypeHello, b, nil
	}
	b = binary.BigEndian.AppendUint32(b, 1<<16|8) // OFPHET_VERSIONBITMAP
	return ofp.TypeHello, binary.BigEndian.AppendUint32(b, h.Bitmap), nil
}

// EchoRequest asks for an EchoReply with the same data.
type EchoRequest struct{ Data []byte }

// EchoReply answers an EchoRequest.
type EchoReply struct{ Data []byte }

func (m EchoRequest) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return ofp.TypeEchoRequest, append(b, m.Data...), nil
}

func (m EchoReply) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return ofp.TypeEchoReply, append(b, m.Data...), nil
}

// FeaturesRequest asks what the switch is.
type FeaturesRequest struct{}

// FeaturesReply describes the switch. Capabilities is of OFPC_* (section 7.3.1).
type FeaturesReply struct {
	DatapathID   uint64
	Buffers      uint32
	Tables       uint8
	AuxiliaryID  uint8
	Capabilities uint32
}

func (FeaturesRequest) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return ofp.TypeFeaturesRequest, b, nil
}

func (m FeaturesReply) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	be := binary.BigEndian
	b = be.AppendUint64(b, m.DatapathID)
	b = be.AppendUint32(b, m.Buffers)
	b = append(b, m.Tables, m.AuxiliaryID, 0, 0)
	b = be.AppendUint32(b, m.Capabilities)
	return ofp.TypeFeaturesReply, appendZeros(b, 4), nil
}

// ConfigRequest asks for the switch's configuration.
type ConfigRequest struct{}

// ConfigReply is the switch's configuration: Flags is how it treats IP fragments
// (OFPC_FRAG_*), MissSendLen how much of a frame that no flow matched it sends up.
type ConfigReply struct{ Flags, MissSendLen uint16 }

// SetConfig changes the switch's configuration.
type SetConfig struct{ Flags, MissSendLen uint16 }

func (ConfigRequest) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return ofp.TypeGetConfigRequest, b, nil
}

func (m ConfigReply) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	be := binary.BigEndian
	return ofp.TypeGetConfigReply, be.AppendUint16(be.AppendUint16(b, m.Flags), m.MissSendLen), nil
}

func (m SetConfig) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	be := binary.BigEndian
	return ofp.TypeSetConfig, be.AppendUint16(be.AppendUint16(b, m.Flags), m.MissSendLen), nil
}

// BarrierRequest asks the switch to finish what it was asked before.
type BarrierRequest struct{}

// BarrierReply says that it has.
type BarrierReply struct{}

func (BarrierRequest) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return ofp.TypeBarrierRequest, b, nil
}

func (BarrierReply) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return ofp.TypeBarrierReply, b, nil
}

// TableMod configures a table. OpenFlow 1.3 defines no configuration any more, so that
// Config is for switches that have their own.
type TableMod struct {
	Table  uint8 // TableAll = every table
	Config uint32
}

func (m TableMod) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return ofp.TypeTableMod, binary.BigEndian.AppendUint32(append(b, m.Table, 0, 0, 0), m.Config), nil
}

// Experimenter is an experimenter's message that this package does not know; ID says
// whose.
type Experimenter struct {
	ID, Type uint32
	Data     []byte
}

func (m Experimenter) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	b = binary.BigEndian.AppendUint32(b, m.ID)
	b = binary.BigEndian.AppendUint32(b, m.Type)
	return ofp.TypeExperimenter, append(b, m.Data...), nil
}

// Unknown is a well-framed message that this package does not know.
type Unknown struct {
	Type uint8
	Body []byte
}

func (m Unknown) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return m.Type, append(b, m.Body...), nil
}
