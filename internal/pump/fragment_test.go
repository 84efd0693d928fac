package pump

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/control"
	"github.com/viasnet/vias/tap"
)

// fragments are the datagrams that an Out makes of a frame for a link of mtu bytes.
func fragments(tb testing.TB, number uint32, frame []byte, mtu int) (list [][]byte) {
	tb.Helper()
	count, size, ok := shares(len(frame), mtu-fragmentHeader)
	require.True(tb, ok)
	for i := range count {
		f := fragment{index: i, count: count, length: len(frame), number: number}
		part := frame[i*size : min((i+1)*size, len(frame))]
		d := make([]byte, fragmentHeader, mtu)
		f.putHeader(d)
		list = append(list, append(d, part...))
		require.LessOrEqual(tb, len(list[i]), mtu)
	}
	return list
}

func randomFrame(r *rand.Rand, n int) []byte {
	f := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(f[i:], r.Uint64())
	}
	return f
}

// Every length and every datagram: the parts are what the receiver expects.
func TestSharesFitTogether(t *testing.T) {
	for length := 2; length < 3000; length += 1 + length/50 {
		for _, room := range []int{1, 7, 100, 1190, 1389, length - 1} {
			count, size, ok := shares(length, room)
			require.LessOrEqual(t, size, room)
			require.Equal(t, ok, count <= maxFragments)
			if !ok || count < 2 {
				continue
			}
			f := fragment{count: count, length: length}
			require.Equal(t, size, f.size())
			require.Positive(t, length-(count-1)*size, "no part is empty")
			require.LessOrEqual(t, length-(count-1)*size, size)
		}
	}
	_, _, ok := shares(0, 10)
	require.False(t, ok)
	_, _, ok = shares(10, -3)
	require.False(t, ok)
}

// reassemble(fragment(x)) == x, whatever is lost, comes late, twice, or in another order; and every
// frame and every fragment is accounted for.
func TestReassembly(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 9))
	for range 60 {
		counters, now := &Counters{}, time.Unix(1000, 0)
		asm := reassembly{counters: counters}
		loss, repeat, reorder := r.IntN(3)*10, r.IntN(2)*20, r.IntN(2)*r.IntN(20)
		frames := map[uint32][]byte{}
		var sent [][]byte
		for number := range uint32(20) {
			frame := randomFrame(r, 1400+r.IntN(12000))
			frames[number] = frame
			sent = append(sent, fragments(t, number, frame, 300+r.IntN(1100))...)
		}
		lost, repeated := 0, 0
		var wire [][]byte
		for _, d := range sent {
			if r.IntN(100) < loss {
				lost++
				continue
			}
			wire = append(wire, d)
			if r.IntN(100) < repeat {
				wire = append(wire, d)
				repeated++
			}
		}
		for i := range wire {
			if k := i + r.IntN(reorder+1); k < len(wire) {
				wire[i], wire[k] = wire[k], wire[i]
			}
		}
		begun := map[uint32]bool{}
		whole := 0
		for _, d := range wire {
			f, ok := parseFragment(d)
			require.True(t, ok)
			begun[f.number] = true
			if frame := asm.add(d, now); frame != nil {
				require.True(t, bytes.Equal(frames[f.number], frame))
				delete(frames, f.number)
				whole++
			}
			require.LessOrEqual(t, asm.bytes, maxAssembled)
		}
		require.Equal(t, uint64(repeated), counters.Dropped(InLate))
		require.Zero(t, counters.Dropped(InFragment)+counters.Dropped(InIncomplete)+counters.Dropped(InCrowded))
		if lost == 0 {
			require.Empty(t, frames)
		}
		asm.expire(now.Add(maxAssemblyTime - 1))
		require.Equal(t, len(begun)-whole, asm.open)
		asm.expire(now.Add(maxAssemblyTime))
		require.Equal(t, uint64(len(begun)-whole), counters.Dropped(InIncomplete))
		require.Zero(t, asm.open)
	}
}

// Memory and number are bounded; the oldest frames go.
func TestReassemblyIsBounded(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	for name, c := range map[string]struct{ length, open int }{
		"small": {1500, maxAssemblies}, "jumbo": {9014, 25}, "largest": {tap.MaxFrame, 3},
	} {
		t.Run(name, func(t *testing.T) {
			counters, now := &Counters{}, time.Unix(1000, 0)
			asm := reassembly{counters: counters}
			const n = 150
			last := make([][]byte, n)
			frames := make([][]byte, n)
			for i := range n {
				frames[i] = randomFrame(r, c.length)
				parts := fragments(t, uint32(i), frames[i], 1400)
				for _, d := range parts[1:] {
					require.Nil(t, asm.add(d, now))
				}
				last[i] = parts[0]
				require.LessOrEqual(t, asm.bytes, maxAssembled)
				require.LessOrEqual(t, asm.open, maxAssemblies)
			}
			require.Equal(t, c.open, asm.open)
			require.Equal(t, uint64(n-c.open), counters.Dropped(InCrowded))
			for i := n - c.open; i < n; i++ {
				require.Equal(t, frames[i], asm.add(last[i], now))
			}
			require.Zero(t, asm.open)
			require.Nil(t, asm.add(last[n-1], now))
			require.Equal(t, uint64(1), counters.Dropped(InLate), "it is not given twice")
			asm.end()
			require.Zero(t, counters.Dropped(InIncomplete))
		})
	}
}

func TestFragmentIsChecked(t *testing.T) {
	frame := randomFrame(rand.New(rand.NewPCG(5, 5)), 3000)
	parts := fragments(t, 7, frame, 1400)
	change := func(i, at int, v byte) []byte {
		d := slices.Clone(parts[i])
		d[at] = v
		return d
	}
	for name, c := range map[string]struct {
		d    []byte
		want Drop
	}{
		"header only":          {parts[0][:fragmentHeader], InFragment},
		"cut":                  {parts[0][:1000], InFragment},
		"longer":               {append(slices.Clone(parts[2]), 0), InFragment},
		"last one cut":         {parts[2][:len(parts[2])-1], InFragment},
		"index beyond count":   {change(1, 1, 3), InFragment},
		"index far beyond":     {change(1, 1, 255), InFragment},
		"one in all":           {change(0, 2, 1), InFragment},
		"none in all":          {change(0, 2, 0), InFragment},
		"too many":             {change(0, 2, maxFragments+1), InFragment},
		"more than the others": {change(0, 2, 4), InFragment},
		"too long":             {change(0, 3, 2), InFragment},
		"another length":       {change(0, 5, 0xb7), InFragment},
		"no length":            {append([]byte{control.KindFragment, 0, 2, 0, 0, 0, 0, 0, 0, 7}, 1), InFragment},
		"repeated":             {parts[1], InLate},
	} {
		t.Run(name, func(t *testing.T) {
			counters, now := &Counters{}, time.Unix(1000, 0)
			asm := reassembly{counters: counters}
			require.Nil(t, asm.add(parts[1], now))
			require.Nil(t, asm.add(c.d, now))
			require.Equal(t, uint64(1), counters.Dropped(c.want))
			require.Nil(t, asm.add(parts[0], now))
			require.Equal(t, frame, asm.add(parts[2], now), "and no harm was done")
		})
	}
}

// FuzzReassembly: nothing that a peer sends makes us panic, keep more than the bounds, or give a frame of which
// not every byte came in a fragment.
func FuzzReassembly(f *testing.F) {
	var seed []byte
	for _, d := range fragments(f, 1, make([]byte, 40), 30) {
		seed = append(append(seed, byte(len(d))), d...)
	}
	f.Add(seed)
	f.Add([]byte{11, 2, 0, 2, 0, 0, 2, 0, 0, 0, 1, 9, 11, 2, 1, 2, 0, 0, 2, 0, 0, 0, 1, 8})
	f.Fuzz(func(t *testing.T, stream []byte) {
		counters, now := &Counters{}, time.Unix(1000, 0)
		asm := reassembly{counters: counters}
		type key struct {
			number uint32
			index  int
		}
		parts := map[key][]byte{}
		datagrams, frames := 0, 0
		for len(stream) > 0 {
			n := min(int(stream[0]), len(stream)-1)
			d := stream[1 : 1+n]
			stream = stream[1+n:]
			datagrams++
			now = now.Add(time.Duration(n) * time.Millisecond)
			asm.expire(now)
			g, ok := parseFragment(d)
			before := counters.Dropped(InFragment) + counters.Dropped(InLate)
			frame := asm.add(d, now)
			if ok && counters.Dropped(InFragment)+counters.Dropped(InLate) == before {
				parts[key{g.number, g.index}] = g.part
			}
			require.LessOrEqual(t, asm.bytes, maxAssembled)
			if frame == nil {
				continue
			}
			frames++
			var want []byte
			for i := range g.count {
				want = append(want, parts[key{g.number, i}]...)
			}
			require.Equal(t, want, frame)
		}
		asm.end()
		require.Zero(t, asm.open)
		require.LessOrEqual(t, frames, datagrams/2)
	})
}
