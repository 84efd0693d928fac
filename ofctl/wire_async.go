package ofctl

import (
	"encoding/binary"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

func (p PacketIn) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	be := binary.BigEndian
	b = be.AppendUint32(b, NoBuffer)
	b = be.AppendUint16(b, uint16(p.TotalLen))
	b = append(b, p.Reason, p.Table)
	b = be.AppendUint64(b, p.Cookie)
	b, err := appendMatch(b, Match{InPort(p.InPort)})
	if err != nil {
		return 0, nil, err
	}
	b = appendZeros(b, 2)
	return ofp.TypePacketIn, append(b, p.Frame...), nil
}

// decodePacketIn's Frame aliases the message.
func decodePacketIn(c *ofp.Cursor) (Message, error) {
	var p PacketIn
	c.Skip(4)
	p.TotalLen = int(c.U16())
	p.Reason, p.Table, p.Cookie = c.U8(), c.U8(), c.U64()
	var err error
	if p.InPort, err = takeInPort(c); err != nil {
		return nil, err
	}
	c.Skip(2)
	if c.Short() {
		return nil, errBadLength
	}
	p.Frame = c.Rest()
	return p, nil
}

func (p PacketOut) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	be := binary.BigEndian
	inPort := p.InPort
	if inPort == 0 {
		inPort = PortController
	}
	if err := checkFreeActions(p.Actions); err != nil {
		return 0, nil, err
	}
	b = be.AppendUint32(b, NoBuffer)
	b = be.AppendUint32(b, inPort)
	start := len(b)
	b = appendZeros(b, 8)
	b = appendActions(b, p.Actions)
	be.PutUint16(b[start:], uint16(len(b)-start-8))
	return ofp.TypePacketOut, append(b, p.Frame...), nil
}

// decodePacketOut's Frame aliases the message.
func decodePacketOut(c *ofp.Cursor) (Message, error) {
	if c.U32() != NoBuffer {
		return nil, &SwitchError{Type: ErrTypeBadRequest, Code: 8}
	}
	p := PacketOut{InPort: c.U32()}
	n := int(c.U16())
	c.Skip(6)
	body := ofp.NewCursor(c.Take(n))
	if c.Short() {
		return nil, errBadLength
	}
	actions, partial, err := takeActions(&body)
	if err == nil && partial {
		err = errUnknownAction
	}
	p.Actions, p.Frame = actions, c.Rest()
	return p, err
}

func (r FlowRemoved) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	be, f := binary.BigEndian, &r.Flow
	b = be.AppendUint64(b, f.Cookie)
	b = be.AppendUint16(b, f.Priority)
	b = append(b, byte(r.Reason), f.Table)
	b = be.AppendUint32(b, r.DurationSeconds)
	b = be.AppendUint32(b, r.DurationNanosecs)
	b = be.AppendUint16(b, f.IdleTimeout)
	b = be.AppendUint16(b, f.HardTimeout)
	b = be.AppendUint64(b, r.Packets)
	b = be.AppendUint64(b, r.Bytes)
	b, err := appendMatch(b, f.Match)
	return ofp.TypeFlowRemoved, b, err
}

func (e Refused) appendBody(b []byte, xid uint32) (uint8, []byte, error) {
	return e.Err.appendBody(b, xid)
}

func decodeFlowRemoved(c *ofp.Cursor) (Message, error) {
	var r FlowRemoved
	f := &r.Flow
	f.Cookie, f.Priority = c.U64(), c.U16()
	r.Reason, f.Table = RemovedReason(c.U8()), c.U8()
	r.DurationSeconds, r.DurationNanosecs = c.U32(), c.U32()
	f.IdleTimeout, f.HardTimeout = c.U16(), c.U16()
	r.Packets, r.Bytes = c.U64(), c.U64()
	if c.Short() {
		return nil, errBadLength
	}
	f.SendFlowRemoved = true
	var err error
	f.Match, _, err = takeMatch(c)
	return r, err
}
