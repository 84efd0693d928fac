package seg

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// slowChecksum is RFC 1071 word for word.
func slowChecksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i]) << 8
		if i+1 < len(b) {
			word |= uint32(b[i+1])
		}
		sum += word
		if sum > 0xffff {
			sum -= 0xffff
		}
	}
	return ^uint16(sum)
}

// same compares checksums: 0 and 0xffff are the same number in ones' complement.
func same(t *testing.T, want, got uint16) {
	t.Helper()
	if want == 0xffff {
		want = 0
	}
	if got == 0xffff {
		got = 0
	}
	require.Equal(t, want, got)
}

func TestChecksumKnown(t *testing.T) {
	// RFC 1071, section 3.
	require.Equal(t, uint32(0xddf2), Sum([]byte{0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7}, 0))
	require.Equal(t, uint16(0xffff), Checksum(nil, 0))
	require.Equal(t, uint16(0), Checksum([]byte{0xff, 0xff}, 0))
	require.Equal(t, uint16(0xfeff), Checksum([]byte{1}, 0), "an odd byte is the upper half of its word")

	header := []byte{ // an IPv4 header of Wikipedia's
		0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xaa, 0xaa, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7,
	}
	PutIPv4Checksum(header)
	require.Equal(t, []byte{0xb8, 0x61}, header[10:12])
	require.Zero(t, Checksum(header, 0))
}

func TestChecksumAgainstSlow(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	mem := make([]byte, 700)
	for range 5000 {
		b := mem[r.IntN(8):][:r.IntN(600)]
		fill := byte(r.Uint32())
		for i := range b {
			b[i] = byte(r.Uint32())
			if fill < 40 {
				b[i] = 0xff // carries everywhere
			}
		}
		require.Equal(t, slowChecksum(b), Checksum(b, 0))
		cut := r.IntN(len(b)/2+1) * 2
		require.Equal(t, slowChecksum(b), Checksum(b[cut:], Sum(b[:cut], 0)), "chained")
		require.Equal(t, slowChecksum(b), Checksum(nil, Sum(b[:cut], 0)+Sum(b[cut:], 0)), "added up")
	}
}

func TestUpdate(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 5000 {
		b := make([]byte, 60)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		before := Checksum(b, 0)
		at, n := r.IntN(15)*2, r.IntN(9)*2
		old := append([]byte{}, b[at:at+n]...)
		for i := range n {
			b[at+i] = byte(r.Uint32())
		}
		same(t, Checksum(b, 0), Update(before, old, b[at:at+n]))
	}
	// RFC 1624, section 4: the example that equation 2 gets wrong.
	require.Equal(t, uint16(0x0000), Update(0xdd2f, []byte{0x55, 0x55}, []byte{0x32, 0x85}))
}

func TestTransportChecksum(t *testing.T) {
	for _, c := range []struct{ src, dst string }{{"192.0.2.1", "198.51.100.7"}, {"2001:db8::1", "2001:db8::2"}} {
		src, dst := netip.MustParseAddr(c.src), netip.MustParseAddr(c.dst)
		segment := make([]byte, 31)
		for i := range segment {
			segment[i] = byte(i * 7)
		}
		segment[16], segment[17] = 0, 0
		pseudo := append(src.AsSlice(), dst.AsSlice()...)
		pseudo = append(pseudo, 0, 6, 0, byte(len(segment)))
		want := slowChecksum(append(pseudo, segment...))
		require.Equal(t, want, TransportChecksum(src, dst, ProtocolTCP, segment))
		binary.BigEndian.PutUint16(segment[16:], want)
		require.Zero(t, Checksum(segment, PseudoHeader(src.AsSlice(), dst.AsSlice(), ProtocolTCP, len(segment))))
		require.Zero(t, testing.AllocsPerRun(10, func() { TransportChecksum(src, dst, ProtocolTCP, segment) }))
	}
	// A UDP datagram whose checksum comes out as 0.
	src, dst := netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("0.0.0.0")
	segment := []byte{0, 0, 0, 0, 0, 10, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(segment[8:], TransportChecksum(src, dst, ProtocolUDP, segment))
	require.Equal(t, uint16(0xffff), TransportChecksum(src, dst, ProtocolUDP, segment))
	require.Equal(t, uint16(ProtocolUDP-ProtocolTCP), TransportChecksum(src, dst, ProtocolTCP, segment))
}

func FuzzChecksum(f *testing.F) {
	f.Add([]byte{}, uint16(0))
	f.Add([]byte{1, 2, 3}, uint16(0xffff))
	f.Fuzz(func(t *testing.T, b []byte, initial uint16) {
		want := slowChecksum(append([]byte{byte(initial >> 8), byte(initial)}, b...))
		require.Equal(t, want, Checksum(b, uint32(initial)))
	})
}

func BenchmarkChecksum(b *testing.B) {
	for _, n := range []int{20, 1460, 65000} {
		b.Run(map[int]string{20: "20B", 1460: "1460B", 65000: "65000B"}[n], func(b *testing.B) {
			p := make([]byte, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				Checksum(p, 0)
			}
		})
	}
}
