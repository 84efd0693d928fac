package ofctl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// Flags of flows (OFPFF_*).
const (
	flagSendFlowRem  = 1 << 0
	flagCheckOverlap = 1 << 1
	flagResetCounts  = 1 << 2
	flagNoPackets    = 1 << 3
	flagNoBytes      = 1 << 4
)

// flags are those that a switch keeps.
func (f *Flow) flags() uint16 {
	return uint16(bit(f.SendFlowRemoved, flagSendFlowRem) | bit(f.NoPacketCounts, flagNoPackets) |
		bit(f.NoByteCounts, flagNoBytes))
}

func (f *Flow) setFlags(flags uint16) {
	f.SendFlowRemoved = flags&flagSendFlowRem != 0
	f.NoPacketCounts, f.NoByteCounts = flags&flagNoPackets != 0, flags&flagNoBytes != 0
}

func (m FlowMod) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	b, err := appendFlowMod(b, &m)
	return ofp.TypeFlowMod, b, err
}

func appendFlowMod(b []byte, m *FlowMod) ([]byte, error) {
	if m.Command > DeleteStrict {
		return nil, fmt.Errorf("flow-mod command %d", m.Command)
	}
	f, be := &m.Flow, binary.BigEndian
	cookie, outPort, outGroup := f.Cookie, PortAny, GroupAny
	if m.Command >= Delete {
		cookie &= m.CookieMask
		outPort, outGroup = orAny(m.OutPort), orAny(m.OutGroup)
	}
	b = be.AppendUint64(b, cookie)
	b = be.AppendUint64(b, m.CookieMask)
	b = append(b, f.Table, byte(m.Command))
	b = be.AppendUint16(b, f.IdleTimeout)
	b = be.AppendUint16(b, f.HardTimeout)
	b = be.AppendUint16(b, f.Priority)
	b = append32(b, NoBuffer, outPort, outGroup)
	b = be.AppendUint16(b, f.flags()|uint16(bit(m.CheckOverlap, flagCheckOverlap)|bit(m.ResetCounts, flagResetCounts)))
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

func decodeFlowMod(c *ofp.Cursor) (Message, error) {
	m := FlowMod{Flow: Flow{Cookie: c.U64()}, CookieMask: c.U64()}
	m.Flow.Table, m.Command = c.U8(), Command(c.U8())
	m.Flow.IdleTimeout, m.Flow.HardTimeout, m.Flow.Priority = c.U16(), c.U16(), c.U16()
	c.Skip(4) // buffer: frames never wait in the switch
	m.OutPort, m.OutGroup = anyZero(c.U32()), anyZero(c.U32())
	if m.Command < Delete {
		m.OutPort, m.OutGroup = 0, 0 // they mean nothing there
	}
	flags := c.U16()
	m.Flow.setFlags(flags)
	m.CheckOverlap, m.ResetCounts = flags&flagCheckOverlap != 0, flags&flagResetCounts != 0
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

func (m GroupMod) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	b, err := appendGroupMod(b, &m)
	return ofp.TypeGroupMod, b, err
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

func decodeGroupMod(c *ofp.Cursor) (Message, error) {
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

// checkFreeActions tells why actions for frames of which nothing is known could stand
// nowhere.
func checkFreeActions(actions []Action) error {
	for _, a := range actions {
		if a == nil {
			return errors.New("nil action")
		}
		if s, ok := a.(SetField); ok {
			if err := s.check(); err != nil {
				return err
			}
		}
	}
	return nil
}

func appendBuckets(b []byte, buckets []Bucket) ([]byte, error) {
	be := binary.BigEndian
	for _, k := range buckets {
		if err := checkFreeActions(k.Actions); err != nil {
			return nil, err
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

// orAny is OFPP_ANY, OFPG_ANY or OFPM_ALL for 0, anyZero the reverse.
func orAny(v uint32) uint32 {
	if v == 0 {
		return PortAny
	}
	return v
}

func anyZero(v uint32) uint32 {
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
		k := Bucket{Weight: body.U16(), WatchPort: anyZero(body.U32()), WatchGroup: anyZero(body.U32())}
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

func (FlowStat) multipart() uint16 { return ofp.MultipartFlow }

func (s FlowStat) appendItem(b []byte) ([]byte, error) {
	be, start := binary.BigEndian, len(b)
	b = appendZeros(b, 2)
	b = append(b, s.Table, 0)
	b = append32(b, s.AgeSeconds, s.AgeNanosecs)
	b = be.AppendUint16(b, s.Priority)
	b = be.AppendUint16(b, s.IdleTimeout)
	b = be.AppendUint16(b, s.HardTimeout)
	b = be.AppendUint16(b, s.flags())
	b = appendZeros(b, 4)
	b = append64(b, s.Cookie, s.Packets, s.Bytes)
	b, err := appendMatch(b, s.Match)
	if err != nil {
		return nil, err
	}
	return endItem(appendInstructions(b, &s.Flow), start)
}

func takeFlowStat(c *ofp.Cursor) (s FlowStat, err error) {
	b := ofp.NewCursor(c.Take(int(c.U16()) - 2))
	s.Table = b.U8()
	b.Skip(1)
	s.AgeSeconds, s.AgeNanosecs = b.U32(), b.U32()
	s.Priority, s.IdleTimeout, s.HardTimeout = b.U16(), b.U16(), b.U16()
	s.setFlags(b.U16())
	b.Skip(4)
	s.Cookie, s.Packets, s.Bytes = b.U64(), b.U64(), b.U64()
	if c.Short() || b.Short() {
		return FlowStat{}, errBadLength
	}
	m, partialMatch, err := takeMatch(&b)
	if err != nil {
		return FlowStat{}, err
	}
	s.Match = m
	partial, err := takeInstructions(&b, &s.Flow)
	s.Partial = partial || partialMatch
	return s, err
}

// appendFlowFilter appends a request about flows, for their list or their sum.
func appendFlowFilter(b []byte, typ uint16, f *FlowFilter) ([]byte, error) {
	b = append64(b, uint64(typ)<<48)
	b = append(b, f.Table, 0, 0, 0)
	b = append32(b, orAny(f.OutPort), orAny(f.OutGroup), 0)
	b = append64(b, f.Cookie&f.CookieMask, f.CookieMask)
	return appendMatch(b, f.Match)
}

func takeFlowFilter(c *ofp.Cursor) (FlowFilter, error) {
	f := FlowFilter{Table: c.U8()}
	c.Skip(3)
	f.OutPort, f.OutGroup = anyZero(c.U32()), anyZero(c.U32())
	c.Skip(4)
	f.Cookie, f.CookieMask = c.U64(), c.U64()
	if c.Short() {
		return FlowFilter{}, errBadLength
	}
	m, partial, err := takeMatch(c)
	if err == nil && partial {
		err = errUnknownField
	}
	f.Match = m
	return f, err
}

func (Group) multipart() uint16 { return ofp.MultipartGroupDesc }

func (g Group) appendItem(b []byte) ([]byte, error) {
	start := len(b)
	b = append(appendZeros(b, 2), byte(g.Type), 0)
	b, err := appendBuckets(append32(b, g.ID), g.Buckets)
	if err != nil {
		return nil, err
	}
	return endItem(b, start)
}

func takeGroupDesc(c *ofp.Cursor) (g Group, err error) {
	b := ofp.NewCursor(c.Take(int(c.U16()) - 2))
	g.Type = GroupType(b.U8())
	b.Skip(1)
	g.ID = b.U32()
	if c.Short() || b.Short() {
		return Group{}, errBadLength
	}
	g.Buckets, _, err = takeBuckets(&b)
	return g, err
}
