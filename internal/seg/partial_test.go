package seg

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/tap"
)

// superFrame is one with its Offload.
func superFrame(rnd *rand.Rand, protocol uint8, payload, size int) ([]byte, tap.Offload) {
	s := joinedSpec(rnd)
	s.protocol = protocol
	if protocol == ProtocolUDP {
		s.tcpOptions = 0
	}
	f := s.build(text(rnd, payload))
	h, _ := parse(f)
	o := tap.Offload{NeedsChecksum: true, ChecksumStart: uint16(h.l4), ChecksumOffset: h.checksumOffset(), SegmentSize: uint16(size), HeaderLen: uint16(h.payload)}
	switch {
	case protocol == ProtocolUDP:
		o.GSO = tap.GSOUDP
	case h.v6:
		o.GSO = tap.GSOTCP6
	default:
		o.GSO = tap.GSOTCP4
	}
	return f, o
}

// TestPartialIsUndone: what a Cutter leaves out, whoever receives it puts in again: one by one,
// and joined, the frames are the same as if the sender had finished them.
func TestPartialIsUndone(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 17))
		f, o := superFrame(rnd, []uint8{ProtocolTCP, ProtocolUDP}[rnd.IntN(2)], 1+rnd.IntN(20000), 100+rnd.IntN(1400))
		if rnd.IntN(4) == 0 && len(f) < 9000 { // no super-frame
			h, _ := parse(f)
			o.GSO, o.SegmentSize, o.HeaderLen = tap.GSONone, 0, 0
			h.pseudoOnly(f)
		}
		want := cutAll(t, [][]byte{f}, []tap.Offload{o})
		c, b := Cutter{Partial: true}, tap.NewBatch(1024, 1<<20)
		require.NoError(t, c.Reset(f, o, 9000))
		require.True(t, c.Next(b))
		var partial, got [][]byte
		for i := range b.Len() {
			require.True(t, b.Offload(i).NeedsChecksum)
			frame := append([]byte{}, b.Frame(i)...)
			at := b.Offload(i).ChecksumStart + b.Offload(i).ChecksumOffset
			require.Zero(t, frame[at]|frame[at+1])
			frame[at] = byte(rnd.Uint32()) // whatever it is
			partial = append(partial, frame)
			one := append([]byte{}, frame...)
			o, ok := Partial(one)
			require.True(t, ok)
			require.NoError(t, Complete(one, o))
			got = append(got, one)
		}
		require.Equal(t, want, got, "seed %d", seed)
		if k := rnd.IntN(len(partial)); rnd.IntN(2) == 0 { // lost
			partial, want = append(partial[:k:k], partial[k+1:]...), append(want[:k:k], want[k+1:]...)
		}
		joined, offloads := joinPartly(partial, 70000+rnd.IntN(100000), true)
		require.Equal(t, append([][]byte(nil), want...), cutAll(t, joined, offloads), "seed %d", seed)
	}
}

// TestJoinUDP: datagrams of one size are one super-frame, of which the last may be shorter.
func TestJoinUDP(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 9))
	f, o := superFrame(rnd, ProtocolUDP, 20*64+10, 64)
	run := cutAll(t, [][]byte{f}, []tap.Offload{o})
	require.Len(t, run, 21)
	joined, offloads := joinAll(run, 1<<17)
	require.Len(t, joined, 1)
	require.Equal(t, tap.GSOUDP, offloads[0].GSO)
	require.Equal(t, run, cutAll(t, joined, offloads))
	h, _ := parse(run[3])
	run[3][h.l4+6], run[3][h.l4+7] = 0, 0 // its sender uses no checksums
	joined, offloads = joinAll(run, 1<<17)
	require.Len(t, joined, 3)
	require.Equal(t, run, cutAll(t, joined, offloads))

	var j Joiner // without UDP
	b := tap.NewBatch(32, 1<<17)
	for _, f := range run {
		require.Equal(t, Taken, j.Add(b, f, false))
	}
	j.Flush(b)
	require.Equal(t, len(run), b.Len())
}

// TestUnfit: a checksum can be left out only where there is one.
func TestUnfit(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 9))
	good, _ := superFrame(rnd, ProtocolUDP, 100, 100)
	h, _ := parse(good)
	for name, f := range map[string][]byte{
		"empty":      {},
		"no IP":      make([]byte, 100),
		"truncated":  good[:len(good)-1],
		"padded":     append(append([]byte{}, good...), 0),
		"UDP length": func() []byte { f := append([]byte{}, good...); f[h.l4+5]--; return f }(),
	} {
		_, ok := Partial(f)
		require.False(t, ok, name)
		var j Joiner
		b := tap.NewBatch(4, 1000)
		require.Equal(t, Unfit, j.Add(b, f, true), name)
		require.Zero(t, b.Len(), name)
	}
}

// FuzzPartial: no frame that a stranger says so of does harm.
func FuzzPartial(f *testing.F) {
	rnd := rand.New(rand.NewPCG(8, 9))
	frame, _ := superFrame(rnd, ProtocolTCP, 100, 100)
	f.Add(frame, frame)
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if len(a) > 2000 || len(b) > 2000 {
			return
		}
		j, out := Joiner{UDP: true}, tap.NewBatch(4, 1<<17)
		for _, f := range [][]byte{a, b} {
			require.NotEqual(t, Full, j.Add(out, f, true))
		}
		j.Flush(out)
		for i := range out.Len() {
			o := out.Offload(i)
			require.True(t, o.NeedsChecksum)
			if o.GSO == tap.GSONone {
				require.NoError(t, Complete(out.Frame(i), o))
			} else {
				var c Cutter
				require.NoError(t, c.Reset(out.Frame(i), o, 9000))
			}
		}
	})
}

func BenchmarkPartial(b *testing.B) {
	rnd := rand.New(rand.NewPCG(5, 6))
	s := spec{protocol: ProtocolTCP, flags: 0x10, tcpOptions: 12}
	f := s.build(text(rnd, 44*1362))
	o := tap.Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16, GSO: tap.GSOTCP4, SegmentSize: 1362, HeaderLen: 66}
	cut, joined := tap.NewBatch(64, 64*1500), tap.NewBatch(64, 1<<17)
	c, j := Cutter{Partial: true}, Joiner{}
	b.Run("cut", func(b *testing.B) {
		b.SetBytes(44 * 1362)
		for b.Loop() {
			cut.Reset()
			require.NoError(b, c.Reset(f, o, 1500))
			c.Next(cut)
		}
	})
	b.Run("join", func(b *testing.B) {
		b.SetBytes(44 * 1362)
		for b.Loop() {
			joined.Reset()
			for i := range cut.Len() {
				j.Add(joined, cut.Frame(i), true)
			}
			j.Flush(joined)
		}
	})
}
