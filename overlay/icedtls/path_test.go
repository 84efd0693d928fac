//go:build !race

// Under the race detector a sync.Pool forgets some of what it is given.

package icedtls

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/flowtable"
	"github.com/viasnet/vias/internal/l2"
	"github.com/viasnet/vias/internal/pump"
	"github.com/viasnet/vias/internal/seg"
	"github.com/viasnet/vias/tap"
)

// sink is a device that counts what is written.
type sink struct {
	tap.Device
	caps          tap.Caps
	frames, bytes int
	super         int // frames with a GSO
}

func (s *sink) MTU() int       { return 1500 }
func (s *sink) Caps() tap.Caps { return s.caps }
func (s *sink) WriteBatch(b *tap.Batch) error {
	for i := range b.Len() {
		s.frames++
		s.bytes += len(b.Frame(i))
		if b.Offload(i).GSO != tap.GSONone {
			s.super++
		}
	}
	return nil
}

// wholePath is what a frame meets from a batch of one device to a batch of the other.
type wholePath struct {
	out  *pump.Out
	in   *pump.In
	from *link
	to   *link
	sink *sink
	b    *tap.Batch
}

func newWholePath(t testing.TB, caps tap.Caps) *wholePath {
	l, r := linkPair(t, nil)
	sealed(t, l, r)
	p := &wholePath{from: l, to: r, sink: &sink{caps: caps}, b: tap.NewBatch(256, 3*tap.MaxFrame)}
	here := l2.Endpoint{Name: "here", MAC: tap.MAC{2, 1}, IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, 1})}}
	there := l2.Endpoint{Name: "there", MAC: tap.MAC{2, 2}, IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, 2})}}
	shared := func(x *link, local, remote l2.Endpoint) (pump.Shared, *pump.Port) {
		s := pump.Shared{Stations: l2.New(), Flows: flowtable.New(0), Ports: &pump.Ports{}, Counters: &pump.Counters{}}
		_, err := s.Stations.Attach(local, 0)
		require.NoError(t, err)
		s.Stations.SetLinked(x.Peer(), true)
		_, err = s.Stations.Announce(x.Peer(), l2.Announcement{Version: 1, Add: []l2.Endpoint{remote}})
		require.NoError(t, err)
		port := pump.NewPort(x)
		port.SetReady(1500)
		s.Ports.Put(port)
		return s, port
	}
	s, _ := shared(l, here, there)
	p.out = pump.NewOut(pump.OutConfig{Shared: s, Device: &sink{}})
	s, port := shared(r, there, here)
	p.in = pump.NewIn(pump.InConfig{Shared: s, Port: port, Writer: pump.NewWriter(p.sink), Flush: func() error { return nil }})
	return p
}

// pass sends a batch and receives until so many bytes were written.
func (p *wholePath) pass(in *tap.Batch, bytes int) {
	p.sink.bytes = 0
	p.out.Batch(in)
	for p.sink.bytes < bytes {
		if p.to.RecvBatch(p.b) != nil || p.in.Batch(p.b) != nil {
			panic("the link ended")
		}
	}
}

// frame4 is TCP or UDP over IPv4 as a kernel with offloads hands it over.
func frame4(protocol byte, payload int) ([]byte, tap.Offload) {
	header, offset := 20, uint16(16)
	if protocol == seg.ProtocolUDP {
		header, offset = 8, 6
	}
	f := make([]byte, 34+header+payload)
	copy(f, []byte{2, 2, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 8, 0, 0x45})
	binary.BigEndian.PutUint16(f[16:], uint16(len(f)-14))
	copy(f[20:], []byte{0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	seg.PutIPv4Checksum(f[14:34])
	binary.BigEndian.PutUint16(f[34:], 1000)
	binary.BigEndian.PutUint16(f[36:], 2000)
	if protocol == seg.ProtocolUDP {
		binary.BigEndian.PutUint16(f[38:], uint16(8+payload))
	} else {
		f[46], f[47] = 5<<4, 0x10
	}
	return f, tap.Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: offset}
}

// TestNothingIsAllocated from the batch that a device gave to the batch that the other device
// takes, by way of the sockets.
func TestNothingIsAllocated(t *testing.T) {
	super, o := frame4(seg.ProtocolTCP, 44*1300)
	o.GSO, o.SegmentSize, o.HeaderLen = tap.GSOTCP4, 1300, 54
	lone, partial := frame4(seg.ProtocolTCP, 64)
	datagram, plain := frame4(seg.ProtocolUDP, 64)
	for name, caps := range map[string]tap.Caps{"joined": {Offload: true, Join: true, USO: true, JoinUDP: true}, "finished": {}} {
		t.Run(name, func(t *testing.T) {
			p := newWholePath(t, caps)
			in := tap.NewBatch(64, 1<<17)
			in.Append(super, o)
			for range 16 {
				in.Append(lone, partial)
			}
			for range 16 {
				in.Append(datagram, plain)
			}
			want := len(super) + 16*(len(lone)+len(datagram))
			if !caps.Join {
				want += 43 * 54
			}
			for range 20 { // until the receiver reads the socket itself
				p.pass(in, want)
			}
			if caps.Join {
				require.Less(t, p.sink.frames, 20*(1+1+16+16), "some of it was joined")
				require.NotZero(t, p.sink.super)
			}
			require.Zero(t, testing.AllocsPerRun(200, func() { p.pass(in, want) }))
		})
	}
}

func BenchmarkWholePath(b *testing.B) {
	super, o := frame4(seg.ProtocolTCP, 47*1368)
	o.GSO, o.SegmentSize, o.HeaderLen = tap.GSOTCP4, 1368, 54
	lone, partial := frame4(seg.ProtocolUDP, 64)
	for name, c := range map[string]struct {
		frame   []byte
		offload tap.Offload
		n       int
	}{"super-frame": {super, o, 1}, "lone": {lone, partial, 1}, "64 B": {lone, partial, 64}} {
		b.Run(name, func(b *testing.B) {
			p := newWholePath(b, tap.Caps{Offload: true, Join: true, USO: true, JoinUDP: true})
			in := tap.NewBatch(64, 1<<17)
			for i := range c.n {
				in.Append(c.frame, c.offload)
				binary.BigEndian.PutUint16(in.Frame(i)[18:], uint16(i))
				seg.PutIPv4Checksum(in.Frame(i)[14:34])
			}
			want := len(c.frame)
			if c.n > 1 { // joined, at best
				want = c.n * (len(c.frame) - 42)
			}
			b.SetBytes(int64(c.n * len(c.frame)))
			b.ReportAllocs()
			for b.Loop() {
				p.pass(in, want)
			}
		})
	}
}
