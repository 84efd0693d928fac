package seg

import (
	"encoding/binary"

	"github.com/viasnet/vias/tap"
)

// MTU is the largest layer-3 packet in bytes for which a frame with frame's Ethernet header, and
// its VLAN tag if it has one, is at most room bytes long.
func MTU(frame []byte, room int) int {
	if len(frame) >= tap.HeaderLen {
		if t := binary.BigEndian.Uint16(frame[12:]); t == etherCTag || t == etherSTag {
			room -= tap.TagLen
		}
	}
	return room - tap.HeaderLen
}

// HeaderLen is the length of all headers of a TCP or UDP frame, Ethernet's included; 0 if it is
// none that a Cutter cuts.
func HeaderLen(frame []byte) int {
	h, ok := parse(frame)
	if !ok {
		return 0
	}
	return h.payload
}

// ResetSegment begins with a single TCP segment, which is to become several, of at most mtu bytes
// with the IP header. false, and Next has nothing to give: it is none, or its parts would say
// something else than it does. So it does for segments
//   - that open or reset a connection, or have urgent data or CWR, which belongs to one segment;
//   - with options that are not the same for every part (a signature, say) or that we do not know,
//     in IP as in TCP;
//   - that are broken: a wrong checksum must not become a right one.
func (c *Cutter) ResetSegment(frame []byte, o tap.Offload, mtu int) bool {
	*c = Cutter{Partial: c.Partial, done: true}
	h, ok := parse(frame)
	if !ok || h.protocol != ProtocolTCP || h.end != len(frame) || h.plainIP() != h.l4 || !h.plainTCP(frame) {
		return false
	}
	room, payload := mtu-(h.payload-h.l3), h.end-h.payload
	if room <= 0 || payload <= room || !h.sound(frame, o) {
		return false
	}
	n := (payload + room - 1) / room
	o = tap.Offload{GSO: tap.GSOTCP4, SegmentSize: uint16((payload + n - 1) / n), NeedsChecksum: o.NeedsChecksum}
	c.frame, c.offload, c.done = frame, o, false
	c.begin(h)
	return true
}

// plainIP is where TCP begins behind an IP header without options or extension headers.
func (h *headers) plainIP() int {
	if h.v6 {
		return h.l3 + ipv6HeaderLen
	}
	return h.l3 + ipv4HeaderLen
}

// plainTCP tells whether each part of a segment may have its header.
func (h *headers) plainTCP(frame []byte) bool {
	if frame[h.l4+13]&(tcpSYN|tcpRST|tcpURG|tcpCWR) != 0 {
		return false
	}
	options := frame[h.l4+tcpHeaderLen : h.payload]
	for len(options) > 0 {
		switch options[0] {
		case tcpOptionEnd:
			return true
		case tcpOptionNop:
			options = options[1:]
			continue
		case tcpOptionSACK, tcpOptionTimestamps, tcpOptionMPTCP:
			// All are the same in each part; a mapping of Multipath TCP's is of sequence numbers, and
			// may be repeated (RFC 8684, section 3.3.1).
		default:
			return false
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return false
		}
		options = options[options[1]:]
	}
	return true
}

// sound tells whether a segment's checksums are right, or it has a partial one where TCP's is.
func (h *headers) sound(frame []byte, o tap.Offload) bool {
	ip, t := frame[h.l3:], frame[h.l4:h.end]
	if !h.v6 && Checksum(ip[:h.l4-h.l3], 0) != 0 {
		return false
	}
	if o.NeedsChecksum {
		return int(o.ChecksumStart) == h.l4 && o.ChecksumOffset == tcpChecksumOffset
	}
	return Checksum(t, h.pseudo(ip, len(t))) == 0
}
