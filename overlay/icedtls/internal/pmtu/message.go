package pmtu

import "encoding/binary"

// Lengths of messages in bytes, without the byte that tells texts apart. A probe may be
// any longer: what follows its number is padding.
const (
	ProbeLen  = 4
	ReportLen = 4 + 2
)

// PutProbe writes a probe's number; the rest of b is its padding.
func PutProbe(b []byte, number uint32) { binary.BigEndian.PutUint32(b, number) }

// ParseProbe reads what PutProbe wrote.
func ParseProbe(b []byte) (number uint32, ok bool) {
	if len(b) < ProbeLen {
		return 0, false
	}
	return binary.BigEndian.Uint32(b), true
}

// Report answers a probe.
type Report struct {
	// Number is the probe's.
	Number uint32
	// Longest datagram, in bytes, of all that were opened since the last report was made.
	Longest int
}

// Append appends the report to b.
func (r Report) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, r.Number)
	return binary.BigEndian.AppendUint16(b, uint16(min(max(r.Longest, 0), 1<<16-1)))
}

// ParseReport reads a report.
func ParseReport(b []byte) (r Report, ok bool) {
	if len(b) != ReportLen {
		return r, false
	}
	return Report{binary.BigEndian.Uint32(b), int(binary.BigEndian.Uint16(b[4:]))}, true
}
