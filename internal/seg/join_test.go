package seg

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/tap"
)

// joinAll joins frames, by way of a batch of so many bytes.
func joinAll(frames [][]byte, size int) (out [][]byte, offloads []tap.Offload) {
	return joinPartly(frames, size, false)
}

// joinPartly joins frames with or without checksums, UDP too.
func joinPartly(frames [][]byte, size int, partial bool) (out [][]byte, offloads []tap.Offload) {
	j := Joiner{UDP: true}
	b := tap.NewBatch(16, size)
	flush := func() {
		j.Flush(b)
		for i := range b.Len() {
			out, offloads = append(out, bytes.Clone(b.Frame(i))), append(offloads, b.Offload(i))
		}
		b.Reset()
	}
	for _, f := range frames {
		for j.Add(b, f, partial) == Full {
			flush()
		}
	}
	flush()
	return out, offloads
}

// cutAll is the inverse.
func cutAll(t testing.TB, frames [][]byte, offloads []tap.Offload) (out [][]byte) {
	t.Helper()
	var c Cutter
	b := tap.NewBatch(1024, 1<<20)
	for i, f := range frames {
		b.Reset()
		require.NoError(t, c.Reset(f, offloads[i], 9000))
		require.True(t, c.Next(b))
		for k := range b.Len() {
			out = append(out, bytes.Clone(b.Frame(k)))
		}
	}
	return out
}

func joinedSpec(rnd *rand.Rand) spec {
	return spec{v6: rnd.IntN(2) == 0, protocol: ProtocolTCP, id: uint16(rnd.Uint32()), seq: rnd.Uint32(), flags: 0x10, tcpOptions: 4 * rnd.IntN(4)}
}

func text(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// segments are those of one super-frame.
func segments(t testing.TB, s spec, payload []byte, size int) [][]byte {
	o := tap.Offload{GSO: tap.GSOTCP4, SegmentSize: uint16(size), NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16}
	if s.v6 {
		o.GSO, o.ChecksumStart = tap.GSOTCP6, 54
	}
	return cutAll(t, [][]byte{s.build(payload)}, []tap.Offload{o})
}

// TestJoinIsUndone: whatever is joined is cut into the very same frames again, in their
// order, and what a Cutter made of one super-frame becomes one.
func TestJoinIsUndone(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		var frames [][]byte
		for range 1 + rnd.IntN(6) {
			s, size := joinedSpec(rnd), 100+rnd.IntN(1400)
			if rnd.IntN(3) == 0 {
				s.flags |= tcpPSH
			}
			run := segments(t, s, text(rnd, 1+rnd.IntN(20000)), size)
			if rnd.IntN(2) == 0 { // something happens on the way
				i := rnd.IntN(len(run))
				switch rnd.IntN(5) {
				case 0: // lost
					run = append(run[:i], run[i+1:]...)
				case 1: // changed
					run[i][rnd.IntN(len(run[i]))] ^= byte(1 + rnd.IntN(255))
				case 2: // overtaken
					k := rnd.IntN(len(run))
					run[i], run[k] = run[k], run[i]
				case 3: // repeated
					run = append(run, run[i])
				case 4: // another one between
					other := joinedSpec(rnd)
					other.tagged, other.protocol = rnd.IntN(2) == 0, []uint8{ProtocolTCP, ProtocolUDP}[rnd.IntN(2)]
					run = append(run[:i:i], append([][]byte{other.build(text(rnd, rnd.IntN(900)))}, run[i:]...)...)
				}
			}
			frames = append(frames, run...)
		}
		joined, offloads := joinAll(frames, 70000+rnd.IntN(100000))
		require.Equal(t, frames, cutAll(t, joined, offloads), "seed %d", seed)
	}
}

func TestJoin(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, v6 := range []bool{false, true} {
		s := spec{v6: v6, protocol: ProtocolTCP, id: 0xfffe, seq: 0xffffff00, flags: 0x18, tcpOptions: 12}
		run := segments(t, s, text(rnd, 40*1000+1), 1000)
		require.Len(t, run, 41)
		joined, offloads := joinAll(run, 1<<17)
		require.Len(t, joined, 1, "counters that wrap are no gap")
		require.Equal(t, uint16(1000), offloads[0].SegmentSize)
		require.True(t, offloads[0].NeedsChecksum)
		joined, _ = joinAll(run, 30000)
		require.Len(t, joined, 2, "as much as fits")
		joined, _ = joinAll(append(run, segments(t, s, text(rnd, 5), 1000)...), 1<<17)
		require.Len(t, joined, 2)
	}
	big := segments(t, spec{protocol: ProtocolTCP, flags: 0x10}, text(rnd, 65000), 1400)
	more := segments(t, spec{protocol: ProtocolTCP, flags: 0x10, seq: 65000, id: uint16(len(big))}, text(rnd, 10000), 1400)
	joined, offloads := joinAll(append(big[:46:46], more...), 1<<18)
	require.Equal(t, append(big[:46:46], more...), cutAll(t, joined, offloads))
	for _, f := range joined {
		require.LessOrEqual(t, len(f), tap.HeaderLen+0xffff)
	}
}

// TestJoinLeavesAlone: what says something of its own stays as it is.
func TestJoinLeavesAlone(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for name, change := range map[string]func(f []byte){
		"SYN":             func(f []byte) { f[47] |= tcpSYN },
		"RST":             func(f []byte) { f[47] |= tcpRST },
		"FIN":             func(f []byte) { f[47] |= tcpFIN },
		"URG":             func(f []byte) { f[47] |= tcpURG },
		"CWR":             func(f []byte) { f[47] |= tcpCWR },
		"ECE":             func(f []byte) { f[47] |= 0x40 },
		"acknowledgement": func(f []byte) { f[42]++ },
		"window":          func(f []byte) { f[48]++ },
		"CE":              func(f []byte) { f[15] |= 3 },
		"TTL":             func(f []byte) { f[22]-- },
		"identification":  func(f []byte) { f[18]++ },
		"port":            func(f []byte) { f[34]++ },
		"sequence":        func(f []byte) { f[38]++ },
		"source MAC":      func(f []byte) { f[6] ^= 2 },
		"DF":              func(f []byte) { f[20] &^= 0x40 },
	} {
		run := segments(t, spec{protocol: ProtocolTCP, flags: 0x10}, text(rnd, 3000), 1000)
		f := run[1]
		change(f)
		PutIPv4Checksum(f[14:34])
		f[50], f[51] = 0, 0
		h, ok := parse(f)
		require.True(t, ok)
		sum := Checksum(f[34:], h.pseudo(f[14:], len(f)-34))
		f[50], f[51] = byte(sum>>8), byte(sum)
		joined, _ := joinAll(run, 1<<17)
		require.Equal(t, run, joined, name)
	}
	run := segments(t, spec{protocol: ProtocolTCP, flags: 0x10}, text(rnd, 3000), 1000)
	run[1][60]++ // a wrong checksum must not become a right one
	joined, _ := joinAll(run, 1<<17)
	require.Equal(t, run, joined)
}

func TestJoinerAllocs(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	run := segments(t, spec{protocol: ProtocolTCP, flags: 0x10}, text(rnd, 40000), 1400)
	var j Joiner
	b := tap.NewBatch(16, 1<<17)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		b.Reset()
		for _, f := range run {
			j.Add(b, f, false)
		}
		j.Flush(b)
	}))
}

// FuzzJoiner: two frames of a stranger's, joined or not, are the same when cut.
func FuzzJoiner(f *testing.F) {
	rnd := rand.New(rand.NewPCG(8, 9))
	run := segments(f, spec{protocol: ProtocolTCP, flags: 0x10}, text(rnd, 200), 100)
	f.Add(run[0], run[1])
	run = segments(f, spec{v6: true, protocol: ProtocolTCP, flags: 0x18, tcpOptions: 12}, text(rnd, 150), 100)
	f.Add(run[0], run[1])
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if len(a) < tap.HeaderLen || len(b) < tap.HeaderLen || len(a) > 2000 || len(b) > 2000 {
			return
		}
		joined, offloads := joinAll([][]byte{a, b}, 1<<17)
		require.Equal(t, [][]byte{a, b}, cutAll(t, joined, offloads))
	})
}

func BenchmarkJoiner(b *testing.B) {
	rnd := rand.New(rand.NewPCG(5, 6))
	run := segments(b, spec{protocol: ProtocolTCP, flags: 0x10}, text(rnd, 44*1400), 1400)
	var j Joiner
	out := tap.NewBatch(16, 1<<17)
	b.ReportAllocs()
	b.SetBytes(44 * 1400)
	for b.Loop() {
		out.Reset()
		for _, f := range run {
			j.Add(out, f, false)
		}
		j.Flush(out)
	}
}
