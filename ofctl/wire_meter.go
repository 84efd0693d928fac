package ofctl

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// Flags of a meter, its instruction, and its one band that we use (OpenFlow 1.3.5,
// sections 7.2.4 and 7.3.4.5).
const (
	meterPackets = 2
	meterBurst   = 4
	meterStats   = 8

	instrMeter = 6

	bandDrop    = 1
	bandDropLen = 16
)

// ErrTypeMeterModFailed's codes that are told apart.
const (
	meterModBadCommand = 4
	meterModBadBand    = 8
)

func appendMeterMod(b []byte, m *MeterMod) ([]byte, error) {
	command := uint16(0)
	switch m.Command {
	case Add:
	case Modify:
		command = 1
	case Delete:
		command = 2
	default:
		return nil, fmt.Errorf("meter-mod command %s", m.Command)
	}
	if command != 2 && m.Meter.Rate == 0 {
		return nil, errors.New("a meter without a rate")
	}
	b = binary.BigEndian.AppendUint16(b, command)
	if command == 2 {
		m = &MeterMod{Meter: Meter{ID: m.Meter.ID}}
	}
	return appendMeter(b, &m.Meter), nil
}

// appendMeter appends flags, ID and bands, as a modification and a dump have them.
func appendMeter(b []byte, m *Meter) []byte {
	be := binary.BigEndian
	flags := uint16(meterPackets | meterStats)
	if m.Burst > 0 {
		flags |= meterBurst
	}
	b = be.AppendUint16(b, flags)
	b = be.AppendUint32(b, m.ID)
	if m.Rate == 0 {
		return b
	}
	b = be.AppendUint32(b, bandDrop<<16|bandDropLen)
	b = be.AppendUint32(b, m.Rate)
	b = be.AppendUint32(b, m.Burst)
	return appendZeros(b, 4)
}

func appendMeterConfig(b []byte, m *Meter) ([]byte, error) {
	start := len(b)
	return endItem(appendMeter(appendZeros(b, 2), m), start)
}

// takeMeter reads what appendMeter appends. Of a meter that is not of our kind (known
// is false then) only the ID is known.
func takeMeter(c *ofp.Cursor) (m Meter, known bool, err error) {
	flags := c.U16()
	m.ID = c.U32()
	bands := 0
	drop := Meter{ID: m.ID}
	for c.Len() > 0 {
		typ, n := c.U16(), int(c.U16())
		body := ofp.NewCursor(c.Take(n - 4))
		drop.Rate, drop.Burst = body.U32(), body.U32()
		if c.Short() || body.Short() || n < 12 {
			return m, false, errBadLength
		}
		if bands++; typ != bandDrop || n != bandDropLen {
			bands = 2
		}
	}
	if c.Short() {
		return m, false, errBadLength
	}
	if bands != 1 || flags&^(meterBurst|meterStats) != meterPackets || drop.Rate == 0 {
		return m, false, nil
	}
	if flags&meterBurst == 0 {
		drop.Burst = 0
	}
	return drop, true, nil
}

func decodeMeterMod(c *ofp.Cursor) (any, error) {
	var m MeterMod
	switch c.U16() {
	case 0:
		m.Command = Add
	case 1:
		m.Command = Modify
	case 2:
		m.Command = Delete
	default:
		return nil, &SwitchError{Type: ErrTypeMeterModFailed, Code: meterModBadCommand}
	}
	var known bool
	var err error
	m.Meter, known, err = takeMeter(c)
	switch {
	case err != nil:
		return nil, err
	case m.Command == Delete:
		m.Meter = Meter{ID: m.Meter.ID}
	case !known:
		return nil, &SwitchError{Type: ErrTypeMeterModFailed, Code: meterModBadBand}
	}
	return m, nil
}

func takeMeterConfig(c *ofp.Cursor) (Meter, error) {
	b := ofp.NewCursor(c.Take(int(c.U16()) - 2))
	m, _, err := takeMeter(&b)
	if c.Short() {
		err = errBadLength
	}
	return m, err
}

// appendMeterRequest appends the body of a request about meters, or of the answer about
// their features.
func appendMeterRequest(b []byte, m any) (typ uint8, _ []byte) {
	be := binary.BigEndian
	switch m := m.(type) {
	case ofp.MeterConfigRequest:
		b = be.AppendUint64(b, ofp.MultipartMeterConfig<<48)
		return ofp.TypeMultipartRequest, be.AppendUint64(b, uint64(MeterAll)<<32)
	case ofp.MeterFeatures:
		b = be.AppendUint64(b, ofp.MultipartMeterFeatures<<48)
		b = be.AppendUint32(b, m.MaxMeters)
		b = be.AppendUint32(b, m.Bands)
		b = be.AppendUint32(b, m.Capabilities)
		return ofp.TypeMultipartReply, append(b, m.MaxBands, m.MaxColor, 0, 0)
	}
	return ofp.TypeMultipartRequest, be.AppendUint64(b, ofp.MultipartMeterFeatures<<48)
}

func takeMeterFeatures(c *ofp.Cursor) any {
	f := ofp.MeterFeatures{MaxMeters: c.U32(), Bands: c.U32(), Capabilities: c.U32(), MaxBands: c.U8(), MaxColor: c.U8()}
	c.Skip(2)
	return f
}
