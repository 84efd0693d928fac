package pump

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/l2"
	"github.com/viasnet/vias/internal/seg"
	"github.com/viasnet/vias/tap"
)

// What the peer's device does not take, its sender hears of, as from a router.
func TestTooBig(t *testing.T) {
	e := newEnds(t, 1400, 9000, 1500)
	f := packet{proto: 17, payload: 1473}.build()
	e.pass(t, f, tap.Offload{})
	require.Len(t, e.told.frames, 1)
	m := e.told.frames[0]
	require.Len(t, m, 14+576)
	require.Equal(t, slices.Concat(macHere[:], macThere[:], []byte{8, 0}), m[:14])
	require.Zero(t, seg.Checksum(m[14:34], 0))
	require.Equal(t, ipThere.AsSlice(), m[26:30])
	require.Equal(t, ipHere.AsSlice(), m[30:34])
	require.Equal(t, uint16(576), binary.BigEndian.Uint16(m[16:]))
	require.Zero(t, seg.Checksum(m[34:], 0))
	require.Equal(t, []byte{3, 4}, m[34:36])
	require.Equal(t, []byte{0, 0, 1500 >> 8, 1500 & 255}, m[38:42])
	require.Equal(t, f[14:14+576-28], m[42:])

	v6 := packet{v6: true, tagged: true, proto: 17, payload: 1453}
	f = v6.build()
	e.pass(t, f, tap.Offload{})
	require.Len(t, e.told.frames, 2)
	m = e.told.frames[1]
	require.Len(t, m, 18+1280)
	require.Equal(t, slices.Concat(macHere[:], macThere[:], []byte{0x81, 0, 0x20, 7, 0x86, 0xdd}), m[:18])
	src, dst := v6.ends()
	require.Equal(t, dst.AsSlice(), m[26:42])
	require.Equal(t, src.AsSlice(), m[42:58])
	icmp := m[58:]
	require.Equal(t, uint16(len(icmp)), binary.BigEndian.Uint16(m[22:]))
	require.Equal(t, []byte{2, 0}, icmp[:2])
	require.Equal(t, uint32(1500), binary.BigEndian.Uint32(icmp[4:]))
	require.Zero(t, seg.Checksum(icmp, seg.PseudoHeader(dst.AsSlice(), src.AsSlice(), 58, len(icmp))))
	require.Equal(t, f[18:18+len(icmp)-8], icmp[8:])

	for _, m := range e.told.frames { // our own source check would take them from the peer
		_, cause := e.out.Stations.View().CheckSource(m, peerID)
		require.Equal(t, l2.OK, cause)
	}
	require.Equal(t, uint64(2), e.out.Counters.TooBig.Load())
	require.Equal(t, uint64(2), e.out.Counters.Dropped(OutTooLong))

	tiny := newEnds(t, 1400, 9000, 600)
	tiny.pass(t, packet{v6: true, proto: 17, payload: 1000}.build(), tap.Offload{})
	require.Equal(t, uint32(1280), binary.BigEndian.Uint32(tiny.told.frames[0][58:]), "IPv6 knows no less")
}

// TCP is cut, so nobody need be told; super-frames of UDP whose segments are too long are.
func TestTooBigAndSuperFrames(t *testing.T) {
	e := newEnds(t, 1400, 9000, 1200)
	f, o := packet{proto: 6, flags: 0x10, payload: 8000}.super(8000)
	e.pass(t, f, o)
	require.Len(t, e.wire.frames, 7)
	e.pass(t, packet{proto: 6, flags: 0x10, payload: 8000}.build(), tap.Offload{})
	require.Len(t, e.wire.frames, 7)
	require.Empty(t, e.told.frames)
	f, o = packet{proto: 17, payload: 8000}.super(1173)
	e.pass(t, f, o)
	require.Empty(t, e.wire.frames)
	require.Len(t, e.told.frames, 1)
	f, o = packet{proto: 17, payload: 8000}.super(1172)
	e.pass(t, f, o)
	require.Len(t, e.wire.frames, 7)
}

// What may be cut by routers is, for a peer's device that takes less.
func TestFragmentsOfIP(t *testing.T) {
	e := newEnds(t, 1400, 9000, 1500)
	for _, p := range []packet{{proto: 17, payload: 4000}, {proto: 17, payload: 8900, tagged: true}} {
		l3 := p.headers() - 28
		free := func(f []byte) []byte {
			f[l3+6] = 0
			seg.PutIPv4Checksum(f[l3 : l3+20])
			return f
		}
		want := tap.NewBatch(10, 20000)
		require.True(t, seg.FragmentIPv4(want, free(p.build()), 1500))
		check := func(f []byte, o tap.Offload) {
			e.pass(t, free(f), o)
			require.Len(t, e.wire.frames, want.Len())
			for i := range want.Len() {
				require.Equal(t, want.Frame(i), e.wire.frames[i])
			}
		}
		check(p.build(), tap.Offload{})
		check(p.partial())
	}
	f, o := packet{proto: 17, payload: 8000}.super(2000)
	f[20] = 0
	seg.PutIPv4Checksum(f[14:34])
	e.pass(t, f, o)
	require.Len(t, e.wire.frames, 4*2)
	require.Empty(t, e.told.frames)
	require.Zero(t, e.out.Counters.Dropped(OutTooLong))
}

// Errors are not answered, nor what has no one sender and receiver.
func TestTooBigIsNotSaid(t *testing.T) {
	f4, f6 := packet{proto: 17, payload: 3000}, packet{v6: true, proto: 17, payload: 3000}
	change := func(f []byte, at int, v ...byte) []byte { copy(f[at:], v); return f }
	for name, f := range map[string][]byte{
		"broadcast frame":        change(f4.build(), 0, 255, 255, 255, 255, 255, 255),
		"multicast frame":        change(f6.build(), 0, 0x33, 0x33),
		"unknown station":        change(f4.build(), 5, 99),
		"no IP":                  other(3000),
		"IPv4 options":           change(f4.build(), 14, 0x46),
		"later fragment":         change(f4.build(), 20, 0, 1),
		"ICMP error":             change(f4.build(), 23, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 3),
		"ICMPv6 error":           change(change(f6.build(), 20, 58), 54, 1),
		"from nobody":            change(f4.build(), 26, 0, 0, 0, 0),
		"to many":                change(f4.build(), 30, 224, 0, 0, 1),
		"to all":                 change(f4.build(), 30, 255, 255, 255, 255),
		"IPv6 from nobody":       change(f6.build(), 22, make([]byte, 16)...),
		"IPv6 to many":           change(f6.build(), 38, 255),
		"two tags":               slices.Concat(macThere[:], macHere[:], []byte{0x88, 0xa8, 0, 1, 0x81, 0, 0, 1}, f4.build()[12:]),
		"IPv6 shorter than ICMP": slices.Concat(f6.build()[:54], []byte{1}),
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnds(t, 1400, 9000, 1500)
			if len(f) < 1500 {
				require.False(t, answerable(f))
				return
			}
			e.pass(t, f, tap.Offload{})
			require.Empty(t, e.told.frames)
			require.Equal(t, uint64(1), e.out.Counters.Dropped(OutTooLong))
		})
	}
	e := newEnds(t, 1400, 9000, 1500)
	echo := change(f4.build(), 23, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 8)
	e.pass(t, echo, tap.Offload{})
	require.Len(t, e.told.frames, 1, "an echo request is no error")
}

func TestTooBigIsBounded(t *testing.T) {
	var n notices
	now := time.Unix(1000, 0)
	allowed := func(calls int) (k int) {
		for range calls {
			if n.allow(now) {
				k++
			}
		}
		return k
	}
	require.Equal(t, noticeBurst, allowed(1000))
	now = now.Add(-time.Hour)
	require.Zero(t, allowed(1000), "the clock was set back")
	now = now.Add(time.Second / 10)
	require.Equal(t, noticeRate/10, allowed(1000))
	now = now.Add(time.Hour)
	require.Equal(t, noticeBurst, allowed(1000))

	e := newEnds(t, 1400, 9000, 1500)
	e.out.Writer = NewWriter(&wire{})
	b := batch()
	b.Append(packet{proto: 17, payload: 3000}.build(), tap.Offload{})
	e.out.Batch(b)
	require.Zero(t, testing.AllocsPerRun(100, func() { e.out.Batch(b) }))
	e.out.Writer = nil
	e.out.Batch(b)
}
