package tap

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBatchAppend(t *testing.T) {
	b := NewBatch(3, 10)
	require.Equal(t, 0, b.Len())
	require.Equal(t, 10+2*(Headroom+Tailroom), b.Free(), "room of frames that do not come is room")
	o := Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16}
	require.True(t, b.Append([]byte("abc"), o))
	require.True(t, b.Append(nil, Offload{}), "an empty frame is a frame")
	require.True(t, b.Append([]byte("defghij"), Offload{}))
	require.Zero(t, b.Free())
	require.False(t, b.Append([]byte("k"), Offload{}), "three frames at most")
	require.False(t, b.Append(nil, Offload{}))
	require.Nil(t, b.Reserve(0))

	require.Equal(t, 3, b.Len())
	require.Equal(t, "abc", string(b.Frame(0)))
	require.Empty(t, b.Frame(1))
	require.Equal(t, "defghij", string(b.Frame(2)))
	require.Equal(t, o, b.Offload(0))
	require.Zero(t, b.Offload(2))
	b.SetOffload(2, o)
	require.Equal(t, o, b.Offload(2))

	b.Reset()
	require.Equal(t, 0, b.Len())
	require.True(t, b.Append([]byte("xyz"), Offload{}))
	require.Zero(t, b.Offload(0), "nothing of before")
}

func TestBatchFullOfBytes(t *testing.T) {
	b := NewBatch(2, 100)
	most := 100 + Headroom + Tailroom
	require.False(t, b.Append(make([]byte, most+1), Offload{}))
	require.True(t, b.Append(make([]byte, most), Offload{}))
	require.Equal(t, 1, b.Len())
	require.Zero(t, b.Free())
	require.Nil(t, b.Reserve(1))
	require.Nil(t, b.Reserve(0), "no room for headroom and tailroom either")
	require.Nil(t, b.ReserveHeadroom(10, 0))
	require.False(t, NewBatch(0, 0).Append(nil, Offload{}))
	require.Zero(t, NewBatch(0, 1000).Free())
}

func TestBatchReserve(t *testing.T) {
	b := NewBatch(2, 200)
	p := b.Reserve(100)
	require.Len(t, p, 100)
	require.Equal(t, 100, cap(p), "an append cannot run into the next frame")
	copy(p, "first")
	require.Equal(t, 0, b.Len(), "nothing before Commit")
	b.Commit(5, Offload{GSO: GSOUDP})
	require.Equal(t, "first", string(b.Frame(0)))
	require.Equal(t, GSOUDP, b.Offload(0).GSO)

	p = b.ReserveHeadroom(10, 50)
	require.Len(t, p, 60)
	copy(p, "0123456789second")
	b.Commit(6, Offload{})
	require.Equal(t, "second", string(b.Frame(1)))
	mem, off, n := b.Room(1)
	require.Equal(t, "0123456789second", string(mem[off-10:off+n]))
	require.Equal(t, "first", string(b.Frame(0)))
}

// Neighbours never touch each other's frame, headroom or tailroom.
func TestBatchRoom(t *testing.T) {
	b := NewBatch(3, 300)
	for _, f := range []string{"aaaa", "bbbb", "cccc"} {
		require.True(t, b.Append([]byte(f), Offload{}))
	}
	b.Trim(0, 2)
	b.Trim(1, -Headroom)
	copy(b.Frame(1), bytes.Repeat([]byte{'B'}, Headroom))
	for i, want := range []struct{ off, n int }{{Headroom + 2, 2}, {0, 4 + Headroom}, {Headroom, 4}} {
		mem, off, n := b.Room(i)
		require.Equal(t, want.off, off)
		require.Equal(t, want.n, n)
		require.Len(t, mem, off+n+Tailroom)
		require.Equal(t, len(mem), cap(mem))
		require.Equal(t, b.Frame(i), mem[off:off+n])
		for k := range off {
			mem[k] = byte('0' + i)
		}
		for k := off + n; k < len(mem); k++ {
			mem[k] = byte('0' + i)
		}
	}
	require.Equal(t, "aa", string(b.Frame(0)))
	require.Equal(t, string(bytes.Repeat([]byte{'B'}, Headroom))+"bbbb", string(b.Frame(1)))
	require.Equal(t, "cccc", string(b.Frame(2)))
	for i := range 3 {
		mem, off, n := b.Room(i)
		require.Equal(t, bytes.Repeat([]byte{byte('0' + i)}, Tailroom), mem[off+n:])
		require.Equal(t, bytes.Repeat([]byte{byte('0' + i)}, off), mem[:off])
	}
}

func TestBatchTrim(t *testing.T) {
	o := Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16, GSO: GSOTCP4, SegmentSize: 1000, HeaderLen: 54}
	for _, c := range []struct {
		name      string
		by        int
		in, want  Offload
		wantFrame string
	}{
		{"front cut", 2, o, Offload{NeedsChecksum: true, ChecksumStart: 32, ChecksumOffset: 16, GSO: GSOTCP4, SegmentSize: 1000, HeaderLen: 52}, "cdef"},
		{"headroom taken", -4, o, Offload{NeedsChecksum: true, ChecksumStart: 38, ChecksumOffset: 16, GSO: GSOTCP4, SegmentSize: 1000, HeaderLen: 58}, "\x00\x00\x00\x00abcdef"},
		{"all cut", 6, Offload{}, Offload{}, ""},
		{"offsets do not wrap", 6, Offload{NeedsChecksum: true, ChecksumStart: 4, HeaderLen: 5}, Offload{NeedsChecksum: true}, ""},
		{"no hint stays none", -1, Offload{NeedsChecksum: true, ChecksumStart: 34}, Offload{NeedsChecksum: true, ChecksumStart: 35}, "\x00abcdef"},
		{"finished stays finished", -1, Offload{}, Offload{}, "\x00abcdef"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := NewBatch(1, 100)
			require.True(t, b.Append([]byte("abcdef"), c.in))
			b.Trim(0, c.by)
			require.Equal(t, c.wantFrame, string(b.Frame(0)))
			require.Equal(t, c.want, b.Offload(0))
		})
	}
}

func TestBatchDrop(t *testing.T) {
	b := NewBatch(5, 1000)
	for _, f := range []string{"a", "bb", "ccc", "dddd", "eeeee"} {
		b.Append([]byte(f), Offload{SegmentSize: uint16(len(f))})
	}
	var asked []int
	b.Drop(func(i int) bool { asked = append(asked, i); return i%2 == 0 })
	require.Equal(t, []int{0, 1, 2, 3, 4}, asked)
	require.Equal(t, 3, b.Len())
	for i, want := range []string{"a", "ccc", "eeeee"} {
		require.Equal(t, want, string(b.Frame(i)))
		require.Equal(t, uint16(len(want)), b.Offload(i).SegmentSize)
	}
	require.True(t, b.Append([]byte("f"), Offload{}), "behind the last, not over it")
	require.Equal(t, "eeeee", string(b.Frame(2)))
	b.Drop(func(int) bool { return false })
	require.Equal(t, 0, b.Len())
}

// Whatever is done to a batch, it holds what a slice of copies would.
func TestBatchModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	b := NewBatch(16, 4000)
	var model [][]byte
	for range 20000 {
		switch k := r.IntN(10); {
		case k < 6:
			f := make([]byte, r.IntN(600))
			for i := range f {
				f[i] = byte(r.Uint32())
			}
			fits := len(f) <= b.Free() && b.Free() > 0
			require.Equal(t, fits, b.Append(f, Offload{}))
			if fits {
				model = append(model, f)
			}
		case k < 8 && len(model) > 0:
			i := r.IntN(len(model))
			_, off, n := b.Room(i)
			by := r.IntN(off+n+1) - off
			b.Trim(i, by)
			if by >= 0 {
				model[i] = model[i][by:]
				break
			}
			for k := range b.Frame(i)[:-by] {
				b.Frame(i)[k] = byte(k)
			}
			model[i] = append(append([]byte{}, b.Frame(i)[:-by]...), model[i]...)
		case k == 8:
			mask := r.Uint32()
			b.Drop(func(i int) bool { return mask>>i&1 == 0 })
			var left [][]byte
			for i, f := range model {
				if mask>>i&1 == 0 {
					left = append(left, f)
				}
			}
			model = left
		case r.IntN(4) == 0:
			b.Reset()
			model = nil
		}
		require.Equal(t, len(model), b.Len())
		for i, f := range model {
			require.True(t, bytes.Equal(f, b.Frame(i)))
		}
	}
}

func TestFits(t *testing.T) {
	frame := func(n int, tpid uint16) []byte {
		f := make([]byte, n)
		if n >= HeaderLen {
			f[12], f[13] = byte(tpid>>8), byte(tpid)
		}
		return f
	}
	for _, c := range []struct {
		n    int
		tpid uint16
		want bool
	}{
		{0, 0x0800, false}, {13, 0x0800, false}, {14, 0x0800, true}, {1514, 0x0800, true}, {1515, 0x0800, false},
		{1518, 0x8100, true}, {1519, 0x8100, false}, {1518, 0x88a8, true}, {1515, 0x86dd, false}, {14, 0x8100, true},
	} {
		require.Equal(t, c.want, Fits(frame(c.n, c.tpid), 1500), "%d bytes, type %#x", c.n, c.tpid)
	}
}

func TestBatchAllocs(t *testing.T) {
	b := NewBatch(8, 9*1600)
	frame := make([]byte, 1500)
	keep := func(i int) bool { return i != 3 }
	require.Zero(t, testing.AllocsPerRun(100, func() {
		b.Reset()
		for b.Append(frame, Offload{}) {
		}
		b.Trim(0, -1)
		b.Drop(keep)
		b.Commit(copy(b.Reserve(100), frame[:100]), Offload{})
		for i := range b.Len() {
			_, _, _ = b.Room(i)
			_, _ = b.Frame(i), b.Offload(i)
		}
	}))
}

func BenchmarkBatch(b *testing.B) {
	batch := NewBatch(64, 64*1500)
	frame := make([]byte, 1400)
	b.SetBytes(64 * 1400)
	b.ReportAllocs()
	for b.Loop() {
		batch.Reset()
		for batch.Append(frame, Offload{}) {
		}
		n := 0
		for i := range batch.Len() {
			n += len(batch.Frame(i))
		}
		if n != 64*1400 {
			b.Fatal(n)
		}
	}
}
