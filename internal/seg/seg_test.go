package seg

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/tap"
)

// cut runs a whole frame through a Cutter and dst, as a pump does.
func cut(t testing.TB, c *Cutter, dst *tap.Batch, frame []byte, o tap.Offload, mtu int) (frames [][]byte, err error) {
	if err := c.Reset(frame, o, mtu); err != nil {
		require.True(t, c.Next(dst), "after an error there is nothing")
		return nil, err
	}
	for done := false; !done; {
		dst.Reset()
		done = c.Next(dst)
		require.True(t, done || dst.Len() > 0, "no progress")
		for i := range dst.Len() {
			require.Zero(t, dst.Offload(i))
			_, headroom, _ := dst.Room(i)
			require.Equal(t, tap.Headroom, headroom)
			frames = append(frames, append([]byte{}, dst.Frame(i)...))
		}
	}
	return frames, nil
}

func TestCutterAgainstSlow(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	var c Cutter
	for range 400 {
		s := randomSpec(r)
		segment := 1 + r.IntN(1400)
		payload := randomBytes(r, r.IntN(min(60000, segment*50)))
		frame, o := s.super(payload, segment)
		o.HeaderLen = uint16(r.Uint32()) // a hint that nobody may believe
		// Room for few frames, so that Next stops and goes on.
		dst := tap.NewBatch(1+r.IntN(20), 1600+r.IntN(20000))
		got, err := cut(t, &c, dst, frame, o, 1500+8)
		require.NoError(t, err)
		require.Equal(t, s.segments(payload, segment), got, "%+v", s)
	}
}

func TestCutterFinishedAndPartial(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	var c Cutter
	dst := tap.NewBatch(4, 4*2000)
	for range 500 {
		s := randomSpec(r)
		s.noChecksum = false
		payload := randomBytes(r, r.IntN(1300))
		finished := s.build(payload)
		got, err := cut(t, &c, dst, finished, tap.Offload{}, 1500)
		require.NoError(t, err)
		require.Equal(t, [][]byte{finished}, got)

		frame, o := s.super(payload, 1)
		o.GSO, o.SegmentSize, o.HeaderLen = tap.GSONone, 0, 0
		before := append([]byte{}, frame...)
		got, err = cut(t, &c, dst, frame, o, 1500)
		require.NoError(t, err)
		require.Equal(t, [][]byte{finished}, got)
		require.Equal(t, before, frame, "the source is left alone")
		require.NoError(t, Complete(frame, o))
		require.Equal(t, finished, frame)
	}
}

func TestCompleteZero(t *testing.T) {
	// Over zeros and a pseudo-header of 0xffff the checksum comes out as 0.
	frame := make([]byte, 60)
	frame[40], frame[41] = 0xff, 0xff
	require.NoError(t, Complete(frame, tap.Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 6}))
	require.Equal(t, []byte{0xff, 0xff}, frame[40:42], "UDP: 0 would mean none")
	frame[40], frame[41], frame[50], frame[51] = 0, 0, 0xff, 0xff
	require.NoError(t, Complete(frame, tap.Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16}))
	require.Equal(t, []byte{0, 0}, frame[50:52], "TCP: 0 is a number as any")
}

// refusal is a frame that Reset refuses.
type refusal struct {
	name string
	make func() ([]byte, tap.Offload)
	want error
}

func testRefusals(t *testing.T, cases []refusal) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			frame, o := c.make()
			got, err := cut(t, new(Cutter), tap.NewBatch(8, 8*1600), frame, o, 1500)
			require.ErrorIs(t, err, c.want)
			require.Empty(t, got)
		})
	}
}

// change alters a super-frame or what is said of it.
type change func(f []byte, o *tap.Offload) []byte

func super(s spec, change change) func() ([]byte, tap.Offload) {
	return func() ([]byte, tap.Offload) {
		f, o := s.super(make([]byte, 3000), 1000)
		return change(f, &o), o
	}
}

func set(at int, v byte) change {
	return func(f []byte, _ *tap.Offload) []byte { f[at] = v; return f }
}

func short(n int) change {
	return func(f []byte, _ *tap.Offload) []byte { return f[:n] }
}

func offload(change func(*tap.Offload)) change {
	return func(f []byte, o *tap.Offload) []byte { change(o); return f }
}

// partial asks for a checksum at an odd place of a frame of 60 bytes.
func partial(start, at uint16) func() ([]byte, tap.Offload) {
	return func() ([]byte, tap.Offload) {
		return make([]byte, 60), tap.Offload{NeedsChecksum: true, ChecksumStart: start, ChecksumOffset: at}
	}
}

func TestCutterRefusesOffloads(t *testing.T) {
	tcp4, tcp6, udp4 := spec{protocol: ProtocolTCP}, spec{protocol: ProtocolTCP, v6: true}, spec{protocol: ProtocolUDP}
	testRefusals(t, []refusal{
		{"empty", func() ([]byte, tap.Offload) { return nil, tap.Offload{} }, ErrMalformed},
		{"runt", func() ([]byte, tap.Offload) { return make([]byte, 13), tap.Offload{} }, ErrMalformed},
		{"long", func() ([]byte, tap.Offload) { return make([]byte, 1515), tap.Offload{} }, ErrTooLong},
		{"checksum behind the end", partial(34, 25), ErrMalformed},
		{"checksum start behind the end", partial(65535, 0), ErrMalformed},
		{"checksum overflow", partial(65535, 65535), ErrMalformed},
		{"checksum in the Ethernet header", partial(13, 0), ErrMalformed},
		{"segment size 0", super(tcp4, offload(func(o *tap.Offload) { o.SegmentSize = 0 })), ErrMalformed},
		{"segments too long", super(udp4, offload(func(o *tap.Offload) { o.SegmentSize = 1473 })), ErrTooLong},
		{"unknown kind", super(tcp4, offload(func(o *tap.Offload) { o.GSO = 9 })), ErrMalformed},
		{"TCPv6 announced, IPv4 there", super(tcp4, offload(func(o *tap.Offload) { o.GSO = tap.GSOTCP6 })), ErrMalformed},
		{"TCPv4 announced, IPv6 there", super(tcp6, offload(func(o *tap.Offload) { o.GSO = tap.GSOTCP4 })), ErrMalformed},
		{"TCP announced, UDP there", super(udp4, offload(func(o *tap.Offload) { o.GSO = tap.GSOTCP4 })), ErrMalformed},
		{"UDP announced, TCP there", super(tcp4, offload(func(o *tap.Offload) { o.GSO = tap.GSOUDP })), ErrMalformed},
	})
}

// A segment size that does not fit behind TCP's options is made to fit.
func TestCutterShortensTCP(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, s := range []spec{{protocol: ProtocolTCP, tcpOptions: 32}, {protocol: ProtocolTCP, v6: true, tcpOptions: 24}} {
		payload := randomBytes(r, 20000)
		frame, o := s.super(payload, 1400)
		fits := 1400 - (len(frame) - len(payload) - tap.HeaderLen)
		got, err := cut(t, &Cutter{}, tap.NewBatch(64, 1<<17), frame, o, 1400)
		require.NoError(t, err)
		require.Equal(t, s.segments(payload, fits), got)
	}
}

func TestCutterRefusesIP(t *testing.T) {
	tcp4, tcp6 := spec{protocol: ProtocolTCP}, spec{protocol: ProtocolTCP, v6: true}
	testRefusals(t, []refusal{
		{"neither IPv4 nor IPv6", super(tcp4, set(13, 6)), ErrMalformed},
		{"tag without a header", super(tcp4, func(f []byte, _ *tap.Offload) []byte { f[12], f[13] = 0x81, 0; return f[:16] }), ErrMalformed},
		{"two tags", super(spec{protocol: ProtocolTCP, tagged: true}, func(f []byte, _ *tap.Offload) []byte { f[16], f[17] = 0x81, 0; return f }), ErrMalformed},
		{"IPv4 version", super(tcp4, set(14, 0x65)), ErrMalformed},
		{"IPv4 header too short", super(tcp4, set(14, 0x44)), ErrMalformed},
		{"IPv4 header behind the end", super(tcp4, short(33)), ErrMalformed},
		{"IPv4 length too long", super(tcp4, set(16, 0xff)), ErrMalformed},
		{"IPv4 length too short", super(tcp4, func(f []byte, _ *tap.Offload) []byte { f[16], f[17] = 0, 19; return f }), ErrMalformed},
		{"IPv4 fragment", super(tcp4, set(20, 0x20)), ErrMalformed},
		{"IPv4 later fragment", super(tcp4, set(21, 1)), ErrMalformed},
		{"IPv6 version", super(tcp6, set(14, 0x40)), ErrMalformed},
		{"IPv6 header behind the end", super(tcp6, short(53)), ErrMalformed},
		{"IPv6 length too long", super(tcp6, set(18, 0xff)), ErrMalformed},
		{"IPv6 routing header", super(tcp6, set(20, 43)), ErrMalformed},
		{"IPv6 fragment", super(tcp6, set(20, 44)), ErrMalformed},
		{"IPv6 options behind the end", super(spec{protocol: ProtocolTCP, v6: true, options: 8}, func(f []byte, _ *tap.Offload) []byte {
			f[18], f[19], f[55] = 0, 40, 9
			return f
		}), ErrMalformed},
		{"IPv6 options cut", super(tcp6, func(f []byte, _ *tap.Offload) []byte { f[18], f[19], f[20] = 0, 7, 60; return f }), ErrMalformed},
	})
}

func TestCutterRefusesTransport(t *testing.T) {
	tcp4, udp4 := spec{protocol: ProtocolTCP}, spec{protocol: ProtocolUDP}
	testRefusals(t, []refusal{
		{"TCP header cut", super(tcp4, func(f []byte, _ *tap.Offload) []byte { f[16], f[17] = 0, 39; return f }), ErrMalformed},
		{"TCP data offset too small", super(tcp4, set(46, 0x40)), ErrMalformed},
		{"TCP data offset behind the end", super(tcp4, func(f []byte, _ *tap.Offload) []byte { f[16], f[17], f[46] = 0, 40, 0x60; return f }), ErrMalformed},
		{"TCP SYN", super(tcp4, set(47, tcpSYN)), ErrMalformed},
		{"TCP RST", super(tcp4, set(47, tcpRST)), ErrMalformed},
		{"UDP header cut", super(udp4, func(f []byte, _ *tap.Offload) []byte { f[16], f[17] = 0, 27; return f }), ErrMalformed},
		{"SCTP", super(udp4, set(23, 132)), ErrMalformed},
	})
}

// Bytes behind the IP packet (padding) are no payload.
func TestCutterIgnoresPadding(t *testing.T) {
	s := spec{protocol: ProtocolTCP}
	payload := make([]byte, 1500)
	frame, o := s.super(payload, 1000)
	got, err := cut(t, new(Cutter), tap.NewBatch(8, 8*1600), append(frame, 1, 2, 3), o, 1500)
	require.NoError(t, err)
	require.Equal(t, s.segments(payload, 1000), got)
}

// A batch made too small must not hang the pump.
func TestCutterGivesUp(t *testing.T) {
	frame, o := spec{protocol: ProtocolTCP}.super(make([]byte, 3000), 1000)
	small := tap.NewBatch(1, 500)
	for _, offload := range []tap.Offload{o, {}} {
		var c Cutter
		require.NoError(t, c.Reset(frame, offload, 9000))
		require.True(t, c.Next(small))
		require.Zero(t, small.Len())
	}
	require.True(t, new(Cutter).Next(small), "the zero Cutter has nothing")
}

func TestCutterAllocs(t *testing.T) {
	frame, o := spec{protocol: ProtocolTCP}.super(make([]byte, 60000), 1448)
	partial := tap.Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16}
	dst := tap.NewBatch(32, 32*1600)
	var c Cutter
	require.Zero(t, testing.AllocsPerRun(20, func() {
		for _, x := range []tap.Offload{o, partial, {}, {GSO: 9}} {
			f := frame
			if x.GSO == tap.GSONone {
				f = frame[:1400]
			}
			_ = c.Reset(f, x, 1500)
			for dst.Reset(); !c.Next(dst); dst.Reset() {
			}
		}
	}))
}

func FuzzCutter(f *testing.F) {
	for _, s := range []spec{
		{protocol: ProtocolTCP}, {protocol: ProtocolTCP, v6: true, tagged: true},
		{protocol: ProtocolUDP, options: 8}, {protocol: ProtocolUDP, v6: true, options: 16, noChecksum: true},
	} {
		frame, o := s.super(make([]byte, 300), 100)
		f.Add(frame, o.NeedsChecksum, o.ChecksumStart, o.ChecksumOffset, uint8(o.GSO), o.SegmentSize, uint16(1500))
	}
	f.Add([]byte{}, true, uint16(65535), uint16(65535), uint8(1), uint16(0), uint16(0))
	var c Cutter
	f.Fuzz(func(t *testing.T, frame []byte, needs bool, start, at uint16, gso uint8, segment, mtu uint16) {
		if len(frame) > 4096 {
			return // more of the same, only slower
		}
		o := tap.Offload{NeedsChecksum: needs, ChecksumStart: start, ChecksumOffset: at, GSO: tap.GSO(gso), SegmentSize: segment}
		got, err := cut(t, &c, tap.NewBatch(3, 3*(int(mtu)+18)), frame, o, int(mtu))
		if err != nil {
			require.Empty(t, got)
			return
		}
		require.NotEmpty(t, got)
		for _, g := range got {
			require.True(t, tap.Fits(g, int(mtu)))
			if o.GSO != tap.GSONone {
				checkSums(t, g, !needs)
			}
		}
	})
}

// checkSums verifies a segment as its receiver would.
func checkSums(t *testing.T, f []byte, mayLack bool) {
	h, ok := parse(f)
	require.True(t, ok)
	require.Equal(t, len(f), h.end)
	if !h.v6 {
		require.Zero(t, slowChecksum(f[h.l3:h.l4]))
	}
	l4 := f[h.l4:]
	if mayLack && h.protocol == ProtocolUDP && l4[6] == 0 && l4[7] == 0 {
		return
	}
	addresses := f[h.l3+12 : h.l3+20]
	if h.v6 {
		addresses = f[h.l3+8 : h.l3+40]
	}
	pseudo := append([]byte{}, addresses...)
	pseudo = append(pseudo, 0, h.protocol)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(l4)))
	require.Zero(t, slowChecksum(append(pseudo, l4...)))
}

func BenchmarkCutter(b *testing.B) {
	for _, c := range []struct {
		name string
		spec spec
	}{
		{"TCP4", spec{protocol: ProtocolTCP, tcpOptions: 12}},
		{"TCP6", spec{protocol: ProtocolTCP, v6: true, tcpOptions: 12}},
		{"UDP4", spec{protocol: ProtocolUDP}},
	} {
		b.Run(c.name, func(b *testing.B) {
			frame, o := c.spec.super(make([]byte, 64000), 1400)
			dst := tap.NewBatch(64, 64*1600)
			var cutter Cutter
			b.SetBytes(int64(len(frame)))
			b.ReportAllocs()
			for b.Loop() {
				dst.Reset()
				if cutter.Reset(frame, o, 1500) != nil || !cutter.Next(dst) {
					b.Fatal("not cut")
				}
			}
		})
	}
}

func BenchmarkCutterFinished(b *testing.B) {
	frame := spec{protocol: ProtocolTCP}.build(make([]byte, 1400))
	dst := tap.NewBatch(1, 1600)
	var cutter Cutter
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		dst.Reset()
		if cutter.Reset(frame, tap.Offload{}, 1500) != nil || !cutter.Next(dst) {
			b.Fatal("not passed")
		}
	}
}
