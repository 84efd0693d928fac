package ofctl

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

func appendPacketIn(b []byte, p *PacketIn) ([]byte, error) {
	be := binary.BigEndian
	b = be.AppendUint32(b, NoBuffer)
	b = be.AppendUint16(b, uint16(p.TotalLen))
	b = append(b, p.Reason, p.Table)
	b = be.AppendUint64(b, p.Cookie)
	b, err := appendMatch(b, Match{InPort(p.InPort)})
	if err != nil {
		return nil, err
	}
	b = appendZeros(b, 2)
	return append(b, p.Frame...), nil
}

// decodePacketIn's Frame aliases the message.
func decodePacketIn(c *ofp.Cursor) (any, error) {
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

func appendPacketOut(b []byte, p *PacketOut) ([]byte, error) {
	be := binary.BigEndian
	inPort := p.InPort
	if inPort == 0 {
		inPort = PortController
	}
	for _, a := range p.Actions {
		if s, ok := a.(SetField); ok {
			if err := s.check(); err != nil {
				return nil, err
			}
		}
		if a == nil {
			return nil, errors.New("nil action")
		}
	}
	b = be.AppendUint32(b, NoBuffer)
	b = be.AppendUint32(b, inPort)
	start := len(b)
	b = appendZeros(b, 8)
	b = appendActions(b, p.Actions)
	be.PutUint16(b[start:], uint16(len(b)-start-8))
	return append(b, p.Frame...), nil
}

// decodePacketOut's Frame aliases the message.
func decodePacketOut(c *ofp.Cursor) (any, error) {
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

func appendFlowRemoved(b []byte, r *FlowRemoved) ([]byte, error) {
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
	return appendMatch(b, f.Match)
}

func decodeFlowRemoved(c *ofp.Cursor) (any, error) {
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

// Bits of a port's config and state (section 7.2.1).
const (
	portConfigDown = 1
	portStateDown  = 1
	portLen        = 64
	portNameLen    = 16
)

func appendPort(b []byte, p *Port) []byte {
	be := binary.BigEndian
	b = be.AppendUint32(b, p.No)
	b = appendZeros(b, 4)
	b = append(b, p.MAC[:]...)
	b = appendZeros(b, 2)
	var name [portNameLen]byte
	copy(name[:portNameLen-1], p.Name)
	b = append(b, name[:]...)
	var config, state uint32
	if p.Down {
		config = portConfigDown
	}
	if p.NoLink {
		state = portStateDown
	}
	b = be.AppendUint32(b, config)
	b = be.AppendUint32(b, state)
	return appendZeros(b, 24)
}

func takePort(c *ofp.Cursor) (Port, error) {
	b := ofp.NewCursor(c.Take(portLen))
	p := Port{No: b.U32()}
	b.Skip(4)
	copy(p.MAC[:], b.Take(6))
	b.Skip(2)
	name, _, _ := bytes.Cut(b.Take(portNameLen), []byte{0})
	p.Name = string(name)
	p.Down = b.U32()&portConfigDown != 0
	p.NoLink = b.U32()&portStateDown != 0
	if b.Short() {
		return Port{}, errBadLength
	}
	return p, nil
}

func decodePortStatus(c *ofp.Cursor) (any, error) {
	s := PortStatus{Reason: PortReason(c.U8())}
	c.Skip(7)
	var err error
	s.Port, err = takePort(c)
	return s, err
}
