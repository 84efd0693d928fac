package ofctl

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// appendAge appends seconds and nanoseconds.
func appendAge(b []byte, d time.Duration) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(d/time.Second))
	return binary.BigEndian.AppendUint32(b, uint32(d%time.Second))
}

func takeAge(c *ofp.Cursor) time.Duration {
	s, ns := c.U32(), c.U32()
	return time.Duration(s)*time.Second + time.Duration(ns)
}

func append64(b []byte, vs ...uint64) []byte {
	for _, v := range vs {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

func append32(b []byte, vs ...uint32) []byte {
	for _, v := range vs {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

func (TableStat) multipart() uint16 { return ofp.MultipartTable }
func (PortStat) multipart() uint16  { return ofp.MultipartPortStats }
func (QueueStat) multipart() uint16 { return ofp.MultipartQueue }
func (GroupStat) multipart() uint16 { return ofp.MultipartGroup }
func (MeterStat) multipart() uint16 { return ofp.MultipartMeter }

func (s TableStat) appendItem(b []byte) ([]byte, error) {
	b = append32(append(b, s.Table, 0, 0, 0), s.Active)
	return append64(b, s.Lookups, s.Matched), nil
}

// whole is v, unless a decoder has read beyond the end.
func whole[T any](c *ofp.Cursor, v T) (T, error) {
	if c.Short() {
		return v, errBadLength
	}
	return v, nil
}

func takeTableStat(c *ofp.Cursor) (TableStat, error) {
	s := TableStat{Table: c.U8()}
	c.Skip(3)
	s.Active, s.Lookups, s.Matched = c.U32(), c.U64(), c.U64()
	return whole(c, s)
}

func (s PortStat) appendItem(b []byte) ([]byte, error) {
	b = append32(b, s.Port, 0)
	b = append64(b, s.RxPackets, s.TxPackets, s.RxBytes, s.TxBytes, s.RxDropped, s.TxDropped,
		s.RxErrors, s.TxErrors, s.RxFrameErrors, s.RxOverruns, s.CRCErrors, s.Collisions)
	return appendAge(b, s.Age), nil
}

func takePortStat(c *ofp.Cursor) (PortStat, error) {
	s := PortStat{Port: c.U32()}
	c.Skip(4)
	for _, v := range [...]*uint64{&s.RxPackets, &s.TxPackets, &s.RxBytes, &s.TxBytes, &s.RxDropped, &s.TxDropped,
		&s.RxErrors, &s.TxErrors, &s.RxFrameErrors, &s.RxOverruns, &s.CRCErrors, &s.Collisions} {
		*v = c.U64()
	}
	s.Age = takeAge(c)
	return whole(c, s)
}

func (s QueueStat) appendItem(b []byte) ([]byte, error) {
	b = append32(b, s.Port, s.Queue)
	return appendAge(append64(b, s.TxBytes, s.TxPackets, s.TxErrors), s.Age), nil
}

func takeQueueStat(c *ofp.Cursor) (QueueStat, error) {
	s := QueueStat{Port: c.U32(), Queue: c.U32(), TxBytes: c.U64(), TxPackets: c.U64(), TxErrors: c.U64()}
	s.Age = takeAge(c)
	return whole(c, s)
}

func appendCounters(b []byte, cs []Counter) []byte {
	for _, k := range cs {
		b = append64(b, k.Packets, k.Bytes)
	}
	return b
}

// takeCounters reads counters to the end of c.
func takeCounters(c *ofp.Cursor) (cs []Counter) {
	for c.Len() > 0 {
		cs = append(cs, Counter{Packets: c.U64(), Bytes: c.U64()})
	}
	return cs
}

func (s GroupStat) appendItem(b []byte) ([]byte, error) {
	start := len(b)
	b = append32(b, 0, s.Group, s.References, 0)
	b = appendAge(append64(b, s.Packets, s.Bytes), s.Age)
	return endItem(appendCounters(b, s.Buckets), start)
}

func takeGroupStat(c *ofp.Cursor) (GroupStat, error) {
	b := ofp.NewCursor(c.Take(int(c.U16()) - 2))
	b.Skip(2)
	s := GroupStat{Group: b.U32(), References: b.U32()}
	b.Skip(4)
	s.Packets, s.Bytes = b.U64(), b.U64()
	s.Age = takeAge(&b)
	s.Buckets = takeCounters(&b)
	return whole(&b, s)
}

func (s MeterStat) appendItem(b []byte) ([]byte, error) {
	start := len(b)
	b = append32(b, s.ID, 0, 0, s.Flows)
	b = appendAge(append64(b, s.Packets, s.Bytes), s.Age)
	b = appendCounters(b, s.Bands)
	if len(b)-start > ofp.MaxMessage {
		return nil, errTooLong
	}
	binary.BigEndian.PutUint16(b[start+4:], uint16(len(b)-start))
	return b, nil
}

func takeMeterStat(c *ofp.Cursor) (MeterStat, error) {
	s := MeterStat{ID: c.U32()}
	b := ofp.NewCursor(c.Take(int(c.U16()) - 6))
	b.Skip(6)
	s.Flows, s.Packets, s.Bytes = b.U32(), b.U64(), b.U64()
	s.Age = takeAge(&b)
	s.Bands = takeCounters(&b)
	return whole(&b, s)
}

// Lengths of a description's texts (section 7.3.5.1).
const (
	descLen   = 256
	serialLen = 32
)

func (m Desc) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	b = append64(b, ofp.MultipartDesc<<48)
	for _, s := range [...]string{m.Manufacturer, m.Hardware, m.Software} {
		b = appendName(b, s, descLen)
	}
	return ofp.TypeMultipartReply, appendName(appendName(b, m.Serial, serialLen), m.Datapath, descLen), nil
}

func takeDesc(c *ofp.Cursor) Desc {
	return Desc{Manufacturer: takeName(c, descLen), Hardware: takeName(c, descLen), Software: takeName(c, descLen),
		Serial: takeName(c, serialLen), Datapath: takeName(c, descLen)}
}

func (m Aggregate) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	b = append64(b, ofp.MultipartAggregate<<48, m.Packets, m.Bytes)
	return ofp.TypeMultipartReply, append32(b, m.Flows, 0), nil
}

func takeAggregate(c *ofp.Cursor) Aggregate {
	m := Aggregate{Packets: c.U64(), Bytes: c.U64(), Flows: c.U32()}
	c.Skip(4)
	return m
}

func (m GroupFeatures) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	b = append32(append64(b, ofp.MultipartGroupFeatures<<48), m.Types, m.Capabilities)
	return ofp.TypeMultipartReply, append32(append32(b, m.MaxGroups[:]...), m.Actions[:]...), nil
}

func takeGroupFeatures(c *ofp.Cursor) GroupFeatures {
	m := GroupFeatures{Types: c.U32(), Capabilities: c.U32()}
	for i := range m.MaxGroups {
		m.MaxGroups[i] = c.U32()
	}
	for i := range m.Actions {
		m.Actions[i] = c.U32()
	}
	return m
}

func (m MeterFeatures) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	b = append32(append64(b, ofp.MultipartMeterFeatures<<48), m.MaxMeters, m.Bands, m.Capabilities)
	return ofp.TypeMultipartReply, append(b, m.MaxBands, m.MaxColor, 0, 0), nil
}

func takeMeterFeatures(c *ofp.Cursor) MeterFeatures {
	f := MeterFeatures{MaxMeters: c.U32(), Bands: c.U32(), Capabilities: c.U32(), MaxBands: c.U8(), MaxColor: c.U8()}
	c.Skip(2)
	return f
}

// one is the only reply, which must be a T.
func one[T Message](replies []Message) (T, error) {
	m, ok := replies[0].(T)
	if !ok || len(replies) > 1 {
		return m, fmt.Errorf("answered with %T", replies[0])
	}
	return m, nil
}

// items are those of all replies, which must be Parts of Ts.
func items[T Item](replies []Message) (all []T, err error) {
	for i, r := range replies {
		part, ok := r.(Part[T])
		if !ok {
			return nil, fmt.Errorf("answered with %T", r)
		}
		if i == 0 {
			all = part.Items
			continue
		}
		all = append(all, part.Items...)
	}
	return all, nil
}
