package ofctl

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// Flags of a meter, its instruction, and the types of its bands (OpenFlow 1.3.5,
// sections 7.2.4 and 7.3.4.5).
const (
	meterPackets = 2
	meterBurst   = 4
	meterStats   = 8

	instrMeter = 6

	meterKilobits = 1

	bandDrop   = 1
	bandRemark = 2
	bandLen    = 16
)

// ErrTypeMeterModFailed's codes that are told apart.
const (
	meterModBadCommand = 4
	meterModBadBand    = 8
)

func (m MeterMod) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	b, err := appendMeterMod(b, &m)
	return ofp.TypeMeterMod, b, err
}

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
	if command != 2 && m.Meter.Rate == 0 && m.Meter.Remark.Rate == 0 {
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
	flags := uint32(meterStats) | bit(m.Kilobits, meterKilobits) | bit(!m.Kilobits, meterPackets) |
		bit(m.Burst > 0 || m.Remark.Burst > 0, meterBurst)
	b = append32(binary.BigEndian.AppendUint16(b, uint16(flags)), m.ID)
	if m.Rate > 0 {
		b = append32(b, bandDrop<<16|bandLen, m.Rate, m.Burst, 0)
	}
	if r := m.Remark; r.Rate > 0 {
		b = append32(b, bandRemark<<16|bandLen, r.Rate, r.Burst, uint32(r.Levels)<<24)
	}
	return b
}

func (Meter) multipart() uint16 { return ofp.MultipartMeterConfig }

func (m Meter) appendItem(b []byte) ([]byte, error) {
	start := len(b)
	return endItem(appendMeter(appendZeros(b, 2), &m), start)
}

// takeMeter reads what appendMeter appends. Of a meter that is not of our kind (known
// is false then) only the ID is known.
func takeMeter(c *ofp.Cursor) (m Meter, known bool, err error) {
	flags := c.U16()
	m.ID, m.Kilobits = c.U32(), flags&meterKilobits != 0
	known = flags&(meterKilobits|meterPackets) != meterKilobits|meterPackets
	for c.Len() > 0 {
		typ, n := c.U16(), int(c.U16())
		band := ofp.NewCursor(c.Take(n - 4))
		rate, burst := band.U32(), band.U32()
		if c.Short() || band.Short() || n < 12 {
			return m, false, errBadLength
		}
		if flags&meterBurst == 0 {
			burst = 0
		}
		known = known && n == bandLen && rate > 0
		switch {
		case typ == bandDrop && m.Rate == 0:
			m.Rate, m.Burst = rate, burst
		case typ == bandRemark && m.Remark.Rate == 0:
			m.Remark = RemarkBand{Rate: rate, Burst: burst, Levels: band.U8()}
		default:
			known = false
		}
	}
	if c.Short() {
		return m, false, errBadLength
	}
	if !known || m.Rate == 0 && m.Remark.Rate == 0 {
		return Meter{ID: m.ID}, false, nil
	}
	return m, true, nil
}

func decodeMeterMod(c *ofp.Cursor) (Message, error) {
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
