package ofctl

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// Encode appends m with this xid to b; a Part that does not fit into one message
// becomes several. Matches and actions are checked: an error names what is missing, and
// b is unchanged.
//
// Encode and Decode speak for both sides of a connection; most programs want
// [Dial] instead.
func Encode(b []byte, xid uint32, m Message) ([]byte, error) {
	if p, ok := m.(interface {
		appendParts(b []byte, xid uint32) ([]byte, error)
	}); ok {
		out, err := p.appendParts(b, xid)
		if err != nil {
			return b, fmt.Errorf("ofctl: encode %T: %w", m, err)
		}
		return out, nil
	}
	if m == nil {
		return b, errors.New("ofctl: encode: no message")
	}
	start := len(b)
	typ, out, err := m.appendBody(appendZeros(b, ofp.HeaderLen), xid)
	if err != nil {
		return b, fmt.Errorf("ofctl: encode %T: %w", m, err)
	}
	if len(out)-start > ofp.MaxMessage {
		return b, fmt.Errorf("ofctl: encode %T: %w", m, errTooLong)
	}
	putHeader(out[start:], typ, xid)
	return out, nil
}

var errTooLong = errors.New("longer than an OpenFlow message can be")

func putHeader(b []byte, typ uint8, xid uint32) {
	b[0], b[1] = ofp.Version, typ
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint32(b[4:], xid)
}

func (e *SwitchError) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	b = binary.BigEndian.AppendUint16(b, e.Type)
	b = binary.BigEndian.AppendUint16(b, e.Code)
	if e.Type == ErrTypeExperimenter {
		b = binary.BigEndian.AppendUint32(b, e.Experimenter)
	}
	return ofp.TypeError, append(b, e.Request...), nil
}

// Decode reads one whole message, with header, and returns it by value. Frames and
// other byte slices in it alias b. A message of a type that is not known is no error
// but an Unknown or an Experimenter; what is malformed is, and when it is a request
// that a switch would refuse, the error unwraps to the *SwitchError that says why.
func Decode(b []byte) (xid uint32, m Message, err error) {
	if len(b) < ofp.HeaderLen {
		return 0, nil, fmt.Errorf("ofctl: decode header: %w", errBadLength)
	}
	h := ofp.ParseHeader(b)
	if int(h.Length) != len(b) {
		return h.XID, nil, fmt.Errorf("ofctl: decode header: %w", errBadLength)
	}
	c := ofp.NewCursor(b[ofp.HeaderLen:])
	m, err = decodeBody(h, &c)
	if err == nil && c.Short() {
		err = errBadLength
	}
	if err != nil {
		return h.XID, nil, fmt.Errorf("ofctl: decode message of type %d: %w", h.Type, err)
	}
	return h.XID, m, nil
}

func decodeBody(h ofp.Header, c *ofp.Cursor) (Message, error) {
	switch h.Type {
	case ofp.TypePacketIn:
		return decodePacketIn(c)
	case ofp.TypeFlowRemoved:
		return decodeFlowRemoved(c)
	case ofp.TypePortStatus:
		return decodePortStatus(c)
	case ofp.TypePacketOut:
		return decodePacketOut(c)
	case ofp.TypeFlowMod:
		return decodeFlowMod(c)
	case ofp.TypeGroupMod:
		return decodeGroupMod(c)
	case ofp.TypeMeterMod:
		return decodeMeterMod(c)
	case ofp.TypeMultipartRequest:
		return decodeMultipartRequest(h, c)
	case ofp.TypeMultipartReply:
		return decodeMultipartReply(h, c)
	case ofp.TypeExperimenter:
		return decodeExperimenter(h, c)
	}
	return decodePlain(h, c), nil
}

// decodePlain reads messages that carry no table entries.
func decodePlain(h ofp.Header, c *ofp.Cursor) Message {
	switch h.Type {
	case ofp.TypeHello:
		return decodeHello(h.Version, c)
	case ofp.TypeError:
		return decodeError(c)
	case ofp.TypeEchoRequest:
		return EchoRequest{Data: c.Rest()}
	case ofp.TypeEchoReply:
		return EchoReply{Data: c.Rest()}
	case ofp.TypeFeaturesRequest:
		return FeaturesRequest{}
	case ofp.TypeFeaturesReply:
		r := FeaturesReply{DatapathID: c.U64(), Buffers: c.U32(), Tables: c.U8(), AuxiliaryID: c.U8()}
		c.Skip(2)
		r.Capabilities = c.U32()
		c.Skip(4)
		return r
	case ofp.TypeGetConfigRequest:
		return ConfigRequest{}
	case ofp.TypeGetConfigReply:
		return ConfigReply{Flags: c.U16(), MissSendLen: c.U16()}
	case ofp.TypeSetConfig:
		return SetConfig{Flags: c.U16(), MissSendLen: c.U16()}
	case ofp.TypePortMod:
		return takePortMod(c)
	case ofp.TypeTableMod:
		t := TableMod{Table: c.U8()}
		c.Skip(3)
		t.Config = c.U32()
		return t
	case ofp.TypeBarrierRequest:
		return BarrierRequest{}
	case ofp.TypeBarrierReply:
		return BarrierReply{}
	case ofp.TypeRoleRequest:
		role, generation := takeRole(c)
		return RoleRequest{role, generation}
	case ofp.TypeRoleReply:
		role, generation := takeRole(c)
		return RoleReply{role, generation}
	case ofp.TypeGetAsyncRequest:
		return AsyncRequest{}
	case ofp.TypeGetAsyncReply:
		master, slave := takeAsync(c)
		return AsyncReply{master, slave}
	case ofp.TypeSetAsync:
		master, slave := takeAsync(c)
		return SetAsync{master, slave}
	}
	return Unknown{Type: h.Type, Body: c.Rest()}
}

// decodeHello reads the version bitmap, if there is one, and skips other elements.
func decodeHello(version uint8, c *ofp.Cursor) Hello {
	hello := Hello{Version: version}
	for c.Len() >= 4 {
		typ, n := c.U16(), int(c.U16())
		body := ofp.NewCursor(c.Take(n - 4))
		if typ == 1 && body.Len() >= 4 {
			hello.Bitmap = body.U32()
		}
		c.Take(min(pad8(n), c.Len()))
	}
	return hello
}

func decodeError(c *ofp.Cursor) *SwitchError {
	e := &SwitchError{Type: c.U16(), Code: c.U16()}
	if e.Type == ErrTypeExperimenter {
		e.Experimenter = c.U32()
	}
	e.Request = c.Rest()
	return e
}
