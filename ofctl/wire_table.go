package ofctl

import (
	"encoding/binary"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// Types of a table's properties (section 7.3.5.5.2). Those of the table-miss flow are
// one more than those of all flows.
const (
	propInstructions = 0
	propNextTables   = 2
	propWriteActions = 4
	propApplyActions = 6
	propMatch        = 8
	propWildcards    = 10
	propWriteFields  = 12
	propApplyFields  = 14
)

const tableNameLen = 32

func (TableFeatures) multipart() uint16 { return ofp.MultipartTableFeatures }

func (t TableFeatures) appendItem(b []byte) ([]byte, error) {
	start := len(b)
	b = append(appendZeros(b, 2), t.Table, 0, 0, 0, 0, 0)
	b = appendName(b, t.Name, tableNameLen)
	b = append64(b, t.MetadataMatch, t.MetadataWrite)
	b = append32(b, t.Config, t.MaxEntries)
	b = t.Hit.appendProperties(b, 0)
	b = t.Miss.appendProperties(b, 1)
	b = appendProperty(b, propMatch, oxmBytes(t.Match), 0)
	b = appendProperty(b, propWildcards, oxmBytes(t.Wildcards), 0)
	return endItem(b, start)
}

// appendProperties appends what a has; miss is 1 for the table-miss flow's.
func (a *TableAbility) appendProperties(b []byte, miss uint16) []byte {
	b = appendProperty(b, propInstructions|miss, typeBytes(a.Instructions), miss)
	b = appendProperty(b, propNextTables|miss, a.Next, miss)
	b = appendProperty(b, propWriteActions|miss, typeBytes(a.WriteActions), miss)
	b = appendProperty(b, propApplyActions|miss, typeBytes(a.ApplyActions), miss)
	b = appendProperty(b, propWriteFields|miss, oxmBytes(a.WriteFields), miss)
	return appendProperty(b, propApplyFields|miss, oxmBytes(a.ApplyFields), miss)
}

// appendProperty appends a property with its padding. Those of the table-miss flow are
// left out when they are empty, which the others must not be.
func appendProperty(b []byte, typ uint16, body []byte, miss uint16) []byte {
	if len(body) == 0 && miss != 0 {
		return b
	}
	n := 4 + len(body)
	b = append32(b, uint32(typ)<<16|uint32(n))
	return appendZeros(append(b, body...), pad8(n))
}

// typeBytes are types of instructions or actions, each with the length of its head.
func typeBytes(types []uint16) []byte {
	var b []byte
	for _, t := range types {
		b = append32(b, uint32(t)<<16|4)
	}
	return b
}

func oxmBytes(fields []OXM) []byte {
	var b []byte
	for _, o := range fields {
		b = binary.BigEndian.AppendUint32(b, uint32(o))
	}
	return b
}

func takeTableFeatures(c *ofp.Cursor) (t TableFeatures, err error) {
	b := ofp.NewCursor(c.Take(int(c.U16()) - 2))
	t.Table = b.U8()
	b.Skip(5)
	t.Name = takeName(&b, tableNameLen)
	t.MetadataMatch, t.MetadataWrite, t.Config, t.MaxEntries = b.U64(), b.U64(), b.U32(), b.U32()
	for b.Len() > 0 {
		typ, n := b.U16(), int(b.U16())
		body := ofp.NewCursor(b.Take(n - 4))
		b.Skip(min(pad8(n), b.Len()))
		if b.Short() || !t.takeProperty(typ, &body) {
			return t, errBadTableFeature
		}
	}
	if c.Short() || b.Short() {
		return t, errBadLength
	}
	return t, nil
}

// takeProperty reads one property; those that are not known are passed over. It tells
// whether the property was whole.
func (t *TableFeatures) takeProperty(typ uint16, c *ofp.Cursor) bool {
	a := &t.Hit
	if typ&1 == 1 && typ != 0xffff {
		a = &t.Miss
	}
	switch typ &^ 1 {
	case propInstructions:
		a.Instructions = takeTypes(c)
	case propNextTables:
		if a.Next = c.Rest(); len(a.Next) == 0 {
			a.Next = nil
		}
	case propWriteActions:
		a.WriteActions = takeTypes(c)
	case propApplyActions:
		a.ApplyActions = takeTypes(c)
	case propMatch:
		t.Match = takeOXMs(c)
	case propWildcards:
		t.Wildcards = takeOXMs(c)
	case propWriteFields:
		a.WriteFields = takeOXMs(c)
	case propApplyFields:
		a.ApplyFields = takeOXMs(c)
	}
	return !c.Short()
}

// takeTypes reads types to the end of c; experimenters' are passed over.
func takeTypes(c *ofp.Cursor) (types []uint16) {
	for c.Len() > 0 {
		typ, n := c.U16(), int(c.U16())
		c.Skip(n - 4)
		if typ != actionVendor {
			types = append(types, typ)
		}
	}
	return types
}

// takeOXMs reads OXM heads to the end of c; experimenters', which are longer, are
// passed over.
func takeOXMs(c *ofp.Cursor) (fields []OXM) {
	for c.Len() > 0 {
		o := OXM(c.U32())
		if o>>16 == classExperimenter {
			c.Skip(4)
			continue
		}
		fields = append(fields, o)
	}
	return fields
}
