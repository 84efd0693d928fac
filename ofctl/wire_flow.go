package ofctl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// flagSendFlowRem is OFPFF_SEND_FLOW_REM.
const flagSendFlowRem = 1

func flowFlags(f *Flow) uint16 {
	if f.SendFlowRemoved {
		return flagSendFlowRem
	}
	return 0
}

func appendFlowMod(b []byte, m *FlowMod) ([]byte, error) {
	if m.Command > DeleteStrict {
		return nil, fmt.Errorf("flow-mod command %d", m.Command)
	}
	f, be := &m.Flow, binary.BigEndian
	cookie := f.Cookie
	if m.Command >= Delete {
		cookie &= m.CookieMask
	}
	b = be.AppendUint64(b, cookie)
	b = be.AppendUint64(b, m.CookieMask)
	b = append(b, f.Table, byte(m.Command))
	b = be.AppendUint16(b, f.IdleTimeout)
	b = be.AppendUint16(b, f.HardTimeout)
	b = be.AppendUint16(b, f.Priority)
	b = be.AppendUint32(b, NoBuffer)
	b = be.AppendUint32(b, PortAny)
	b = be.AppendUint32(b, GroupAny)
	b = be.AppendUint16(b, flowFlags(f))
	b = appendZeros(b, 2)
	b, err := appendMatch(b, f.Match)
	if err != nil || m.Command >= Delete {
		return b, err
	}
	if err := f.checkInstructions(); err != nil {
		return nil, err
	}
	return appendInstructions(b, f), nil
}

// checkInstructions tells why a switch would refuse f's instructions.
func (f *Flow) checkInstructions() error {
	if f.Goto > 0 && f.Goto <= f.Table {
		return fmt.Errorf("goto_table:%d does not lead on from table %d", f.Goto, f.Table)
	}
	if err := f.Match.checkActions(f.Apply); err != nil {
		return err
	}
	return f.Match.checkActions(f.Write)
}

func decodeFlowMod(c *ofp.Cursor) (any, error) {
	m := FlowMod{Flow: Flow{Cookie: c.U64()}, CookieMask: c.U64()}
	m.Flow.Table, m.Command = c.U8(), Command(c.U8())
	m.Flow.IdleTimeout, m.Flow.HardTimeout, m.Flow.Priority = c.U16(), c.U16(), c.U16()
	c.Skip(12) // buffer, out_port, out_group: vias uses none
	m.Flow.SendFlowRemoved = c.U16()&flagSendFlowRem != 0
	c.Skip(2)
	if c.Short() {
		return nil, errBadLength
	}
	if m.Command > DeleteStrict {
		return nil, &SwitchError{Type: ErrTypeFlowModFailed, Code: 6}
	}
	var partial bool
	var err error
	if m.Flow.Match, partial, err = takeMatch(c); err != nil {
		return nil, err
	}
	if partial {
		return nil, errUnknownField
	}
	if partial, err = takeInstructions(c, &m.Flow); err != nil {
		return nil, err
	}
	if partial {
		return nil, errUnknownAction
	}
	return m, nil
}

func appendGroupMod(b []byte, m *GroupMod) ([]byte, error) {
	command := uint16(0)
	switch m.Command {
	case Add:
	case Modify:
		command = 1
	case Delete:
		command = 2
	default:
		return nil, fmt.Errorf("group-mod command %s", m.Command)
	}
	b = binary.BigEndian.AppendUint16(b, command)
	b = append(b, byte(m.Group.Type), 0)
	b = binary.BigEndian.AppendUint32(b, m.Group.ID)
	if m.Command == Delete {
		return b, nil
	}
	return appendBuckets(b, m.Group.Buckets)
}

func decodeGroupMod(c *ofp.Cursor) (any, error) {
	var m GroupMod
	switch c.U16() {
	case 0:
		m.Command = Add
	case 1:
		m.Command = Modify
	case 2:
		m.Command = Delete
	default:
		return nil, &SwitchError{Type: ErrTypeGroupModFailed, Code: 11}
	}
	m.Group.Type = GroupType(c.U8())
	c.Skip(1)
	m.Group.ID = c.U32()
	if c.Short() {
		return nil, errBadLength
	}
	buckets, partial, err := takeBuckets(c)
	if err == nil && partial {
		err = errUnknownAction
	}
	m.Group.Buckets = buckets
	return m, err
}

func appendBuckets(b []byte, buckets []Bucket) ([]byte, error) {
	be := binary.BigEndian
	for _, k := range buckets {
		for _, a := range k.Actions {
			if a == nil {
				return nil, errors.New("nil action")
			}
			if s, ok := a.(SetField); ok {
				if err := s.check(); err != nil {
					return nil, err
				}
			}
		}
		start := len(b)
		b = appendZeros(b, 2)
		b = be.AppendUint16(b, k.Weight)
		b = be.AppendUint32(b, orAny(k.WatchPort))
		b = be.AppendUint32(b, orAny(k.WatchGroup))
		b = appendZeros(b, 4)
		b = appendActions(b, k.Actions)
		be.PutUint16(b[start:], uint16(len(b)-start))
	}
	return b, nil
}

// orAny is OFPP_ANY and OFPG_ANY for 0, watchAny the reverse.
func orAny(v uint32) uint32 {
	if v == 0 {
		return PortAny
	}
	return v
}

func watchAny(v uint32) uint32 {
	if v == PortAny {
		return 0
	}
	return v
}

// takeBuckets reads buckets to the end of c.
func takeBuckets(c *ofp.Cursor) (buckets []Bucket, partial bool, err error) {
	for c.Len() > 0 {
		n := int(c.U16())
		body := ofp.NewCursor(c.Take(n - 2))
		k := Bucket{Weight: body.U16(), WatchPort: watchAny(body.U32()), WatchGroup: watchAny(body.U32())}
		body.Skip(4)
		if c.Short() || body.Short() {
			return nil, false, &SwitchError{Type: ErrTypeGroupModFailed, Code: 12}
		}
		var unknown bool
		if k.Actions, unknown, err = takeActions(&body); err != nil {
			return nil, false, err
		}
		partial = partial || unknown
		buckets = append(buckets, k)
	}
	return slices.Clip(buckets), partial, nil
}
