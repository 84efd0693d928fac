package pump

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/control"
	"github.com/viasnet/vias/internal/seg"
	"github.com/viasnet/vias/tap"
)

// joining is a device that takes super-frames.
type joining struct{ *tape }

func (joining) Caps() tap.Caps { return tap.Caps{Offload: true, Join: true, USO: true, JoinUDP: true} }

func joiningEnds(t *testing.T) *ends {
	e := newEnds(t, 1400, 1500, 1500)
	e.in.Writer = NewWriter(joining{e.wire})
	return e
}

// finished are the frames that a device is written, cut and completed.
func finished(t *testing.T, frames [][]byte, offloads []tap.Offload) (out [][]byte) {
	var c seg.Cutter
	b := tap.NewBatch(128, 1<<18)
	for i, f := range frames {
		b.Reset()
		require.NoError(t, c.Reset(f, offloads[i], 9000))
		require.True(t, c.Next(b))
		for k := range b.Len() {
			out = append(out, append([]byte{}, b.Frame(k)...))
		}
	}
	return out
}

// TestJoinedIsTheSame: a device that takes super-frames gets what one that does not gets, in the
// same order.
func TestJoinedIsTheSame(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 5))
	plain, joined := newEnds(t, 1400, 1500, 1500), joiningEnds(t)
	for range 200 {
		p := packet{v6: r.IntN(2) == 0, proto: []byte{6, 17}[r.IntN(2)], payload: 1 + r.IntN(1400)}
		frame, o := p.build(), tap.Offload{}
		if r.IntN(2) == 0 {
			var ok bool
			o, ok = seg.Partial(frame)
			require.True(t, ok)
		}
		b := batch()
		b.Append(frame, o)
		plain.out.Batch(b)
		joined.out.Batch(b)
	}
	require.Equal(t, plain.wire.datagrams, joined.wire.datagrams)
	plain.receive(t, r)
	joined.receive(t, r)
	require.Equal(t, plain.wire.frames, finished(t, joined.wire.frames, joined.wire.offloads))
	for _, o := range plain.wire.offloads {
		require.Zero(t, o)
	}
}

// TestJoinedIsJudged: one that may not speak for a source is dropped, joined or not, and a
// checksum that cannot have been left out.
func TestJoinedIsJudged(t *testing.T) {
	e := joiningEnds(t)
	good := tcp(macHere, macThere, ipHere, ipThere, 0x10, 2600)
	o := tap.Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16, GSO: tap.GSOTCP4, SegmentSize: 1300, HeaderLen: 54}
	b := batch()
	b.Append(good, o)
	e.out.Batch(b)
	require.Len(t, e.wire.datagrams, 2)
	in := tap.NewBatch(8, 1<<15)
	for _, source := range []byte{macHere[5], 0x77} {
		for _, d := range e.wire.datagrams {
			require.Equal(t, byte(control.KindPartial), d[0])
			d[1+11] = source
			in.Append(d, tap.Offload{})
		}
	}
	in.Append(append([]byte{control.KindPartial}, other(100)...), tap.Offload{})
	in.Append([]byte{control.KindPartial}, tap.Offload{})
	require.NoError(t, e.in.Batch(in))
	require.Len(t, e.wire.frames, 1)
	require.Equal(t, tap.GSOTCP4, e.wire.offloads[0].GSO)
	require.Equal(t, uint64(1), e.in.Counters.Dropped(InSourceMAC), "two segments in one")
	require.Equal(t, uint64(2), e.in.Counters.Dropped(InMalformed))
	require.Equal(t, uint64(2), e.in.Port.In.Packets())

	e.in.Writer = NewWriter(e.wire) // the same without joining
	e.in.joined = nil
	in.Reset()
	in.Append(append([]byte{control.KindPartial}, other(100)...), tap.Offload{})
	require.NoError(t, e.in.Batch(in))
	require.Equal(t, uint64(3), e.in.Counters.Dropped(InMalformed))
}

// TestFramesBeforeControl: what came before a control message is judged by what was known then.
func TestFramesBeforeControl(t *testing.T) {
	e := joiningEnds(t)
	e.in.Control = func([]byte) error {
		require.Len(t, e.wire.frames, 1)
		return nil
	}
	in := batch(append([]byte{control.KindFrame}, tcp(macHere, macThere, ipHere, ipThere, 0x10, 100)...), []byte{control.KindControl},
		append([]byte{control.KindFrame}, tcp(macHere, macThere, ipHere, ipThere, 0x10, 100)...))
	require.NoError(t, e.in.Batch(in))
	require.Len(t, e.wire.frames, 2)
}
