package ofctl

import (
	"encoding/binary"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// Sizes of a multipart message's header and the flag that says that more follow
// (OpenFlow 1.3.5, section 7.3.5).
const (
	multipartHeaderLen = ofp.HeaderLen + 8
	multipartMore      = 1
)

// question appends a request with this multipart type and body.
func question(b []byte, typ uint16, body ...uint32) (uint8, []byte, error) {
	return ofp.TypeMultipartRequest, append32(append64(b, uint64(typ)<<48), body...), nil
}

func (DescRequest) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return question(b, ofp.MultipartDesc)
}

func (f FlowFilter) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	b, err := appendFlowFilter(b, ofp.MultipartFlow, &f)
	return ofp.TypeMultipartRequest, b, err
}

func (m AggregateRequest) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	b, err := appendFlowFilter(b, ofp.MultipartAggregate, &m.FlowFilter)
	return ofp.TypeMultipartRequest, b, err
}

func (TableStatsRequest) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return question(b, ofp.MultipartTable)
}

func (m PortStatsRequest) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return question(b, ofp.MultipartPortStats, orAny(m.Port), 0)
}

func (m QueueStatsRequest) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return question(b, ofp.MultipartQueue, orAny(m.Port), m.Queue)
}

func (m GroupStatsRequest) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return question(b, ofp.MultipartGroup, m.Group, 0)
}

func (GroupDescRequest) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return question(b, ofp.MultipartGroupDesc)
}

func (GroupFeaturesRequest) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return question(b, ofp.MultipartGroupFeatures)
}

func (m MeterStatsRequest) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return question(b, ofp.MultipartMeter, orAny(m.ID), 0)
}

func (m MeterConfigRequest) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return question(b, ofp.MultipartMeterConfig, orAny(m.ID), 0)
}

func (MeterFeaturesRequest) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return question(b, ofp.MultipartMeterFeatures)
}

func (TableFeaturesRequest) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return question(b, ofp.MultipartTableFeatures)
}

func (PortDescRequest) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return question(b, ofp.MultipartPortDesc)
}

func (FeaturesRequest) answer(rs []Message) (FeaturesReply, error) { return one[FeaturesReply](rs) }
func (ConfigRequest) answer(rs []Message) (ConfigReply, error)     { return one[ConfigReply](rs) }
func (EchoRequest) answer(rs []Message) (EchoReply, error)         { return one[EchoReply](rs) }
func (BarrierRequest) answer(rs []Message) (BarrierReply, error)   { return one[BarrierReply](rs) }
func (RoleRequest) answer(rs []Message) (RoleReply, error)         { return one[RoleReply](rs) }
func (AsyncRequest) answer(rs []Message) (AsyncReply, error)       { return one[AsyncReply](rs) }
func (DescRequest) answer(rs []Message) (Desc, error)              { return one[Desc](rs) }
func (FlowFilter) answer(rs []Message) ([]FlowStat, error)         { return items[FlowStat](rs) }
func (AggregateRequest) answer(rs []Message) (Aggregate, error)    { return one[Aggregate](rs) }
func (TableStatsRequest) answer(rs []Message) ([]TableStat, error) { return items[TableStat](rs) }
func (PortDescRequest) answer(rs []Message) ([]Port, error)        { return items[Port](rs) }
func (PortStatsRequest) answer(rs []Message) ([]PortStat, error)   { return items[PortStat](rs) }
func (QueueStatsRequest) answer(rs []Message) ([]QueueStat, error) { return items[QueueStat](rs) }
func (GroupStatsRequest) answer(rs []Message) ([]GroupStat, error) { return items[GroupStat](rs) }
func (GroupDescRequest) answer(rs []Message) ([]Group, error)      { return items[Group](rs) }
func (GroupFeaturesRequest) answer(rs []Message) (GroupFeatures, error) {
	return one[GroupFeatures](rs)
}
func (MeterStatsRequest) answer(rs []Message) ([]MeterStat, error) { return items[MeterStat](rs) }
func (MeterConfigRequest) answer(rs []Message) ([]Meter, error)    { return items[Meter](rs) }
func (MeterFeaturesRequest) answer(rs []Message) (MeterFeatures, error) {
	return one[MeterFeatures](rs)
}
func (TableFeaturesRequest) answer(rs []Message) ([]TableFeatures, error) {
	return items[TableFeatures](rs)
}

func decodeMultipartRequest(h ofp.Header, c *ofp.Cursor) (Message, error) {
	whole := *c
	typ := c.U16()
	c.Skip(6)
	switch typ {
	case ofp.MultipartDesc:
		return DescRequest{}, nil
	case ofp.MultipartFlow:
		return takeFlowFilter(c)
	case ofp.MultipartAggregate:
		f, err := takeFlowFilter(c)
		return AggregateRequest{f}, err
	case ofp.MultipartTable:
		return TableStatsRequest{}, nil
	case ofp.MultipartPortStats:
		return skipping(c, 4, PortStatsRequest{Port: anyZero(c.U32())}), nil
	case ofp.MultipartQueue:
		return QueueStatsRequest{Port: anyZero(c.U32()), Queue: c.U32()}, nil
	case ofp.MultipartGroup:
		return skipping(c, 4, GroupStatsRequest{Group: c.U32()}), nil
	case ofp.MultipartGroupDesc:
		return GroupDescRequest{}, nil
	case ofp.MultipartGroupFeatures:
		return GroupFeaturesRequest{}, nil
	case ofp.MultipartMeter:
		return skipping(c, 4, MeterStatsRequest{ID: anyZero(c.U32())}), nil
	case ofp.MultipartMeterConfig:
		return skipping(c, 4, MeterConfigRequest{ID: anyZero(c.U32())}), nil
	case ofp.MultipartMeterFeatures:
		return MeterFeaturesRequest{}, nil
	case ofp.MultipartTableFeatures:
		if c.Len() == 0 { // with a body it would change the tables
			return TableFeaturesRequest{}, nil
		}
	case ofp.MultipartPortDesc:
		return PortDescRequest{}, nil
	}
	*c = whole
	return Unknown{Type: h.Type, Body: c.Rest()}, nil
}

// skipping is m, with n bytes of padding behind it read.
func skipping(c *ofp.Cursor, n int, m Message) Message {
	c.Skip(n)
	return m
}

func decodeMultipartReply(h ofp.Header, c *ofp.Cursor) (Message, error) {
	whole := *c
	typ, more := c.U16(), c.U16()&multipartMore != 0
	c.Skip(4)
	switch typ {
	case ofp.MultipartDesc:
		return takeDesc(c), nil
	case ofp.MultipartFlow:
		return takePart(c, more, takeFlowStat)
	case ofp.MultipartAggregate:
		return takeAggregate(c), nil
	case ofp.MultipartTable:
		return takePart(c, more, takeTableStat)
	case ofp.MultipartPortStats:
		return takePart(c, more, takePortStat)
	case ofp.MultipartQueue:
		return takePart(c, more, takeQueueStat)
	case ofp.MultipartGroup:
		return takePart(c, more, takeGroupStat)
	case ofp.MultipartGroupDesc:
		return takePart(c, more, takeGroupDesc)
	case ofp.MultipartGroupFeatures:
		return takeGroupFeatures(c), nil
	case ofp.MultipartMeter:
		return takePart(c, more, takeMeterStat)
	case ofp.MultipartMeterConfig:
		return takePart(c, more, takeMeterConfig)
	case ofp.MultipartMeterFeatures:
		return takeMeterFeatures(c), nil
	case ofp.MultipartTableFeatures:
		return takePart(c, more, takeTableFeatures)
	case ofp.MultipartPortDesc:
		return takePart(c, more, takePort)
	}
	*c = whole
	return Unknown{Type: h.Type, Body: c.Rest()}, nil
}

func takePart[T Item](c *ofp.Cursor, more bool, item func(*ofp.Cursor) (T, error)) (Message, error) {
	p := Part[T]{More: more}
	for c.Len() > 0 {
		v, err := item(c)
		if err != nil {
			return nil, err
		}
		p.Items = append(p.Items, v)
	}
	return p, nil
}

func (p Part[T]) more() bool { return p.More }

func (p Part[T]) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	var none T
	b = append64(b, uint64(none.multipart())<<48|uint64(bit(p.More, multipartMore))<<32)
	for i := range p.Items {
		var err error
		if b, err = p.Items[i].appendItem(b); err != nil {
			return 0, nil, err
		}
	}
	return ofp.TypeMultipartReply, b, nil
}

// appendParts appends p as one message, or as several if it does not fit.
func (p Part[T]) appendParts(b []byte, xid uint32) ([]byte, error) {
	typ, out, err := p.appendBody(appendZeros(b, ofp.HeaderLen), xid)
	if err != nil {
		return b, err
	}
	n := len(out) - len(b)
	if n <= ofp.MaxMessage {
		putHeader(out[len(b):], typ, xid)
		return out, nil
	}
	if len(p.Items) == 1 {
		return b, errTooLong
	}
	out, left := b, p.Items
	for size := max(len(left)/(n/ofp.MaxMessage+1), 1); len(left) > 0; left = left[min(size, len(left)):] {
		part := Part[T]{Items: left[:min(size, len(left))], More: p.More || len(left) > size}
		if out, err = part.appendParts(out, xid); err != nil {
			return b, err
		}
	}
	return out, nil
}

// endItem fills in the 16-bit length that an item starts with.
func endItem(b []byte, start int) ([]byte, error) {
	if len(b)-start > ofp.MaxMessage {
		return nil, errTooLong
	}
	binary.BigEndian.PutUint16(b[start:], uint16(len(b)-start))
	return b, nil
}
