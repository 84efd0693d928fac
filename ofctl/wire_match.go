package ofctl

import (
	"encoding/binary"
	"slices"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// Refusals that a decoder answers to what it cannot read. They are never changed.
var (
	errBadLength       = &SwitchError{Type: ErrTypeBadRequest, Code: 6}
	errBadMatchLen     = &SwitchError{Type: ErrTypeBadMatch, Code: 1}
	errUnknownField    = &SwitchError{Type: ErrTypeBadMatch, Code: 6}
	errBadValue        = &SwitchError{Type: ErrTypeBadMatch, Code: 7}
	errDupField        = &SwitchError{Type: ErrTypeBadMatch, Code: 10}
	errUnknownAction   = &SwitchError{Type: ErrTypeBadAction, Code: 0}
	errBadActionLen    = &SwitchError{Type: ErrTypeBadAction, Code: 1}
	errBadInstrLen     = &SwitchError{Type: ErrTypeBadInstruction, Code: 7}
	errBadTableFeature = &SwitchError{Type: ErrTypeTableFeaturesFailed, Code: 3}
	errDupInstr        = &SwitchError{Type: ErrTypeBadInstruction, Code: 9}
)

const matchTypeOXM = 1

// pad8 is how many zero bytes bring n to a multiple of 8.
func pad8(n int) int { return -n & 7 }

func appendZeros(b []byte, n int) []byte {
	var zeros [64]byte
	return append(b, zeros[:n]...)
}

// appendField appends f as an OXM.
func appendField(b []byte, f Field) []byte {
	fi, w := f.kind.info(), f.kind.Width()
	b = binary.BigEndian.AppendUint16(b, fi.class)
	if !f.masked {
		b = append(b, fi.num<<1, byte(w))
		return append(b, f.value[:w]...)
	}
	b = append(b, fi.num<<1|1, byte(2*w))
	b = append(b, f.value[:w]...)
	return append(b, f.mask[:w]...)
}

// appendMatch appends m as an ofp_match with its padding. It checks m first, so
// that a mistake is named here and not by a switch's error code.
func appendMatch(b []byte, m Match) ([]byte, error) {
	c := m.Canonical()
	if err := c.Check(); err != nil {
		return nil, err
	}
	return appendCanonical(b, c), nil
}

// appendCanonical is appendMatch for a match that is canonical and checked.
func appendCanonical(b []byte, c Match) []byte {
	start := len(b)
	b = append(b, 0, matchTypeOXM, 0, 0)
	for _, f := range c {
		b = appendField(b, f)
	}
	n := len(b) - start
	binary.BigEndian.PutUint16(b[start+2:], uint16(n))
	return appendZeros(b, pad8(n))
}

// kindOf is the kind with this class and number, or 0.
func kindOf(class uint16, num uint8) FieldKind {
	for k := range fields {
		if fi := &fields[k]; fi.bits != 0 && fi.num == num && fi.class == class {
			return FieldKind(k)
		}
	}
	return 0
}

// oxm is one OXM as it stands on the wire; payload is value and mask.
type oxm struct {
	class   uint16
	num     uint8
	masked  bool
	payload []byte
}

func takeOXM(c *ofp.Cursor) oxm {
	class, num := c.U16(), c.U8()
	return oxm{class: class, num: num >> 1, masked: num&1 == 1, payload: c.Take(int(c.U8()))}
}

// field turns o into a Field; ok is false for a field that has no kind here.
func (o oxm) field() (f Field, ok bool, err error) {
	k := kindOf(o.class, o.num)
	if k == 0 {
		return Field{}, false, nil
	}
	w := k.Width()
	want := w
	if o.masked {
		want = 2 * w
	}
	if len(o.payload) != want {
		return Field{}, false, errBadMatchLen
	}
	f = Field{kind: k, masked: o.masked}
	copy(f.value[:], o.payload[:w])
	if o.masked {
		copy(f.mask[:], o.payload[w:])
		for i := range w {
			if f.value[i]&^f.mask[i] != 0 {
				return Field{}, false, errBadValue
			}
		}
	}
	return f, true, nil
}

// takeMatchBody reads the OXMs of an ofp_match, without its header and padding.
func takeMatchBody(c *ofp.Cursor) (ofp.Cursor, error) {
	typ, n := c.U16(), int(c.U16())
	if c.Short() || typ != matchTypeOXM || n < 4 {
		return ofp.Cursor{}, errBadMatchLen
	}
	body := c.Take(n - 4)
	c.Skip(pad8(n))
	if c.Short() {
		return ofp.Cursor{}, errBadMatchLen
	}
	return ofp.NewCursor(body), nil
}

// takeMatch reads an ofp_match in canonical form. partial says that it had fields
// that have no kind here.
func takeMatch(c *ofp.Cursor) (m Match, partial bool, err error) {
	body, err := takeMatchBody(c)
	if err != nil {
		return nil, false, err
	}
	var seen [kindCount]bool
	for body.Len() > 0 {
		o := takeOXM(&body)
		if body.Short() {
			return nil, false, errBadMatchLen
		}
		f, ok, err := o.field()
		switch {
		case err != nil:
			return nil, false, err
		case !ok:
			partial = true
			continue
		case seen[f.kind]:
			return nil, false, errDupField
		}
		seen[f.kind] = true
		if f, ok := f.canonical(); ok {
			if m == nil {
				m = make(Match, 0, 12)
			}
			m = append(m, f)
		}
	}
	slices.SortFunc(m, func(a, b Field) int { return int(a.kind) - int(b.kind) })
	return m, partial, nil
}

// takeInPort reads only the in_port of an ofp_match, without allocating: all that
// a packet-in has to say.
func takeInPort(c *ofp.Cursor) (uint32, error) {
	body, err := takeMatchBody(c)
	if err != nil {
		return 0, err
	}
	fi := KindInPort.info()
	for body.Len() > 0 {
		o := takeOXM(&body)
		if body.Short() {
			return 0, errBadMatchLen
		}
		if o.class == fi.class && o.num == fi.num && !o.masked && len(o.payload) == 4 {
			return binary.BigEndian.Uint32(o.payload), nil
		}
	}
	return 0, nil
}
