package seg

import (
	"encoding/binary"

	"github.com/viasnet/vias/tap"
)

const udpChecksumOffset = 6

// Partial is for the receiver of a frame whose checksum a Cutter left out: it puts the
// pseudo-header's sum into the field, whatever was there, and returns the Offload that says
// so. false: it is no TCP or UDP frame whose checksum can be left out.
func Partial(frame []byte) (tap.Offload, bool) {
	h, ok := parse(frame)
	if !ok || !h.whole(frame) {
		return tap.Offload{}, false
	}
	return h.pseudoOnly(frame), true
}

// whole tells whether a frame ends where its headers say, so that what the transport's
// checksum covers is known.
func (h *headers) whole(frame []byte) bool {
	return h.end == len(frame) && (h.protocol == ProtocolTCP || int(binary.BigEndian.Uint16(frame[h.l4+4:])) == h.end-h.l4)
}

func (h *headers) checksumOffset() uint16 {
	if h.protocol == ProtocolTCP {
		return tcpChecksumOffset
	}
	return udpChecksumOffset
}

// leaveOut makes the checksum 0.
func (h *headers) leaveOut(frame []byte) tap.Offload {
	at := h.checksumOffset()
	binary.BigEndian.PutUint16(frame[h.l4+int(at):], 0)
	return tap.Offload{NeedsChecksum: true, ChecksumStart: uint16(h.l4), ChecksumOffset: at}
}

// pseudoOnly makes the checksum the pseudo-header's sum.
func (h *headers) pseudoOnly(frame []byte) tap.Offload {
	at := h.checksumOffset()
	binary.BigEndian.PutUint16(frame[h.l4+int(at):], uint16(h.pseudo(frame[h.l3:], len(frame)-h.l4)))
	return tap.Offload{NeedsChecksum: true, ChecksumStart: uint16(h.l4), ChecksumOffset: at}
}
