package tap

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestVirtioRoundTrip(t *testing.T) {
	for _, o := range []Offload{
		{},
		{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 6},
		{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16, GSO: GSOTCP4, SegmentSize: 1448, HeaderLen: 66},
		{NeedsChecksum: true, ChecksumStart: 54, ChecksumOffset: 16, GSO: GSOTCP6, SegmentSize: 1428, HeaderLen: 86},
		{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 6, GSO: GSOUDP, SegmentSize: 1200, HeaderLen: 42},
	} {
		h := make([]byte, virtioHeaderLen)
		for i := range h {
			h[i] = 0xaa // headroom is never clean
		}
		putVirtio(h, o)
		got, ok := parseVirtio(h)
		require.True(t, ok)
		require.Equal(t, o, got)
	}
}

func TestVirtioParse(t *testing.T) {
	h := make([]byte, virtioHeaderLen)
	h[0] = 2 // VIRTIO_NET_HDR_F_DATA_VALID: a finished frame
	h[6], h[8] = 9, 9
	o, ok := parseVirtio(h)
	require.True(t, ok)
	require.Zero(t, o)

	h[1] = virtioGSOTCP4 | virtioGSOECN
	o, ok = parseVirtio(h)
	require.True(t, ok)
	require.Equal(t, GSOTCP4, o.GSO)

	h[1] = 3 // VIRTIO_NET_HDR_GSO_UDP: fragmentation
	_, ok = parseVirtio(h)
	require.False(t, ok)
}

// What comes out can always go in again, and means the same.
func FuzzVirtio(f *testing.F) {
	f.Add([]byte{1, 1, 66, 0, 0xa8, 5, 34, 0, 16, 0})
	f.Add([]byte{0, 0x85, 0, 0, 1, 0, 0, 0, 0, 0})
	f.Add([]byte{2, 3, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, h []byte) {
		if len(h) < virtioHeaderLen {
			return
		}
		o, ok := parseVirtio(h)
		if !ok {
			return
		}
		back := make([]byte, virtioHeaderLen)
		putVirtio(back, o)
		again, ok := parseVirtio(back)
		require.True(t, ok)
		require.Equal(t, o, again)
	})
}
