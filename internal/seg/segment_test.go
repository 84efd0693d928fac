package seg

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/tap"
)

// options writes TCP options over the no-operations that a spec's frame has.
func (s spec) withOptions(payload, options []byte) []byte {
	s.tcpOptions = (len(options) + 3) / 4 * 4
	f := s.build(payload)
	t := f[len(f)-len(payload)-20-s.tcpOptions:]
	copy(t[20:], options)
	t[16], t[17] = 0, 0
	binary.BigEndian.PutUint16(t[16:], slowChecksum(append(s.pseudo(len(t)), t...)))
	return f
}

// A segment is cut as a super-frame of the same bytes would be, into parts of about one length.
func TestResetSegment(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	var c Cutter
	for range 400 {
		s := randomSpec(r)
		s.protocol, s.noChecksum, s.options = ProtocolTCP, false, 0
		s.flags &^= tcpURG | tcpCWR
		payload := randomBytes(r, 2+r.IntN(9000))
		headers := len(s.build(nil)) - 14
		if s.tagged {
			headers -= 4
		}
		mtu := headers + 1 + r.IntN(len(payload)-1)
		parts := (len(payload) + mtu - headers - 1) / (mtu - headers)
		want := s.segments(payload, (len(payload)+parts-1)/parts)
		for _, partial := range []bool{false, true} {
			frame, o := s.build(payload), tap.Offload{}
			if partial {
				frame, o = s.super(payload, 1)
				o.GSO, o.SegmentSize = tap.GSONone, 0
			}
			require.True(t, c.ResetSegment(frame, o, mtu))
			dst := tap.NewBatch(10, 20000)
			var got [][]byte
			for done := false; !done; {
				dst.Reset()
				done = c.Next(dst)
				for i := range dst.Len() {
					require.True(t, tap.Fits(dst.Frame(i), mtu))
					got = append(got, append([]byte{}, dst.Frame(i)...))
				}
			}
			require.Equal(t, want, got)
			require.False(t, c.ResetSegment(frame, o, headers+len(payload)), "it fits")
			require.False(t, c.ResetSegment(frame, o, headers), "nothing does")
			require.True(t, c.Next(dst))
		}
	}
}

// What parts would not say as the whole does is not cut.
func TestResetSegmentLeavesAlone(t *testing.T) {
	tcp4, tcp6 := spec{protocol: ProtocolTCP}, spec{protocol: ProtocolTCP, v6: true}
	with := func(s spec, change func(*spec)) spec { change(&s); return s }
	payload := make([]byte, 3000)
	broken := func(f []byte, i int) []byte { f[i] ^= 1; return f }
	for name, c := range map[string]struct {
		frame []byte
		cut   bool
	}{
		"plain":              {tcp4.build(payload), true},
		"plain, IPv6":        {tcp6.build(payload), true},
		"SACK":               {tcp4.withOptions(payload, []byte{1, 1, 5, 10, 1, 2, 3, 4, 5, 6, 7, 8}), true},
		"timestamps":         {tcp6.withOptions(payload, []byte{8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 0, 99}), true},
		"Multipath TCP":      {tcp6.withOptions(payload, []byte{30, 4, 0x20, 0}), true},
		"MD5 signature":      {tcp4.withOptions(payload, []byte{1, 1, 19, 18, 15: 0, 19: 0}), false},
		"AO signature":       {tcp4.withOptions(payload, []byte{29, 4, 0, 0}), false},
		"unknown option":     {tcp4.withOptions(payload, []byte{253, 4, 0, 0}), false},
		"option without end": {tcp4.withOptions(payload, []byte{1, 1, 5, 10}), false},
		"option of no bytes": {tcp4.withOptions(payload, []byte{5, 0, 0, 0}), false},
		"option cut":         {tcp4.withOptions(payload, []byte{1, 1, 1, 5}), false},
		"SYN":                {with(tcp4, func(s *spec) { s.flags = tcpSYN }).build(payload), false},
		"RST":                {with(tcp4, func(s *spec) { s.flags = tcpRST }).build(payload), false},
		"URG":                {with(tcp4, func(s *spec) { s.flags = tcpURG }).build(payload), false},
		"CWR":                {with(tcp4, func(s *spec) { s.flags = tcpCWR }).build(payload), false},
		"FIN":                {with(tcp4, func(s *spec) { s.flags = tcpFIN }).build(payload), true},
		"IPv4 options":       {with(tcp4, func(s *spec) { s.options = 8 }).build(payload), false},
		"hop-by-hop":         {with(tcp6, func(s *spec) { s.options = 8 }).build(payload), false},
		"UDP":                {spec{protocol: ProtocolUDP}.build(payload), false},
		"wrong checksum":     {broken(tcp4.build(payload), 1000), false},
		"wrong checksum, v6": {broken(tcp6.build(payload), 1000), false},
		"wrong IPv4 header":  {broken(tcp4.build(payload), 22), false},
		"padding":            {append(tcp4.build(payload), 0), false},
		"fragment":           {broken(tcp4.build(payload), 21), false},
	} {
		t.Run(name, func(t *testing.T) {
			var cutter Cutter
			require.Equal(t, c.cut, cutter.ResetSegment(c.frame, tap.Offload{}, 1400))
		})
	}
	var cutter Cutter
	frame, o := tcp4.super(payload, 1)
	o.GSO = tap.GSONone
	require.True(t, cutter.ResetSegment(frame, o, 1400))
	o.ChecksumStart++
	require.False(t, cutter.ResetSegment(frame, o, 1400), "a partial checksum somewhere else")
	require.False(t, cutter.ResetSegment(nil, tap.Offload{}, 1400))
}

func TestMTUAndHeaderLen(t *testing.T) {
	plain, tagged := spec{protocol: ProtocolTCP}.build(nil), spec{protocol: ProtocolUDP, v6: true, tagged: true}.build(nil)
	require.Equal(t, 1400-14, MTU(plain, 1400))
	require.Equal(t, 1400-18, MTU(tagged, 1400))
	require.Equal(t, -14, MTU(nil, 0))
	require.Equal(t, 54, HeaderLen(plain))
	require.Equal(t, 66, HeaderLen(tagged))
	require.Zero(t, HeaderLen(plain[:30]))
}

// FuzzResetSegment: what is cut carries the same bytes, and each part has right checksums.
func FuzzResetSegment(f *testing.F) {
	f.Add(spec{protocol: ProtocolTCP}.build(make([]byte, 100)), uint16(80))
	f.Add(spec{protocol: ProtocolTCP, v6: true, tagged: true}.withOptions(make([]byte, 100), []byte{1, 1, 8, 10, 11: 0}), uint16(100))
	var c Cutter
	f.Fuzz(func(t *testing.T, frame []byte, mtu uint16) {
		if len(frame) > 4096 || !c.ResetSegment(frame, tap.Offload{}, int(mtu)) {
			return
		}
		h, ok := parse(frame)
		require.True(t, ok)
		dst := tap.NewBatch(3, 3*(int(mtu)+18))
		var payload []byte
		for done := false; !done; {
			dst.Reset()
			done = c.Next(dst)
			for i := range dst.Len() {
				require.True(t, tap.Fits(dst.Frame(i), int(mtu)))
				checkSums(t, dst.Frame(i), false)
				payload = append(payload, dst.Frame(i)[h.payload:]...)
			}
		}
		require.Equal(t, frame[h.payload:], payload)
	})
}
