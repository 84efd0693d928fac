package pump

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/control"
	"github.com/viasnet/vias/internal/l2"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// tape is an overlay.Link that keeps what is sent, and a tap.Device that keeps what is written.
type tape struct {
	wire
	datagrams, frames [][]byte
	offloads          []tap.Offload
	device            int // MTU
}

func (w *tape) SendBatch(b *tap.Batch) error {
	for i := range b.Len() {
		w.datagrams = append(w.datagrams, append([]byte{}, b.Frame(i)...))
	}
	return w.wire.SendBatch(b)
}

func (w *tape) WriteBatch(b *tap.Batch) error {
	for i := range b.Len() {
		w.frames = append(w.frames, append([]byte{}, b.Frame(i)...))
		w.offloads = append(w.offloads, b.Offload(i))
	}
	return nil
}

func (w *tape) MTU() int { return w.device }

// ends is the way from one device to another: an Out, a link, and an In on another node.
type ends struct {
	out  *Out
	in   *In
	wire *tape
	told *tape // what the sender's workloads were told
}

func newEnds(tb testing.TB, linkMTU, deviceMTU, peerMTU int) *ends {
	w := &tape{wire: wire{peer: peerID, mtu: linkMTU}, device: deviceMTU}
	e := &ends{wire: w, told: &tape{device: deviceMTU}}
	port := NewPort(w)
	port.SetReady(peerMTU)
	e.out = NewOut(OutConfig{Shared: shared(tb, port), Device: w, Writer: NewWriter(e.told)})
	// The other node knows the stations the other way round.
	there := NewPort(&wire{peer: overlay.PeerID{9}})
	there.SetReady(deviceMTU)
	e.in = NewIn(InConfig{Shared: mirrored(tb, there), Port: there, Writer: NewWriter(w), Flush: func() error { return nil }})
	e.addIPv6(tb)
	return e
}

// addIPv6 gives both stations IPv6 addresses, on both nodes.
func (e *ends) addIPv6(tb testing.TB) {
	near, far := packet{v6: true}.ends()
	for _, s := range []*l2.Table{e.out.Stations, e.in.Stations} {
		here := l2.Endpoint{Name: "here", MAC: macHere, IPs: []netip.Addr{ipHere, near}, Tag: "h"}
		there := l2.Endpoint{Name: "there", MAC: macThere, IPs: []netip.Addr{ipThere, far}}
		local, remote, peer := here, there, peerID
		if s == e.in.Stations {
			local, remote, peer = there, here, overlay.PeerID{9}
		}
		_, err := s.Attach(local, 4)
		require.NoError(tb, err)
		_, err = s.Announce(peer, l2.Announcement{Version: 1, Add: []l2.Endpoint{remote}})
		require.NoError(tb, err)
	}
}

// receive gives the link's datagrams to In, some at a time.
func (e *ends) receive(tb testing.TB, r *rand.Rand) {
	b := tap.NewBatch(inFrames, inFrames*1500)
	for len(e.wire.datagrams) > 0 {
		b.Reset()
		n := min(1+r.IntN(inFrames), len(e.wire.datagrams))
		for _, d := range e.wire.datagrams[:n] {
			require.True(tb, b.Append(d, tap.Offload{}))
		}
		e.wire.datagrams = e.wire.datagrams[n:]
		require.NoError(tb, e.in.Batch(b))
	}
}

// Frames that go whole, in fragments and in segments stay in order.
func TestOrderOfFramesAndFragments(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	e := newEnds(t, 1400, 9000, 9000)
	var want [][]byte
	for n := range 300 {
		frame := other(1 + r.IntN([]int{100, 1500, 9000}[r.IntN(3)]))
		frame[14] = byte(n)
		want = append(want, frame)
		b := batch()
		b.Append(frame, tap.Offload{})
		e.out.Batch(b)
	}
	e.receive(t, r)
	require.Equal(t, want, e.wire.frames)
	require.Equal(t, uint64(300), e.out.Ports.List()[0].Out.Packets())
	require.Equal(t, uint64(300), e.in.Counters.InFrames.Load())
}

// other is a frame of a local experimental EtherType with n bytes of payload.
func other(n int) []byte {
	f := append(append(append([]byte{}, macThere[:]...), macHere[:]...), 0x88, 0xb5)
	return append(f, make([]byte, n)...)
}

func TestFragmentsAllocateNothing(t *testing.T) {
	e := newEnds(t, 1400, 9000, 9000)
	super := udp(macHere, macThere, ipHere, ipThere, 5*1452)
	in := batch(other(1500), other(9000), tcp(macHere, macThere, ipHere, ipThere, 0x10, 3000))
	in.Append(super, tap.Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 6, GSO: tap.GSOUDP, SegmentSize: 1452, HeaderLen: 42})
	e.out.Batch(in)
	require.Len(t, e.wire.datagrams, 2+7+2+2*5+1, "the TCP segment's checksum is wrong: it is not cut")
	datagrams := tap.NewBatch(inFrames, inBytes)
	number := byte(0)
	fill := func() {
		number++
		datagrams.Reset()
		for _, d := range e.wire.datagrams {
			datagrams.Append(d, tap.Offload{})
			if d[0] == control.KindFragment {
				datagrams.Frame(datagrams.Len() - 1)[6] = number // of another frame each time
			}
		}
	}
	w := &wire{peer: peerID, mtu: 1400, last: make([]byte, 0, 2048)}
	e.out.Ports.Put(NewPort(w))
	sink := &wire{}
	e.in.Writer = NewWriter(sink)
	fill()
	require.NoError(t, e.in.Batch(datagrams))
	require.Equal(t, 3+5, sink.delivered)
	e.out.Batch(in)
	require.Zero(t, testing.AllocsPerRun(100, func() { e.out.Batch(in) }))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		fill()
		if e.in.Batch(datagrams) != nil {
			t.Error("failed")
		}
	}))
	require.Zero(t, e.in.Counters.Dropped(InLate)+e.in.Counters.Dropped(InFragment))
}
