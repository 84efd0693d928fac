package ofctl

import (
	"encoding/binary"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// BundleControl opens, closes, commits or discards a bundle (ONF EXT-230), or answers
// to that. Apply does all of it.
type BundleControl struct {
	ID    uint32
	Type  BundleStep
	Flags uint16 // BundleAtomic, BundleOrdered
}

// BundleStep is OFPBCT_*.
type BundleStep uint16

// Steps of a bundle. Every reply is its request plus one.
const (
	BundleOpen BundleStep = iota
	BundleOpenReply
	BundleClose
	BundleCloseReply
	BundleCommit
	BundleCommitReply
	BundleDiscard
	BundleDiscardReply
)

// Flags of bundles: all or nothing, and in the order given.
const (
	BundleAtomic  uint16 = 1
	BundleOrdered uint16 = 2
)

// BundleAdd puts a modification into a bundle. It has the xid of the message that
// carries it.
type BundleAdd struct {
	ID    uint32
	Flags uint16
	Mod   Mod
}

func (m BundleControl) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	be := binary.BigEndian
	b = be.AppendUint32(b, ofp.ExperimenterONF)
	b = be.AppendUint32(b, ofp.BundleControlType)
	b = be.AppendUint32(b, m.ID)
	b = be.AppendUint16(b, uint16(m.Type))
	return ofp.TypeExperimenter, be.AppendUint16(b, m.Flags), nil
}

func (m BundleAdd) appendBody(b []byte, xid uint32) (uint8, []byte, error) {
	be := binary.BigEndian
	b = be.AppendUint32(b, ofp.ExperimenterONF)
	b = be.AppendUint32(b, ofp.BundleAddType)
	b = be.AppendUint32(b, m.ID)
	b = appendZeros(b, 2)
	b = be.AppendUint16(b, m.Flags)
	b, err := Encode(b, xid, m.Mod)
	return ofp.TypeExperimenter, b, err
}

func decodeExperimenter(h ofp.Header, c *ofp.Cursor) (Message, error) {
	whole := *c
	experimenter, typ := c.U32(), c.U32()
	switch {
	case c.Short():
		*c = whole
		return Unknown{Type: h.Type, Body: c.Rest()}, nil
	case experimenter != ofp.ExperimenterONF:
	case typ == ofp.BundleControlType:
		return BundleControl{ID: c.U32(), Type: BundleStep(c.U16()), Flags: c.U16()}, nil
	case typ == ofp.BundleAddType:
		return decodeBundleAdd(c)
	}
	return Experimenter{ID: experimenter, Type: typ, Data: c.Rest()}, nil
}

func decodeBundleAdd(c *ofp.Cursor) (Message, error) {
	a := BundleAdd{ID: c.U32()}
	c.Skip(2)
	a.Flags = c.U16()
	// Properties may follow the message; Open vSwitch has none.
	inner := c.Rest()
	if len(inner) < ofp.HeaderLen {
		return nil, errBadLength
	}
	if t := ofp.ParseHeader(inner).Type; t != ofp.TypeFlowMod && t != ofp.TypeGroupMod {
		return nil, &SwitchError{Type: ErrTypeExperimenter, Code: bundleMsgUnsup, Experimenter: ofp.ExperimenterONF}
	}
	_, m, err := Decode(inner)
	if err != nil {
		return nil, err
	}
	a.Mod, _ = m.(Mod) // both types are
	return a, nil
}
