package vias

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
)

// pass sends one batch through the whole way: a's device, pump, link, b's pump and
// device.
func pass(tb testing.TB, a, b *node, in *tap.Batch) {
	if err := a.wire.WriteBatch(in); err != nil {
		tb.Fatal(err)
	}
	for n := 0; n < in.Len(); n += b.buffer.Len() {
		if err := b.wire.ReadBatch(b.buffer); err != nil {
			tb.Fatal(err)
		}
	}
}

func hotPair(tb testing.TB) (a, b *node) {
	a, b = newPair(tb, overlaytest.Config{Queue: 1 << 14}, nil)
	// Nothing but frames from here on.
	return a, b
}

func TestFramesAllocateNothing(t *testing.T) {
	a, b := hotPair(t)
	frames := make([][]byte, 32)
	for i := range frames {
		frames[i] = tcpFrame(0, 1, uint16(1000+i), 80, ack, 1300)
	}
	in := batch(frames...)
	for range 200 {
		pass(t, a, b, in)
	}
	allocs := testing.AllocsPerRun(300, func() { pass(t, a, b, in) })
	// 32 frames a run: what remains is timers of sessions, not frames.
	require.Less(t, allocs, 4.0)
}

// The same where links are made on demand: what is found costs nothing more.
func TestFoundFramesAllocateNothing(t *testing.T) {
	f := newFoundIn(t, overlaytest.Config{Queue: 1 << 14}, 2, nil)
	pass(t, f.nodes[0], f.nodes[1], batch(ethernet(testMAC(1), testMAC(0), "found")))
	pass(t, f.nodes[1], f.nodes[0], batch(ethernet(testMAC(0), testMAC(1), "found, too")))
	frames := make([][]byte, 32)
	for i := range frames {
		frames[i] = tcpFrame(0, 1, uint16(1000+i), 80, ack, 1300)
	}
	in := batch(frames...)
	for range 200 {
		pass(t, f.nodes[0], f.nodes[1], in)
	}
	require.Less(t, testing.AllocsPerRun(300, func() { pass(t, f.nodes[0], f.nodes[1], in) }), 4.0)
}

func BenchmarkFrames(b *testing.B) {
	for name, n := range map[string]int{"batch=1": 1, "batch=64": 64} {
		b.Run(name, func(b *testing.B) {
			from, to := hotPair(b)
			frames := make([][]byte, n)
			for i := range frames {
				frames[i] = tcpFrame(0, 1, uint16(1000+i), 80, ack, 1300)
			}
			in := batch(frames...)
			b.ReportAllocs()
			b.SetBytes(int64(n * len(frames[0])))
			for b.Loop() {
				pass(b, from, to, in)
			}
		})
	}
}

func BenchmarkSuperFrames(b *testing.B) {
	from, to := hotPair(b)
	in := tap.NewBatch(1, 1<<16)
	in.Append(tcpFrame(0, 1, 1000, 80, ack, 60_000), tap.Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16, GSO: tap.GSOTCP4, SegmentSize: 1300, HeaderLen: 54})
	const segments = (60_000 + 1299) / 1300
	b.ReportAllocs()
	b.SetBytes(60_054)
	for b.Loop() {
		if err := from.wire.WriteBatch(in); err != nil {
			b.Fatal(err)
		}
		for n := 0; n < segments; n += to.buffer.Len() {
			if err := to.wire.ReadBatch(to.buffer); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkLinkUp(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		l := newLab(b, overlaytest.Config{})
		x, y := l.node(nil), l.node(nil)
		l.mesh(x, y)
		for _, m := range []*node{x, y} {
			ctx, cancel := context.WithCancel(context.Background())
			m.stop = cancel
			go func() { m.ended <- m.Run(ctx) }()
		}
		waitLinked(b, x, y)
		for _, m := range []*node{x, y} {
			if err := m.shut(); err != nil {
				b.Fatal(err)
			}
		}
	}
}
