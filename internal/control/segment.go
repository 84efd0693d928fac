package control

import "encoding/binary"

// segment is one datagram of a Session:
//
//	 0      kind (KindControl)
//	 1      flags
//	 2..9   sender's session ID
//	10..17  receiver's session ID as the sender knows it; 0 = not yet
//	18..25  sequence number, from 1; 0 = carries nothing
//	26..33  acknowledgement: every sequence number up to this one has arrived
//	34..    payload
//
// All integers are big-endian.
type segment struct {
	last     bool // ends a message
	from, to uint64
	seq, ack uint64
	payload  []byte
}

const (
	headerLen = 34
	flagLast  = 1
)

// parseSegment reads a datagram; false: it is none of ours.
func parseSegment(d []byte) (s segment, ok bool) {
	if len(d) < headerLen || d[0] != KindControl || d[1]&^flagLast != 0 {
		return s, false
	}
	s = segment{
		last:    d[1]&flagLast != 0,
		from:    binary.BigEndian.Uint64(d[2:]),
		to:      binary.BigEndian.Uint64(d[10:]),
		seq:     binary.BigEndian.Uint64(d[18:]),
		ack:     binary.BigEndian.Uint64(d[26:]),
		payload: d[headerLen:],
	}
	if s.from == 0 || s.seq == 0 && (len(s.payload) > 0 || s.last) || s.seq > 0 && len(s.payload) == 0 {
		return s, false
	}
	return s, true
}

// put writes s to d, which has headerLen+len(s.payload) bytes.
func (s segment) put(d []byte) {
	d[0], d[1] = KindControl, 0
	if s.last {
		d[1] = flagLast
	}
	binary.BigEndian.PutUint64(d[2:], s.from)
	binary.BigEndian.PutUint64(d[10:], s.to)
	binary.BigEndian.PutUint64(d[18:], s.seq)
	binary.BigEndian.PutUint64(d[26:], s.ack)
	copy(d[headerLen:], s.payload)
}
