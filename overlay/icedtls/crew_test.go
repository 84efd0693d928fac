package icedtls

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/icedtls/internal/record"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
)

// helped is a pair of links whose ends have so many helpers.
func helped(t testing.TB, workers int) (l, r *link) {
	n := newTestNet()
	n.config.Workers = workers
	l, r = connect(t,
		openTransport(t, Open(n.config), overlaytest.NewIdentity(t), nil),
		openTransport(t, Open(n.config), overlaytest.NewIdentity(t), nil))
	sealed(t, l, r)
	return l, r
}

func numbered(n, size int) *tap.Batch {
	b := tap.NewBatch(n, n*size)
	for i := range n {
		frame := bytes.Repeat([]byte{byte(i)}, size)
		frame[0] = byte(i >> 8)
		b.Append(frame, tap.Offload{})
	}
	return b
}

// TestHelpedBatch: a long batch arrives whole and in order, whoever sealed and opened it.
func TestHelpedBatch(t *testing.T) {
	for _, workers := range []int{-1, 1, 3} {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			l, r := helped(t, workers)
			require.Equal(t, max(workers, 0), l.session.transport.crew.helpers)
			const frames, size = 100, 1200
			for round := range 20 {
				out, in := numbered(frames, size), tap.NewBatch(256, 256*1500)
				want := numbered(frames, size) // sealing is in place
				require.NoError(t, l.SendBatch(out))
				for got := 0; got < frames; got += in.Len() {
					require.NoError(t, r.RecvBatch(in))
					for i := range in.Len() {
						require.Equal(t, want.Frame(got+i), in.Frame(i), "round %d, frame %d", round, got+i)
					}
				}
			}
		})
	}
}

// TestHelpedOpening holds runs of records, some of them forged, repeated, old or no frames, against
// what is to come of each.
func TestHelpedOpening(t *testing.T) {
	l, r := helped(t, 3)
	l.data.mu.Lock() // the link's own records wait
	defer l.data.mu.Unlock()
	sealer := l.data.use.Load().sealer
	rnd := rand.New(rand.NewPCG(1, 2))
	var last [][]byte // records of an earlier run
	for round := range 200 {
		const size = 600
		n := manyRecords + rnd.IntN(40)
		var run, sent, want [][]byte
		forged, replayed := 0, 0
		for i := range n {
			frame := bytes.Repeat([]byte{byte(round), byte(i)}, size/2)
			kind, what := byte(recordData), rnd.IntN(20)
			if what == 0 {
				kind = recordUrgent // no data record has it: it is authentic, and no frame
			}
			mem := append(append(make([]byte, record.HeaderLen), kind), frame...)
			rec, err := sealer.Seal(append(mem, make([]byte, record.TagLen)...), record.HeaderLen, 1+len(frame))
			require.NoError(t, err)
			sent = append(sent, bytes.Clone(rec))
			switch {
			case what == 1:
				rec[record.HeaderLen+rnd.IntN(size)] ^= 1
				forged++
			case what == 2 && i > 0 && bytes.Equal(run[0], sent[0]):
				rec = sent[0] // which came already, in this run
				replayed++
			case what == 3 && last != nil:
				rec = last[rnd.IntN(len(last))]
				replayed++
			case kind == recordData:
				want = append(want, frame)
			}
			run = append(run, rec)
		}
		if last = nil; bytes.Equal(run[0], sent[0]) {
			last = run[:1]
		}
		buf := &buffer{data: slices.Concat(run...), size: len(run[0])}
		buf.n = len(buf.data)
		before, b := r.Stats().Drops, tap.NewBatch(256, 256*1500)
		b.Append([]byte("was there"), tap.Offload{})
		require.True(t, r.data.receive(b, buf))
		var got [][]byte
		for i := 1; i < b.Len(); i++ {
			got = append(got, b.Frame(i))
		}
		require.Equal(t, want, got, "round %d", round)
		require.Equal(t, "was there", string(b.Frame(0)))
		drops := r.Stats().Drops
		require.Equal(t, overlay.Drops{Forged: before.Forged + uint64(forged), Replayed: before.Replayed + uint64(replayed)},
			overlay.Drops{Forged: drops.Forged, Replayed: drops.Replayed}, "round %d", round)
	}
}

// TestHelpedRunTooLong: what does not fit the batch comes with the next one.
func TestHelpedRunTooLong(t *testing.T) {
	l, r := helped(t, 1)
	l.data.mu.Lock()
	defer l.data.mu.Unlock()
	sealer := l.data.use.Load().sealer
	buf := &buffer{}
	for i := range 40 {
		mem := append(make([]byte, record.HeaderLen), recordData)
		mem = append(append(mem, bytes.Repeat([]byte{byte(i)}, 500)...), make([]byte, record.TagLen)...)
		rec, err := sealer.Seal(mem, record.HeaderLen, 501)
		require.NoError(t, err)
		buf.data, buf.size = append(buf.data, rec...), len(rec)
	}
	buf.n = len(buf.data)
	b := tap.NewBatch(37, 1<<16)
	require.False(t, r.data.receive(b, buf))
	require.Equal(t, 37, b.Len())
	b.Reset()
	require.True(t, r.data.receive(b, buf))
	require.Equal(t, 3, b.Len())
	require.Equal(t, byte(39), b.Frame(2)[0])
}

func TestHelpAllocatesNothing(t *testing.T) {
	secret := make([]byte, record.SecretLen)
	sealer, err := record.NewSealer(secret, record.Client, 1, 7)
	require.NoError(t, err)
	opener, err := record.NewOpener(secret, record.Client, 1)
	require.NoError(t, err)
	var wg sync.WaitGroup
	life, end := context.WithCancel(t.Context())
	defer wg.Wait()
	defer end()
	crew := newCrew(life, 2, wg.Go) // no link, whose own doings would be counted
	k := &keys{epoch: 1, opener: opener}
	k.opened.Store(true)
	d := &data{link: &link{session: &session{transport: &Transport{crew: crew}}}, open: [2]*keys{1: k}}

	out, s := numbered(64, 1200), &d.sealing
	s.batch = out
	for i := range out.Len() {
		s.frames = append(s.frames, i)
	}
	buf, in := &buffer{data: make([]byte, 1<<17)}, tap.NewBatch(128, 1<<17)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if s.seal(crew, sealer) != nil {
			panic("spent")
		}
		buf.n, buf.at, buf.size = 0, 0, len(s.out[0])
		for _, rec := range s.out {
			buf.n += copy(buf.data[buf.n:], rec)
		}
		in.Reset()
		if d.many.open(d, in, buf); in.Len() != 64 {
			panic(in.Len())
		}
	}))
}

// BenchmarkHelp is a run of 88 records of a full frame, sealed and opened.
func BenchmarkHelp(b *testing.B) {
	for _, workers := range []int{-1, 1} {
		b.Run(fmt.Sprintf("workers=%d", max(workers, 0)), func(b *testing.B) {
			l, r := helped(b, workers)
			l.data.mu.Lock()
			defer l.data.mu.Unlock()
			out := numbered(88, 1434)
			s := &l.data.sealing
			s.batch, s.frames = out, s.frames[:0]
			for i := range out.Len() {
				s.frames = append(s.frames, i)
			}
			buf, in := &buffer{data: make([]byte, 1<<18)}, tap.NewBatch(128, 1<<18)
			b.SetBytes(88 * 1434)
			b.ReportAllocs()
			for b.Loop() {
				if err := s.seal(l.session.transport.crew, l.data.use.Load().sealer); err != nil {
					b.Fatal(err)
				}
				buf.n, buf.at, buf.size = 0, 0, len(s.out[0])
				for _, rec := range s.out {
					buf.n += copy(buf.data[buf.n:], rec)
				}
				in.Reset()
				if !r.data.receive(in, buf) || in.Len() != 88 {
					b.Fatal("not all were opened")
				}
			}
		})
	}
}
