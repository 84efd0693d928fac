package seg

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/tap"
)

// unfragmented clears DF.
func unfragmented(f []byte, l3 int) []byte {
	f[l3+6] = 0
	PutIPv4Checksum(f[l3:][:20])
	return f
}

// Fragments, and fragments of fragments, are what RFC 791 puts together again.
func TestFragmentIPv4(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 3))
	for range 300 {
		s := spec{protocol: ProtocolUDP, tagged: r.IntN(2) == 0, id: uint16(r.Uint32())}
		l3 := 14
		if s.tagged {
			l3 = 18
		}
		frame := unfragmented(s.build(randomBytes(r, r.IntN(9000))), l3)
		whole, got := make([]byte, len(frame)-l3-20), map[int]int{}
		once, twice := 576+r.IntN(9000), 576+r.IntN(1000)
		for _, f := range fragmentsOf(t, frame, once) {
			for _, g := range fragmentsOf(t, f, twice) {
				require.True(t, tap.Fits(g, min(once, twice)))
				require.Zero(t, slowChecksum(g[l3:l3+20]))
				require.Equal(t, frame[:l3+2], g[:l3+2])
				require.Equal(t, frame[l3+4:l3+6], g[l3+4:l3+6], "identification")
				require.Equal(t, len(g)-l3, int(binary.BigEndian.Uint16(g[l3+2:])))
				field := binary.BigEndian.Uint16(g[l3+6:])
				at := int(field&ipv4Offset) * 8
				copy(whole[at:], g[l3+20:])
				got[at] = len(g) - l3 - 20
				require.Equal(t, at+got[at] < len(whole), field&ipv4MF != 0)
			}
		}
		require.Equal(t, frame[l3+20:], whole)
		at := 0
		for at < len(whole) {
			require.Positive(t, got[at])
			at += got[at]
		}
	}
}

func fragmentsOf(t *testing.T, frame []byte, mtu int) (list [][]byte) {
	require.True(t, MayFragment(frame, mtu))
	dst := tap.NewBatch(128, 2*tap.MaxFrame)
	require.True(t, FragmentIPv4(dst, frame, mtu))
	for i := range dst.Len() {
		list = append(list, append([]byte{}, dst.Frame(i)...))
	}
	return list
}

func TestMayNotFragment(t *testing.T) {
	udp := spec{protocol: ProtocolUDP}
	fine := unfragmented(udp.build(make([]byte, 2000)), 14)
	require.True(t, MayFragment(fine, 1500))
	require.False(t, FragmentIPv4(tap.NewBatch(1, 3000), fine, 1500), "no room")
	change := func(at int, v ...byte) []byte {
		f := append([]byte{}, fine...)
		copy(f[at:], v)
		return f
	}
	late := change(20, 0x1f, 0xff)
	PutIPv4Checksum(late[14:34])
	for name, f := range map[string][]byte{
		"DF":             udp.build(make([]byte, 2000)),
		"IPv6":           spec{protocol: ProtocolUDP, v6: true}.build(make([]byte, 2000)),
		"options":        unfragmented(spec{protocol: ProtocolUDP, options: 8}.build(make([]byte, 2000)), 14),
		"wrong checksum": change(24, 1, 1),
		"length":         change(16, 0xff),
		"short length":   change(16, 0, 19),
		"too far behind": late,
		"no IP":          change(12, 0x88, 0xb5),
		"half a tag":     {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x81, 0},
		"runt":           fine[:13],
		"cut":            fine[:30],
	} {
		require.False(t, MayFragment(f, 1500), name)
	}
	require.False(t, MayFragment(fine, 575))
	require.False(t, FragmentIPv4(tap.NewBatch(9, 9999), nil, 1500))
}
