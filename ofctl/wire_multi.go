package ofctl

import (
	"encoding/binary"
	"fmt"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// Sizes of a multipart message's header and the flag that says that more follow
// (OpenFlow 1.3.5, section 7.3.5).
const (
	multipartHeaderLen = ofp.HeaderLen + 8
	multipartMore      = 1
)

func appendFlowFilter(b []byte, f *FlowFilter) ([]byte, error) {
	be := binary.BigEndian
	b = be.AppendUint64(b, ofp.MultipartFlow<<48)
	b = append(b, f.Table, 0, 0, 0)
	b = be.AppendUint32(b, PortAny)
	b = be.AppendUint32(b, GroupAny)
	b = appendZeros(b, 4)
	b = be.AppendUint64(b, f.Cookie&f.CookieMask)
	b = be.AppendUint64(b, f.CookieMask)
	return appendMatch(b, f.Match)
}

// encodeParts appends p's items as one or more multipart replies, all but the last
// with the flag that more follow.
func encodeParts[T any](b []byte, xid uint32, typ uint16, p ofp.Part[T],
	item func([]byte, *T) ([]byte, error)) ([]byte, error) {
	start := len(b)
	begin := func(out []byte) []byte {
		out = appendZeros(out, ofp.HeaderLen)
		return binary.BigEndian.AppendUint64(out, uint64(typ)<<48)
	}
	end := func(out []byte, at int, more bool) {
		putHeader(out[at:], ofp.TypeMultipartReply, xid)
		if more {
			out[at+ofp.HeaderLen+3] = multipartMore
		}
	}
	out, at := begin(b), start
	var one []byte
	for i := range p.Items {
		var err error
		if one, err = item(one[:0], &p.Items[i]); err != nil {
			return b, fmt.Errorf("ofctl: encode %T: %w", p.Items[i], err)
		}
		if len(one)+multipartHeaderLen > ofp.MaxMessage {
			return b, fmt.Errorf("ofctl: encode %T: %w", p.Items[i], errTooLong)
		}
		if len(out)-at+len(one) > ofp.MaxMessage {
			end(out, at, true)
			at = len(out)
			out = begin(out)
		}
		out = append(out, one...)
	}
	end(out, at, p.More)
	return out, nil
}

func appendFlowStat(b []byte, s *FlowStat) ([]byte, error) {
	be, start := binary.BigEndian, len(b)
	b = appendZeros(b, 2)
	b = append(b, s.Table, 0)
	b = be.AppendUint32(b, s.AgeSeconds)
	b = be.AppendUint32(b, s.AgeNanosecs)
	b = be.AppendUint16(b, s.Priority)
	b = be.AppendUint16(b, s.IdleTimeout)
	b = be.AppendUint16(b, s.HardTimeout)
	b = be.AppendUint16(b, flowFlags(&s.Flow))
	b = appendZeros(b, 4)
	b = be.AppendUint64(b, s.Cookie)
	b = be.AppendUint64(b, s.Packets)
	b = be.AppendUint64(b, s.Bytes)
	b, err := appendMatch(b, s.Match)
	if err != nil {
		return nil, err
	}
	b = appendInstructions(b, &s.Flow)
	return endItem(b, start)
}

// endItem fills in the 16-bit length that an item starts with.
func endItem(b []byte, start int) ([]byte, error) {
	if len(b)-start > ofp.MaxMessage {
		return nil, errTooLong
	}
	binary.BigEndian.PutUint16(b[start:], uint16(len(b)-start))
	return b, nil
}

func appendGroupDesc(b []byte, g *Group) ([]byte, error) {
	start := len(b)
	b = appendZeros(b, 2)
	b = append(b, byte(g.Type), 0)
	b = binary.BigEndian.AppendUint32(b, g.ID)
	b, err := appendBuckets(b, g.Buckets)
	if err != nil {
		return nil, err
	}
	return endItem(b, start)
}

func decodeMultipartRequest(h ofp.Header, c *ofp.Cursor) (any, error) {
	whole := *c
	typ := c.U16()
	c.Skip(6)
	switch typ {
	case ofp.MultipartGroupDesc:
		return ofp.GroupDescRequest{}, nil
	case ofp.MultipartPortDesc:
		return ofp.PortDescRequest{}, nil
	case ofp.MultipartMeterConfig:
		id := c.U32()
		if c.Skip(4); id == MeterAll {
			return ofp.MeterConfigRequest{}, nil
		}
	case ofp.MultipartMeterFeatures:
		return ofp.MeterFeaturesRequest{}, nil
	case ofp.MultipartFlow:
		f := FlowFilter{Table: c.U8()}
		c.Skip(3 + 4 + 4 + 4)
		f.Cookie, f.CookieMask = c.U64(), c.U64()
		if c.Short() {
			return nil, errBadLength
		}
		m, partial, err := takeMatch(c)
		if err == nil && partial {
			err = errUnknownField
		}
		f.Match = m
		return f, err
	}
	return ofp.Unknown{Type: h.Type, Body: whole.Rest()}, nil
}

func decodeMultipartReply(h ofp.Header, c *ofp.Cursor) (any, error) {
	whole := *c
	typ, more := c.U16(), c.U16()&multipartMore != 0
	c.Skip(4)
	switch typ {
	case ofp.MultipartFlow:
		return decodePart(c, more, takeFlowStat)
	case ofp.MultipartGroupDesc:
		return decodePart(c, more, takeGroupDesc)
	case ofp.MultipartPortDesc:
		return decodePart(c, more, takePort)
	case ofp.MultipartMeterConfig:
		return decodePart(c, more, takeMeterConfig)
	case ofp.MultipartMeterFeatures:
		return takeMeterFeatures(c), nil
	}
	return ofp.Unknown{Type: h.Type, Body: whole.Rest()}, nil
}

func decodePart[T any](c *ofp.Cursor, more bool, item func(*ofp.Cursor) (T, error)) (any, error) {
	p := ofp.Part[T]{More: more}
	for c.Len() > 0 {
		v, err := item(c)
		if err != nil {
			return nil, err
		}
		p.Items = append(p.Items, v)
	}
	return p, nil
}

func takeFlowStat(c *ofp.Cursor) (s FlowStat, err error) {
	b := ofp.NewCursor(c.Take(int(c.U16()) - 2))
	s.Table = b.U8()
	b.Skip(1)
	s.AgeSeconds, s.AgeNanosecs = b.U32(), b.U32()
	s.Priority, s.IdleTimeout, s.HardTimeout = b.U16(), b.U16(), b.U16()
	s.SendFlowRemoved = b.U16()&flagSendFlowRem != 0
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

// appendBundle appends the body of EXT-230's two messages.
func appendBundle(b []byte, xid uint32, m any) ([]byte, error) {
	be := binary.BigEndian
	b = be.AppendUint32(b, ofp.ExperimenterONF)
	switch m := m.(type) {
	case ofp.BundleControl:
		b = be.AppendUint32(b, ofp.BundleControlType)
		b = be.AppendUint32(b, m.ID)
		b = be.AppendUint16(b, m.Type)
		b = be.AppendUint16(b, m.Flags)
	case ofp.BundleAdd:
		b = be.AppendUint32(b, ofp.BundleAddType)
		b = be.AppendUint32(b, m.ID)
		b = appendZeros(b, 2)
		b = be.AppendUint16(b, m.Flags)
		return Encode(b, xid, m.Mod)
	}
	return b, nil
}

func decodeExperimenter(h ofp.Header, c *ofp.Cursor) (any, error) {
	whole := *c
	experimenter, typ := c.U32(), c.U32()
	if experimenter != ofp.ExperimenterONF || c.Short() {
		return ofp.Unknown{Type: h.Type, Body: whole.Rest()}, nil
	}
	switch typ {
	case ofp.BundleControlType:
		return ofp.BundleControl{ID: c.U32(), Type: c.U16(), Flags: c.U16()}, nil
	case ofp.BundleAddType:
		a := ofp.BundleAdd{ID: c.U32()}
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
		var err error
		_, a.Mod, err = Decode(inner)
		return a, err
	}
	return ofp.Unknown{Type: h.Type, Body: whole.Rest()}, nil
}
