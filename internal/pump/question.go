package pump

import (
	"encoding/binary"
	"net/netip"

	"github.com/viasnet/vias/internal/seg"
	"github.com/viasnet/vias/tap"
)

// Question is an ARP request (RFC 826) or a neighbour solicitation (RFC 4861) to a group: who has
// Target?
type Question struct {
	Target netip.Addr
	// From is the asker's address; unspecified: it has none yet and wants to know whether
	// Target is free (RFC 5227, RFC 4862).
	From   netip.Addr
	Asker  tap.MAC
	tags   [2 * tap.TagLen]byte // VLAN tags as the question had them
	tagLen uint8
}

const (
	etherARP        = 0x0806
	arpLen          = 28
	solicitation    = 135
	advertisement   = 136
	solicitationLen = 24
	optionTarget    = 2
	ndHopLimit      = 255
	// Flags of an advertisement (RFC 4861, section 4.4).
	flagSolicited, flagOverride = 0x40, 0x20

	// MaxAnswer is how long an answer is at most.
	MaxAnswer = tap.HeaderLen + 2*tap.TagLen + ipv6Len + solicitationLen + 8
	minFrame  = 60 // the least that Ethernet takes
)

// arpHead is Ethernet and IPv4, and a request.
const arpHead = "\x00\x01\x08\x00\x06\x04\x00\x01"

// ParseQuestion reads a frame that has passed the source check, so that its sender's addresses
// are the asker's. ok is false if it is anything else.
func ParseQuestion(frame []byte) (q Question, ok bool) {
	q.Asker = tap.MAC(frame[6:12])
	l3, kind := tap.HeaderLen, binary.BigEndian.Uint16(frame[12:])
	for (kind == 0x8100 || kind == 0x88a8) && int(q.tagLen) < len(q.tags) && len(frame) >= l3+tap.TagLen {
		copy(q.tags[q.tagLen:], frame[l3-2:l3+tap.TagLen-2])
		q.tagLen += tap.TagLen
		kind, l3 = binary.BigEndian.Uint16(frame[l3+2:]), l3+tap.TagLen
	}
	p := frame[l3:]
	switch {
	case kind == etherARP && len(p) >= arpLen && string(p[:8]) == arpHead:
		q.From, q.Target = netip.AddrFrom4([4]byte(p[14:])), netip.AddrFrom4([4]byte(p[24:]))
	case kind == etherIPv6 && len(p) >= ipv6Len+solicitationLen && p[6] == protoND && p[7] == ndHopLimit && p[ipv6Len] == solicitation && p[ipv6Len+1] == 0:
		n := int(binary.BigEndian.Uint16(p[4:]))
		if n < solicitationLen || n > len(p)-ipv6Len || seg.Checksum(p[ipv6Len:ipv6Len+n], seg.PseudoHeader(p[8:24], p[24:40], protoND, n)) != 0 {
			return Question{}, false
		}
		q.From, q.Target = netip.AddrFrom16([16]byte(p[8:])), netip.AddrFrom16([16]byte(p[ipv6Len+8:]))
	default:
		return Question{}, false
	}
	return q, unicast(q.Target) && !q.Target.IsLoopback()
}

// Answer puts into b, and nothing else: owner has Target. b has room for MaxAnswer bytes.
func (q *Question) Answer(b *tap.Batch, owner tap.MAC) {
	b.Reset()
	n := tap.HeaderLen + int(q.tagLen)
	l3 := n
	if n += arpLen; q.Target.Is6() {
		n += ipv6Len + solicitationLen + 8 - arpLen
	}
	f := b.Reserve(max(n, minFrame))
	clear(f)
	copy(f, q.Asker[:])
	copy(f[6:], owner[:])
	copy(f[12:], q.tags[:q.tagLen])
	if q.Target.Is4() {
		binary.BigEndian.PutUint16(f[l3-2:], etherARP)
		q.putARP(f[l3:], owner)
	} else {
		binary.BigEndian.PutUint16(f[l3-2:], etherIPv6)
		q.putAdvertisement(f, f[l3:n], owner)
	}
	b.Commit(len(f), tap.Offload{})
}

func (q *Question) putARP(p []byte, owner tap.MAC) {
	copy(p, arpHead)
	p[7] = 2 // a reply
	from, to := q.Target.As4(), q.From.As4()
	copy(p[8:], owner[:])
	copy(p[14:], from[:])
	copy(p[18:], q.Asker[:])
	copy(p[24:], to[:])
}

// putAdvertisement: who asks without an address is answered by all-nodes multicast and as if it had
// not asked (RFC 4861, section 7.2.4).
func (q *Question) putAdvertisement(frame, p []byte, owner tap.MAC) {
	from, to, flags := q.Target.As16(), q.From.As16(), byte(flagSolicited|flagOverride)
	if q.From.IsUnspecified() {
		to, flags = [16]byte{0xff, 2, 15: 1}, flagOverride
		copy(frame, []byte{0x33, 0x33, 0, 0, 0, 1})
	}
	m := p[ipv6Len:]
	p[0], p[6], p[7] = 0x60, protoND, ndHopLimit
	binary.BigEndian.PutUint16(p[4:], uint16(len(m)))
	copy(p[8:], from[:])
	copy(p[24:], to[:])
	m[0], m[4] = advertisement, flags
	copy(m[8:], from[:])
	m[24], m[25] = optionTarget, 1
	copy(m[26:], owner[:])
	binary.BigEndian.PutUint16(m[2:], seg.Checksum(m, seg.PseudoHeader(p[8:24], p[24:40], protoND, len(m))))
}
