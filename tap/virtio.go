package tap

import "encoding/binary"

// virtioHeaderLen is the length of struct virtio_net_hdr without num_buffers, in
// bytes. Virtio 1.2, section 5.1.6; a TAP speaks it in the host's byte order
// (legacy, section 5.1.6.1).
const virtioHeaderLen = 10

const (
	virtioNeedsChecksum = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	virtioGSONone       = 0
	virtioGSOTCP4       = 1
	virtioGSOTCP6       = 4
	virtioGSOUDP        = 5    // VIRTIO_NET_HDR_GSO_UDP_L4
	virtioGSOECN        = 0x80 // says what the TCP header's CWR says as well
)

// putVirtio writes o to h, which has virtioHeaderLen bytes.
func putVirtio(h []byte, o Offload) {
	_ = h[virtioHeaderLen-1]
	h[0], h[1] = 0, virtioGSONone
	if o.NeedsChecksum {
		h[0] = virtioNeedsChecksum
	} else {
		o.ChecksumStart, o.ChecksumOffset = 0, 0
	}
	switch o.GSO {
	case GSOTCP4:
		h[1] = virtioGSOTCP4
	case GSOTCP6:
		h[1] = virtioGSOTCP6
	case GSOUDP:
		h[1] = virtioGSOUDP
	default:
		o.HeaderLen, o.SegmentSize = 0, 0
	}
	binary.NativeEndian.PutUint16(h[2:], o.HeaderLen)
	binary.NativeEndian.PutUint16(h[4:], o.SegmentSize)
	binary.NativeEndian.PutUint16(h[6:], o.ChecksumStart)
	binary.NativeEndian.PutUint16(h[8:], o.ChecksumOffset)
}

// parseVirtio reads what putVirtio writes. False: a kind of super-frame that we
// did not ask for (UDP fragmentation). Fields that do not apply are zero, so that
// a finished frame has the zero Offload.
func parseVirtio(h []byte) (o Offload, ok bool) {
	_ = h[virtioHeaderLen-1]
	if h[0]&virtioNeedsChecksum != 0 {
		o.NeedsChecksum = true
		o.ChecksumStart = binary.NativeEndian.Uint16(h[6:])
		o.ChecksumOffset = binary.NativeEndian.Uint16(h[8:])
	}
	switch h[1] &^ virtioGSOECN {
	case virtioGSONone:
		return o, true
	case virtioGSOTCP4:
		o.GSO = GSOTCP4
	case virtioGSOTCP6:
		o.GSO = GSOTCP6
	case virtioGSOUDP:
		o.GSO = GSOUDP
	default:
		return Offload{}, false
	}
	o.HeaderLen = binary.NativeEndian.Uint16(h[2:])
	o.SegmentSize = binary.NativeEndian.Uint16(h[4:])
	return o, true
}
