package ofctl

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// Encode appends m as OpenFlow 1.3 messages with this xid to b. m is a FlowMod,
// GroupMod, MeterMod, FlowFilter (a flow-stats request), PacketIn, PacketOut, FlowRemoved,
// PortStatus or *SwitchError, or a message of ofctl's internals. Matches and
// actions are checked: an error says what is missing, and b is unchanged.
//
// Encode and Decode speak for both sides of a connection; most programs want
// [Dial] instead.
func Encode(b []byte, xid uint32, m any) ([]byte, error) {
	switch m := m.(type) {
	case ofp.Part[FlowStat]:
		return encodeParts(b, xid, ofp.MultipartFlow, m, appendFlowStat)
	case ofp.Part[Group]:
		return encodeParts(b, xid, ofp.MultipartGroupDesc, m, appendGroupDesc)
	case ofp.Part[Meter]:
		return encodeParts(b, xid, ofp.MultipartMeterConfig, m, appendMeterConfig)
	case ofp.Part[Port]:
		return encodeParts(b, xid, ofp.MultipartPortDesc, m, func(b []byte, p *Port) ([]byte, error) {
			return appendPort(b, p), nil
		})
	}
	start := len(b)
	typ, out, err := appendBody(appendZeros(b, ofp.HeaderLen), xid, m)
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

// appendBody appends what follows m's header, and names its type.
func appendBody(b []byte, xid uint32, m any) (typ uint8, _ []byte, err error) {
	switch m := m.(type) {
	case FlowMod:
		b, err = appendFlowMod(b, &m)
		return ofp.TypeFlowMod, b, err
	case GroupMod:
		b, err = appendGroupMod(b, &m)
		return ofp.TypeGroupMod, b, err
	case MeterMod:
		b, err = appendMeterMod(b, &m)
		return ofp.TypeMeterMod, b, err
	case ofp.MeterConfigRequest, ofp.MeterFeaturesRequest, ofp.MeterFeatures:
		typ, b = appendMeterRequest(b, m)
		return typ, b, nil
	case PacketIn:
		b, err = appendPacketIn(b, &m)
		return ofp.TypePacketIn, b, err
	case PacketOut:
		b, err = appendPacketOut(b, &m)
		return ofp.TypePacketOut, b, err
	case FlowRemoved:
		b, err = appendFlowRemoved(b, &m)
		return ofp.TypeFlowRemoved, b, err
	case PortStatus:
		b = append(b, byte(m.Reason), 0, 0, 0, 0, 0, 0, 0)
		return ofp.TypePortStatus, appendPort(b, &m.Port), nil
	case *SwitchError:
		return ofp.TypeError, appendError(b, m), nil
	case FlowFilter:
		b, err = appendFlowFilter(b, &m)
		return ofp.TypeMultipartRequest, b, err
	case ofp.GroupDescRequest:
		return ofp.TypeMultipartRequest, binary.BigEndian.AppendUint64(b, ofp.MultipartGroupDesc<<48), nil
	case ofp.PortDescRequest:
		return ofp.TypeMultipartRequest, binary.BigEndian.AppendUint64(b, ofp.MultipartPortDesc<<48), nil
	case ofp.BundleControl, ofp.BundleAdd:
		b, err = appendBundle(b, xid, m)
		return ofp.TypeExperimenter, b, err
	}
	return appendPlain(b, m)
}

// appendPlain is appendBody for the messages that carry no table entries.
func appendPlain(b []byte, m any) (typ uint8, _ []byte, err error) {
	be := binary.BigEndian
	switch m := m.(type) {
	case ofp.Hello:
		b = be.AppendUint32(b, 1<<16|8) // OFPHET_VERSIONBITMAP
		return ofp.TypeHello, be.AppendUint32(b, m.Bitmap), nil
	case ofp.EchoRequest:
		return ofp.TypeEchoRequest, append(b, m.Data...), nil
	case ofp.EchoReply:
		return ofp.TypeEchoReply, append(b, m.Data...), nil
	case ofp.FeaturesRequest:
		return ofp.TypeFeaturesRequest, b, nil
	case ofp.FeaturesReply:
		b = be.AppendUint64(b, m.DatapathID)
		b = be.AppendUint32(b, m.Buffers)
		b = append(b, m.Tables, 0, 0, 0)
		b = be.AppendUint32(b, m.Capabilities)
		return ofp.TypeFeaturesReply, appendZeros(b, 4), nil
	case ofp.ConfigRequest:
		return ofp.TypeGetConfigRequest, b, nil
	case ofp.ConfigReply:
		return ofp.TypeGetConfigReply, be.AppendUint16(be.AppendUint16(b, m.Flags), m.MissSendLen), nil
	case ofp.SetConfig:
		return ofp.TypeSetConfig, be.AppendUint16(be.AppendUint16(b, m.Flags), m.MissSendLen), nil
	case ofp.BarrierRequest:
		return ofp.TypeBarrierRequest, b, nil
	case ofp.BarrierReply:
		return ofp.TypeBarrierReply, b, nil
	case ofp.Unknown:
		return m.Type, append(b, m.Body...), nil
	}
	return 0, nil, errors.New("no OpenFlow message")
}

func appendError(b []byte, e *SwitchError) []byte {
	b = binary.BigEndian.AppendUint16(b, e.Type)
	b = binary.BigEndian.AppendUint16(b, e.Code)
	if e.Type == ErrTypeExperimenter {
		b = binary.BigEndian.AppendUint32(b, e.Experimenter)
	}
	return append(b, e.Request...)
}

// Decode reads one whole message, with header, and returns one of the values that
// Encode takes, by value. Frames and other byte slices in it alias b. A message of
// a type that is not known is no error; what is malformed is, and when it is a
// request that a switch would refuse, the error unwraps to the *SwitchError that
// says why.
func Decode(b []byte) (xid uint32, m any, err error) {
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

func decodeBody(h ofp.Header, c *ofp.Cursor) (any, error) {
	switch h.Type {
	case ofp.TypeHello:
		return decodeHello(h.Version, c), nil
	case ofp.TypeError:
		return decodeError(c), nil
	case ofp.TypeEchoRequest:
		return ofp.EchoRequest{Data: c.Rest()}, nil
	case ofp.TypeEchoReply:
		return ofp.EchoReply{Data: c.Rest()}, nil
	case ofp.TypeExperimenter:
		return decodeExperimenter(h, c)
	case ofp.TypeFeaturesRequest:
		return ofp.FeaturesRequest{}, nil
	case ofp.TypeFeaturesReply:
		r := ofp.FeaturesReply{DatapathID: c.U64(), Buffers: c.U32(), Tables: c.U8()}
		c.Skip(3)
		r.Capabilities = c.U32()
		c.Skip(4)
		return r, nil
	case ofp.TypeGetConfigRequest:
		return ofp.ConfigRequest{}, nil
	case ofp.TypeGetConfigReply:
		return ofp.ConfigReply{Flags: c.U16(), MissSendLen: c.U16()}, nil
	case ofp.TypeSetConfig:
		return ofp.SetConfig{Flags: c.U16(), MissSendLen: c.U16()}, nil
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
	case ofp.TypeBarrierRequest:
		return ofp.BarrierRequest{}, nil
	case ofp.TypeBarrierReply:
		return ofp.BarrierReply{}, nil
	}
	return ofp.Unknown{Type: h.Type, Body: c.Rest()}, nil
}

// decodeHello reads the version bitmap, if there is one, and skips other elements.
func decodeHello(version uint8, c *ofp.Cursor) ofp.Hello {
	hello := ofp.Hello{Version: version}
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
