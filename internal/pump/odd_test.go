package pump

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/l2"
	"github.com/viasnet/vias/internal/seg"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// packet is a finished TCP or UDP frame from macHere to macThere as its fields.
type packet struct {
	v6, tagged bool
	proto      uint8
	flags      byte // TCP
	payload    int
}

func (p packet) ends() (src, dst netip.Addr) {
	if p.v6 {
		return netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	}
	return ipHere, ipThere
}

func (p packet) headers() int { return len(packet{v6: p.v6, tagged: p.tagged, proto: p.proto}.build()) }

func (p packet) build() []byte {
	h := make([]byte, 8, 20+p.payload)
	if p.proto == 6 {
		h = h[:20]
		h[12], h[13] = 5<<4, p.flags
	} else {
		binary.BigEndian.PutUint16(h[4:], uint16(8+p.payload))
	}
	binary.BigEndian.PutUint16(h, 1000)
	binary.BigEndian.PutUint16(h[2:], 80)
	for i := range p.payload {
		h = append(h, byte(i*i>>3))
	}
	src, dst := p.ends()
	binary.BigEndian.PutUint16(h[checksumAt(p.proto):], seg.TransportChecksum(src, dst, p.proto, h))
	f := append(append([]byte{}, macThere[:]...), macHere[:]...)
	if p.tagged {
		f = append(f, 0x81, 0, 0x20, 7)
	}
	if p.v6 {
		ip := make([]byte, 8)
		ip[0], ip[6], ip[7] = 0x60, p.proto, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(h)))
		return slices.Concat(f, []byte{0x86, 0xdd}, ip, src.AsSlice(), dst.AsSlice(), h)
	}
	ip := slices.Concat([]byte{0x45, 2, 0, 0, 0x12, 0x34, 0x40, 0, 64, p.proto, 0, 0}, src.AsSlice(), dst.AsSlice())
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(h)))
	seg.PutIPv4Checksum(ip)
	return slices.Concat(f, []byte{8, 0}, ip, h)
}

func checksumAt(proto uint8) int {
	if proto == 6 {
		return 16
	}
	return 6
}

// partial is the frame with a partial checksum, and what says so.
func (p packet) partial() ([]byte, tap.Offload) {
	f := p.build()
	l4 := p.headers() - map[uint8]int{6: 20, 17: 8}[p.proto]
	src, dst := p.ends()
	sum := uint16(seg.PseudoHeader(src.AsSlice(), dst.AsSlice(), p.proto, len(f)-l4))
	binary.BigEndian.PutUint16(f[l4+checksumAt(p.proto):], sum)
	return f, tap.Offload{NeedsChecksum: true, ChecksumStart: uint16(l4), ChecksumOffset: uint16(checksumAt(p.proto))}
}

// super is the frame with a partial checksum as a super-frame.
func (p packet) super(segment int) ([]byte, tap.Offload) {
	f, o := p.partial()
	o.SegmentSize, o.HeaderLen, o.GSO = uint16(segment), uint16(p.headers()), tap.GSOUDP
	if p.proto == 6 {
		o.GSO = map[bool]tap.GSO{false: tap.GSOTCP4, true: tap.GSOTCP6}[p.v6]
	}
	return f, o
}

// Whatever a workload sends arrives as it is, or is counted by its cause.
func TestOddFrames(t *testing.T) {
	raw := func(dst, src tap.MAC, rest ...byte) []byte { return slices.Concat(dst[:], src[:], rest) }
	here := func(rest ...byte) []byte { return raw(macThere, macHere, rest...) }
	tcp4, tcp6 := packet{proto: 6, flags: 0x10, payload: 1000}, packet{v6: true, proto: 6, flags: 0x10, payload: 1000}
	udp4 := packet{proto: 17, payload: 1000}
	change := func(f []byte, at int, v ...byte) []byte { copy(f[at:], v); return f }
	long := packet{proto: 17, payload: 8000}
	partial := tap.Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16}
	for name, c := range map[string]struct {
		frame   []byte
		offload tap.Offload
		drop    Drop // Drops: it arrives
	}{
		"nothing":                     {[]byte{}, tap.Offload{}, OutMalformed},
		"runt":                        {here(8), tap.Offload{}, OutMalformed},
		"header only":                 {here(0x88, 0xb5), tap.Offload{}, Drops},
		"unknown EtherType":           {here(0x88, 0xb5, 1, 2, 3), tap.Offload{}, Drops},
		"802.3 with a length":         {here(0, 3, 0x42, 0x42, 3), tap.Offload{}, Drops},
		"loopback test":               {here(0x90, 0, 0, 0), tap.Offload{}, Drops},
		"MPLS":                        {here(0x88, 0x47, 0, 1, 1, 64), tap.Offload{}, Drops},
		"PPPoE":                       {here(0x88, 0x64, 0x11, 0, 0, 1), tap.Offload{}, Drops},
		"tag":                         {packet{tagged: true, proto: 17, payload: 9}.build(), tap.Offload{}, Drops},
		"QinQ":                        {here(0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 0x88, 0xb5, 1), tap.Offload{}, Drops},
		"three tags":                  {here(0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3, 8, 0), tap.Offload{}, OutMalformed},
		"half a tag":                  {here(0x81, 0, 1), tap.Offload{}, OutMalformed},
		"own source comes back":       {raw(macHere, macThere, 8, 6), tap.Offload{}, OutSourceMAC},
		"to itself":                   {raw(macHere, macHere, 0x88, 0xb5), tap.Offload{}, OutLocal},
		"from nobody":                 {raw(macThere, tap.MAC{}, 0x88, 0xb5), tap.Offload{}, OutSourceMAC},
		"from many":                   {raw(macThere, tap.Broadcast, 0x88, 0xb5), tap.Offload{}, OutSourceMAC},
		"spanning tree":               {raw(tap.MAC{1, 0x80, 0xc2}, macHere, 0, 3, 0x42, 0x42, 3), tap.Offload{}, OutLinkLocal},
		"broadcast":                   {raw(tap.Broadcast, macHere, 0x88, 0xb5), tap.Offload{}, Drops},
		"multicast":                   {raw(tap.MAC{0x33, 0x33, 1}, macHere, 0x88, 0xb5), tap.Offload{}, Drops},
		"unknown station":             {raw(tap.MAC{2, 77}, macHere, 0x88, 0xb5), tap.Offload{}, Drops},
		"short IPv4":                  {here(8, 0, 0x45, 0), tap.Offload{}, OutMalformed},
		"IPv4 length too long":        {change(udp4.build(), 16, 0xff, 0xff), tap.Offload{}, Drops},
		"IPv4 length too short":       {change(udp4.build(), 16, 0, 1), tap.Offload{}, Drops},
		"IPv4 header length":          {change(udp4.build(), 14, 0x4f), tap.Offload{}, Drops},
		"IPv4 of version 6":           {change(udp4.build(), 14, 0x65), tap.Offload{}, OutMalformed},
		"IPv4 checksum wrong":         {change(udp4.build(), 24, 1, 2), tap.Offload{}, Drops},
		"UDP checksum wrong":          {change(udp4.build(), 40, 1, 2), tap.Offload{}, Drops},
		"UDP without checksum":        {change(udp4.build(), 40, 0, 0), tap.Offload{}, Drops},
		"UDP length wrong":            {change(udp4.build(), 38, 0xff, 0xff), tap.Offload{}, Drops},
		"first fragment":              {change(udp4.build(), 20, 0x20, 0), tap.Offload{}, Drops},
		"later fragment":              {change(udp4.build(), 20, 0x20, 7), tap.Offload{}, Drops},
		"SCTP":                        {change(udp4.build(), 23, 132), tap.Offload{}, Drops},
		"foreign IPv4":                {change(udp4.build(), 26, 10, 9, 9, 9), tap.Offload{}, OutSourceIP},
		"IPv6 routing header":         {change(packet{v6: true, proto: 17, payload: 40}.build(), 20, 43), tap.Offload{}, Drops},
		"IPv6 fragment":               {change(packet{v6: true, proto: 17, payload: 40}.build(), 20, 44), tap.Offload{}, Drops},
		"padding behind the packet":   {append(udp4.build(), make([]byte, 50)...), tap.Offload{}, Drops},
		"IPv6 length too long":        {change(tcp6.build(), 18, 0xff, 0xff), tap.Offload{}, Drops},
		"wrong TCP, longer than link": {change(packet{proto: 6, flags: 0x10, payload: 3000}.build(), 50, 1, 1), tap.Offload{}, Drops},
		"SYN, longer than link":       {packet{proto: 6, flags: 2, payload: 3000}.build(), tap.Offload{}, Drops},
		"jumbo":                       {long.build(), tap.Offload{}, Drops},
		"jumbo beyond the MTU":        {packet{proto: 17, payload: 9000}.build(), tap.Offload{}, OutTooLong},
		"tagged jumbo that fits":      {packet{tagged: true, proto: 17, payload: 9000 - 28}.build(), tap.Offload{}, Drops},
		"tagged jumbo beyond":         {packet{tagged: true, proto: 17, payload: 9001 - 28}.build(), tap.Offload{}, OutTooLong},
		"checksum field outside":      {tcp4.build(), tap.Offload{NeedsChecksum: true, ChecksumStart: 2000, ChecksumOffset: 16}, OutMalformed},
		"checksum field in Ethernet":  {tcp4.build(), tap.Offload{NeedsChecksum: true, ChecksumStart: 3, ChecksumOffset: 6}, OutMalformed},
		"checksum field wraps":        {tcp4.build(), tap.Offload{NeedsChecksum: true, ChecksumStart: 65535, ChecksumOffset: 65535}, OutMalformed},
		"TSO without segment size":    {tcp4.build(), tap.Offload{NeedsChecksum: true, GSO: tap.GSOTCP4}, OutMalformed},
		"TSO of the other family":     {tcp4.build(), tap.Offload{NeedsChecksum: true, GSO: tap.GSOTCP6, SegmentSize: 100}, OutMalformed},
		"TSO of UDP":                  {udp4.build(), tap.Offload{NeedsChecksum: true, GSO: tap.GSOTCP4, SegmentSize: 100}, OutMalformed},
		"TSO of a SYN":                {packet{proto: 6, flags: 2, payload: 3000}.build(), tap.Offload{NeedsChecksum: true, GSO: tap.GSOTCP4, SegmentSize: 100}, OutMalformed},
		"TSO of no IP":                {here(0x88, 0xb5, 1), tap.Offload{GSO: tap.GSOTCP4, SegmentSize: 100}, OutMalformed},
		"unknown GSO":                 {tcp4.build(), tap.Offload{GSO: 9, SegmentSize: 100}, OutMalformed},
		"USO segments beyond the MTU": {packet{proto: 17, payload: 20000}.build(), tap.Offload{GSO: tap.GSOUDP, SegmentSize: 10000}, OutTooLong},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnds(t, 1400, 9000, 9000)
			e.pass(t, c.frame, c.offload)
			if c.drop == Drops {
				require.Equal(t, [][]byte{c.frame}, e.wire.frames)
				return
			}
			require.Empty(t, e.wire.frames)
			require.Equal(t, uint64(1), e.out.Counters.Dropped(c.drop))
		})
	}
	t.Run("partial checksum", func(t *testing.T) {
		for _, p := range []packet{tcp4, tcp6, udp4, {v6: true, tagged: true, proto: 17, payload: 8000}} {
			e := newEnds(t, 1400, 9000, 9000)
			f, o := p.partial()
			e.pass(t, f, o)
			require.Equal(t, [][]byte{p.build()}, e.wire.frames)
		}
		e := newEnds(t, 1400, 9000, 9000)
		f, _ := tcp4.partial()
		e.pass(t, f, partial)
		require.Equal(t, [][]byte{tcp4.build()}, e.wire.frames)
	})
}

// pass sends one frame all the way, and checks that it is accounted for.
func (e *ends) pass(tb testing.TB, frame []byte, o tap.Offload) {
	tb.Helper()
	b := tap.NewBatch(1, tap.MaxFrame)
	require.True(tb, b.Append(frame, o))
	before := e.dropped()
	e.wire.frames = nil
	e.out.Batch(b)
	e.receive(tb, rand.New(rand.NewPCG(1, 1)))
	dropped := e.dropped() - before
	if len(e.wire.frames) == 0 {
		require.Equal(tb, 1, dropped, "lost without a trace")
	} else {
		require.Zero(tb, dropped)
	}
	require.Empty(tb, e.in.fragments.open)
	require.False(tb, slices.ContainsFunc(e.wire.offloads, func(o tap.Offload) bool { return o != tap.Offload{} }))
}

func (e *ends) dropped() (n int) {
	for d := range Drops {
		n += int(e.out.Counters.Dropped(d) + e.in.Counters.Dropped(d))
	}
	return n
}

// check sends a frame and compares what arrives with what a slow model says: a frame arrives as it is, with its
// checksum finished; and a super-frame, or TCP that no datagram holds, in parts that say the same.
func (e *ends) check(tb testing.TB, frame []byte, o tap.Offload) {
	tb.Helper()
	want := slices.Clone(frame)
	e.pass(tb, frame, o)
	got := e.wire.frames
	if len(got) == 0 {
		return
	}
	_, cause := e.out.Stations.View().CheckSource(frame, overlay.PeerID{})
	require.Equal(tb, l2.OK, cause)
	for _, g := range got {
		require.True(tb, tap.Fits(g, e.wire.device))
	}
	if o.GSO == tap.GSONone {
		if o.NeedsChecksum {
			slowComplete(want, o)
		}
		if len(got) == 1 {
			require.Equal(tb, want, got[0])
			return
		}
		require.GreaterOrEqual(tb, len(frame), e.wire.mtu)
	}
	headers := seg.HeaderLen(frame)
	require.Positive(tb, headers)
	var payload []byte
	for _, g := range got {
		require.Equal(tb, headers, seg.HeaderLen(g))
		require.Equal(tb, want[:14], g[:14])
		payload = append(payload, g[headers:]...)
	}
	require.True(tb, bytes.HasPrefix(want[headers:], payload))
	if o.GSO == tap.GSONone {
		require.Len(tb, payload, len(frame)-headers, "padding is not lost either")
	}
}

// slowComplete finishes a partial checksum as RFC 1071 says.
func slowComplete(f []byte, o tap.Offload) {
	var sum uint32
	part := f[o.ChecksumStart:]
	for i, v := range part {
		if i%2 == 0 {
			sum += uint32(v) << 8
		} else {
			sum += uint32(v)
		}
		sum = sum&0xffff + sum>>16
	}
	sum = ^sum & 0xffff
	if sum == 0 && o.ChecksumOffset == 6 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(part[o.ChecksumOffset:], uint16(sum))
}

func TestRandomFrames(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	for range 15 {
		e := newEnds(t, 1200+r.IntN(400), 9000, []int{0, 1500, 9000}[r.IntN(3)])
		for range 60 {
			p := packet{v6: r.IntN(2) == 0, tagged: r.IntN(4) == 0, proto: []uint8{6, 17}[r.IntN(2)], flags: 0x10, payload: r.IntN(9000)}
			f, o := p.build(), tap.Offload{}
			switch r.IntN(4) {
			case 0:
				f, o = p.partial()
			case 1:
				f, o = p.super(1 + r.IntN(9000))
			case 2:
				f[r.IntN(len(f))] ^= byte(1 << r.IntN(8))
			}
			e.check(t, f, o)
		}
	}
}

// FuzzFrames: any frame, with anything said of it, arrives as the model says, or is counted.
func FuzzFrames(f *testing.F) {
	for _, p := range []packet{{proto: 6, payload: 60}, {v6: true, proto: 17, payload: 60}, {tagged: true, proto: 6, flags: 2}} {
		frame, o := p.super(10)
		f.Add(frame, false, o.NeedsChecksum, o.ChecksumStart, o.ChecksumOffset, uint8(o.GSO), o.SegmentSize)
		f.Add(p.build(), true, false, uint16(0), uint16(0), uint8(0), uint16(0))
	}
	f.Add(packet{proto: 6, payload: 2000}.build(), false, false, uint16(0), uint16(0), uint8(0), uint16(0))
	e := newEnds(f, 1400, 3000, 3000)
	f.Fuzz(func(t *testing.T, frame []byte, raw, needs bool, start, offset uint16, gso uint8, segment uint16) {
		if len(frame) > 4096 {
			return
		}
		frame = slices.Clone(frame)
		if !raw && len(frame) >= 12 { // most should get through the first checks
			copy(frame, macThere[:])
			copy(frame[6:], macHere[:])
		}
		e.check(t, frame, tap.Offload{NeedsChecksum: needs, ChecksumStart: start, ChecksumOffset: offset, GSO: tap.GSO(gso), SegmentSize: segment})
	})
}
