package ofctl

import (
	"encoding/binary"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// Types of actions (OpenFlow 1.3.5, section 7.2.5).
const (
	actionOutput   = 0
	actionPushVLAN = 17
	actionPopVLAN  = 18
	actionSetQueue = 21
	actionGroup    = 22
	actionDecTTL   = 24
	actionSetField = 25
	actionVendor   = 0xffff
)

// NXAST_LEARN, as far as Tether needs it: its length without flow_mod_specs, its
// subtype, NX_LEARN_F_DELETE_LEARNED, and OFP_DEFAULT_PRIORITY.
const (
	learnLen      = 32
	learnSubtype  = 16
	learnDelete   = 2
	learnPriority = 0x8000
)

// etherTypeVLAN is 802.1Q's tag.
const etherTypeVLAN = 0x8100

// Types of instructions (section 7.2.4).
const (
	instrGoto     = 1
	instrMetadata = 2
	instrWrite    = 3
	instrApply    = 4
	instrClear    = 5
)

func appendActions(b []byte, actions []Action) []byte {
	be := binary.BigEndian
	for _, a := range actions {
		switch a := a.(type) {
		case Output:
			maxLen := uint16(0)
			if a.Port == PortController {
				maxLen = a.MaxLen
			}
			b = be.AppendUint32(b, actionOutput<<16|16)
			b = be.AppendUint32(b, a.Port)
			b = be.AppendUint16(b, maxLen)
			b = appendZeros(b, 6)
		case ToGroup:
			b = be.AppendUint32(b, actionGroup<<16|8)
			b = be.AppendUint32(b, a.ID)
		case SetQueue:
			b = append32(b, actionSetQueue<<16|8, a.ID)
		case SetField:
			start := len(b)
			b = be.AppendUint32(b, actionSetField<<16)
			b = appendField(b, a.Field)
			b = appendZeros(b, pad8(len(b)-start))
			be.PutUint16(b[start+2:], uint16(len(b)-start))
		case PushVLAN:
			b = be.AppendUint32(b, actionPushVLAN<<16|8)
			b = be.AppendUint32(b, etherTypeVLAN<<16)
		case PopVLAN:
			b = be.AppendUint32(b, actionPopVLAN<<16|8)
			b = appendZeros(b, 4)
		case DecTTL:
			b = be.AppendUint32(b, actionDecTTL<<16|8)
			b = appendZeros(b, 4)
		case Tether:
			b = appendTether(b, a)
		}
	}
	return b
}

func appendTether(b []byte, a Tether) []byte {
	be := binary.BigEndian
	b = be.AppendUint32(b, actionVendor<<16|learnLen)
	b = be.AppendUint32(b, ofp.ExperimenterNicira)
	b = be.AppendUint64(b, learnSubtype<<48|learnPriority) // and no time-outs
	b = be.AppendUint64(b, a.Cookie)
	b = be.AppendUint16(b, learnDelete)
	b = append(b, a.Table, 0)
	return appendZeros(b, 4) // no time-outs after a FIN
}

// takeTether reads an experimenter's action; nil if it is none, or one that learns.
func takeTether(c *ofp.Cursor) Action {
	if c.U32() != ofp.ExperimenterNicira || c.U64() != learnSubtype<<48|learnPriority {
		return nil
	}
	a := Tether{Cookie: c.U64()}
	flags := c.U16()
	a.Table = c.U8()
	c.Skip(1)
	if fin := c.U32(); flags != learnDelete || fin != 0 || c.Len() > 0 || a.Table == TableAll || c.Short() {
		return nil
	}
	return a
}

// takeActions reads actions to the end of c. partial says that there were some
// that this package has no words for.
func takeActions(c *ofp.Cursor) (actions []Action, partial bool, err error) {
	for c.Len() > 0 {
		typ, n := c.U16(), int(c.U16())
		body := c.Take(n - 4)
		if c.Short() || n%8 != 0 || n < 8 {
			return nil, false, errBadActionLen
		}
		a, err := decodeAction(typ, ofp.NewCursor(body))
		if err != nil {
			return nil, false, err
		}
		if a == nil {
			partial = true
			continue
		}
		if actions == nil {
			actions = make([]Action, 0, 8)
		}
		actions = append(actions, a)
	}
	return actions, partial, nil
}

// decodeAction is nil without an error for an action that is not known.
func decodeAction(typ uint16, c ofp.Cursor) (a Action, err error) {
	switch typ {
	case actionOutput:
		o := Output{Port: c.U32(), MaxLen: c.U16()}
		if o.Port != PortController {
			o.MaxLen = 0
		}
		a = o
	case actionGroup:
		a = ToGroup{ID: c.U32()}
	case actionSetQueue:
		a = SetQueue{ID: c.U32()}
	case actionSetField:
		f, ok, err := takeOXM(&c).field()
		if c.Short() || err != nil {
			return nil, errBadActionLen
		}
		if !ok || f.masked {
			return nil, nil
		}
		a = SetField{Field: f}
	case actionPushVLAN:
		if c.U16() != etherTypeVLAN {
			return nil, nil
		}
		a = PushVLAN{}
	case actionPopVLAN:
		a = PopVLAN{}
	case actionDecTTL:
		a = DecTTL{}
	case actionVendor:
		return takeTether(&c), nil
	default:
		return nil, nil
	}
	if c.Short() {
		return nil, errBadActionLen
	}
	return a, nil
}

// appendInstructions appends f's instructions in the order of their execution.
func appendInstructions(b []byte, f *Flow) []byte {
	be := binary.BigEndian
	actions := func(typ uint16, as []Action) {
		start := len(b)
		b = be.AppendUint16(b, typ)
		b = appendZeros(b, 6)
		b = appendActions(b, as)
		be.PutUint16(b[start+2:], uint16(len(b)-start))
	}
	if f.Meter != 0 {
		b = be.AppendUint32(b, instrMeter<<16|8)
		b = be.AppendUint32(b, f.Meter)
	}
	if len(f.Apply) > 0 {
		actions(instrApply, f.Apply)
	}
	if f.Clear {
		actions(instrClear, nil)
	}
	if len(f.Write) > 0 {
		actions(instrWrite, f.Write)
	}
	if m := f.Metadata; m.Mask != 0 {
		b = be.AppendUint32(b, instrMetadata<<16|24)
		b = appendZeros(b, 4)
		b = be.AppendUint64(b, m.Value&m.Mask)
		b = be.AppendUint64(b, m.Mask)
	}
	if f.Goto > 0 {
		b = be.AppendUint32(b, instrGoto<<16|8)
		b = append(b, f.Goto, 0, 0, 0)
	}
	return b
}

// takeInstructions reads f's instructions to the end of c.
func takeInstructions(c *ofp.Cursor, f *Flow) (partial bool, err error) {
	var seen uint
	for c.Len() > 0 {
		typ, n := c.U16(), int(c.U16())
		body := ofp.NewCursor(c.Take(n - 4))
		if c.Short() || n < 8 {
			return false, errBadInstrLen
		}
		if typ < 8 {
			if seen>>typ&1 == 1 {
				return false, errDupInstr
			}
			seen |= 1 << typ
		}
		unknown, err := takeInstruction(typ, &body, f)
		if err != nil {
			return false, err
		}
		if body.Short() {
			return false, errBadInstrLen
		}
		partial = partial || unknown
	}
	return partial, nil
}

func takeInstruction(typ uint16, c *ofp.Cursor, f *Flow) (unknown bool, err error) {
	switch typ {
	case instrGoto:
		f.Goto = c.U8()
	case instrMetadata:
		c.Skip(4)
		f.Metadata = MetadataWrite{Value: c.U64(), Mask: c.U64()}
		f.Metadata.Value &= f.Metadata.Mask
	case instrWrite:
		c.Skip(4)
		f.Write, unknown, err = takeActions(c)
	case instrApply:
		c.Skip(4)
		f.Apply, unknown, err = takeActions(c)
	case instrClear:
		f.Clear = true
	case instrMeter:
		f.Meter = c.U32()
	default:
		unknown = true
	}
	return unknown, err
}
