package taptest

import (
	"bytes"
	"encoding/binary"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/tap"
)

// EtherType marks the suite's frames: IEEE 802 local experimental. Frames of other
// types (a kernel's own chatter) are ignored when reading.
const EtherType = 0x88b5

// patience bounds every wait of the suite.
const patience = 10 * time.Second

// Open makes a pair for one case of the suite: the Device under test, and a Device
// that writes what dev reads and reads what dev writes. Both have the same MTU, at
// most 9000. The suite closes them.
type Open func(t *testing.T) (dev, peer tap.Device)

// Run is the conformance suite of [tap.Device]: what its doc comment promises,
// case by case, each on a fresh pair.
func Run(t *testing.T, open Open) {
	cases := []struct {
		name string
		run  func(*pair, *testing.T)
	}{
		{"Constants", (*pair).testConstants},
		{"WriteInOrder", func(p *pair, t *testing.T) { p.testOrder(t, p.dev, p.peer) }},
		{"ReadInOrder", func(p *pair, t *testing.T) { p.testOrder(t, p.peer, p.dev) }},
		{"ReadLimitedByFrames", (*pair).testFrameLimit},
		{"ReadLimitedByBytes", (*pair).testByteLimit},
		{"ReadDropsWhatTheBatchCannotHold", (*pair).testTooLongForBatch},
		{"ReadIntoNothing", (*pair).testNoRoom},
		{"WriteLargest", (*pair).testLargest},
		{"WriteDropsOversize", (*pair).testOversize},
		{"WriteDropsRunts", (*pair).testRunts},
		{"WriteKeepsBatch", (*pair).testWriteKeepsBatch},
		{"CloseUnblocksRead", (*pair).testCloseUnblocks},
		{"Closed", (*pair).testClosed},
		{"CloseWhileWriting", (*pair).testCloseWhileWriting},
		{"BothDirectionsAtOnce", (*pair).testDuplex},
		{"NoAllocations", (*pair).testAllocs},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dev, peer := open(t)
			t.Cleanup(func() {
				require.NoError(t, dev.Close())
				require.NoError(t, peer.Close())
			})
			c.run(&pair{dev: dev, peer: peer}, t)
		})
	}
}

type pair struct{ dev, peer tap.Device }

// Frame makes a frame of the suite: its number, then a pattern, payload bytes in
// all behind the Ethernet header (at least 4).
func Frame(number, payload int) []byte {
	f := make([]byte, tap.HeaderLen+payload)
	copy(f, tap.Broadcast[:])
	copy(f[6:], []byte{2, 0, 0, 0, 0, 1})
	binary.BigEndian.PutUint16(f[12:], EtherType)
	binary.BigEndian.PutUint32(f[14:], uint32(number))
	for i := tap.HeaderLen + 4; i < len(f); i++ {
		f[i] = byte(number + i)
	}
	return f
}

func batchOf(frames ...[]byte) *tap.Batch {
	n := 0
	for _, f := range frames {
		n += len(f)
	}
	b := tap.NewBatch(len(frames), n)
	for _, f := range frames {
		b.Append(f, tap.Offload{})
	}
	return b
}

func bigBatch() *tap.Batch { return tap.NewBatch(64, 4*tap.MaxFrame) }

// watch closes d if the test has not ended in time, so that a wait fails instead
// of hanging; the caller stops the timer.
func watch(d tap.Device) *time.Timer {
	return time.AfterFunc(patience, func() { _ = d.Close() })
}

// expect reads from d into b until the frames came, in this order, and nothing
// else of the suite's came with them.
func expect(t *testing.T, d tap.Device, b *tap.Batch, frames ...[]byte) {
	t.Helper()
	defer watch(d).Stop()
	for len(frames) > 0 {
		require.NoError(t, d.ReadBatch(b), "%d frames missing", len(frames))
		require.Positive(t, b.Len(), "ReadBatch returned without a frame")
		for i := range b.Len() {
			if got := b.Frame(i); ours(got) {
				require.NotEmpty(t, frames, "a frame too many")
				require.True(t, bytes.Equal(frames[0], got), "want %x\ngot  %x", frames[0], got)
				require.Zero(t, b.Offload(i))
				frames = frames[1:]
			}
		}
	}
}

// ours also knows a tagged frame by its inner type: the kernel may have moved the
// tag out and back in.
func ours(frame []byte) bool {
	return len(frame) > 18 && (binary.BigEndian.Uint16(frame[12:]) == EtherType || binary.BigEndian.Uint16(frame[16:]) == EtherType)
}

func (p *pair) testConstants(t *testing.T) {
	require.Positive(t, p.dev.MTU())
	require.LessOrEqual(t, p.dev.MTU(), 9000)
	require.Equal(t, p.dev.MTU(), p.peer.MTU(), "the suite's pair must agree")
	require.Equal(t, p.dev.Caps(), p.dev.Caps())
	require.False(t, p.dev.Caps().USO && !p.dev.Caps().Offload, "USO means nothing without Offload")
}

func (p *pair) testOrder(t *testing.T, from, to tap.Device) {
	var frames [][]byte
	for i := range 30 {
		frames = append(frames, Frame(i, 46+i))
	}
	require.NoError(t, from.WriteBatch(batchOf(frames[:20]...)))
	require.NoError(t, from.WriteBatch(batchOf()))
	require.NoError(t, from.WriteBatch(batchOf(frames[20:]...)))
	expect(t, to, bigBatch(), frames...)
}

func (p *pair) testFrameLimit(t *testing.T) {
	frames := [][]byte{Frame(0, 100), Frame(1, 100), Frame(2, 100), Frame(3, 100), Frame(4, 100)}
	require.NoError(t, p.peer.WriteBatch(batchOf(frames...)))
	expect(t, p.dev, tap.NewBatch(2, 2*tap.MaxFrame), frames...)
}

func (p *pair) testByteLimit(t *testing.T) {
	mtu := p.dev.MTU()
	frames := [][]byte{Frame(0, mtu), Frame(1, mtu), Frame(2, mtu), Frame(3, mtu), Frame(4, mtu)}
	require.NoError(t, p.peer.WriteBatch(batchOf(frames...)))
	// Room for one of the longest and a bit: a reader must not start what it
	// cannot finish.
	expect(t, p.dev, tap.NewBatch(64, tap.MaxFrame+500), frames...)
}

func (p *pair) testTooLongForBatch(t *testing.T) {
	require.NoError(t, p.peer.WriteBatch(batchOf(Frame(0, 400), Frame(1, 101), Frame(2, 100))))
	expect(t, p.dev, tap.NewBatch(1, tap.HeaderLen+100), Frame(2, 100))
	if c, ok := p.dev.(tap.Counted); ok {
		require.GreaterOrEqual(t, c.Stats().ReadDropped, uint64(2))
	}
}

func (p *pair) testNoRoom(t *testing.T) {
	defer watch(p.dev).Stop()
	require.NoError(t, p.peer.WriteBatch(batchOf(Frame(0, 100))))
	err := p.dev.ReadBatch(tap.NewBatch(0, 0))
	require.Error(t, err)
	require.NotErrorIs(t, err, tap.ErrClosed, "it waited for ever, for a batch that takes nothing")
}

func tag(frame []byte) []byte {
	tagged := append([]byte{}, frame[:12]...)
	tagged = append(tagged, 0x81, 0, 0, 7)
	return append(tagged, frame[12:]...)
}

func (p *pair) testLargest(t *testing.T) {
	mtu := p.dev.MTU()
	require.NoError(t, p.dev.WriteBatch(batchOf(Frame(0, mtu), tag(Frame(1, mtu)), Frame(2, 46))))
	b := bigBatch()
	defer watch(p.peer).Stop()
	seen := map[uint32]int{}
	for seen[2] == 0 {
		require.NoError(t, p.peer.ReadBatch(b))
		for i := range b.Len() {
			if f := b.Frame(i); ours(f) {
				// A kernel may show the tag beside the frame instead of in it.
				seen[binary.BigEndian.Uint32(f[len(f)-payloadLen(f):])]++
			}
		}
	}
	require.Equal(t, map[uint32]int{0: 1, 1: 1, 2: 1}, seen)
}

func payloadLen(f []byte) int {
	if binary.BigEndian.Uint16(f[12:]) == EtherType {
		return len(f) - tap.HeaderLen
	}
	return len(f) - tap.HeaderLen - tap.TagLen
}

func (p *pair) testOversize(t *testing.T) {
	mtu := p.dev.MTU()
	require.NoError(t, p.dev.WriteBatch(batchOf(Frame(0, mtu+1), tag(Frame(1, mtu+1)), Frame(2, 46))))
	expect(t, p.peer, bigBatch(), Frame(2, 46))
	p.requireWriteDropped(t, 2)
}

func (p *pair) testRunts(t *testing.T) {
	require.NoError(t, p.dev.WriteBatch(batchOf([]byte{}, []byte{1}, Frame(0, 4)[:13], Frame(2, 46))))
	expect(t, p.peer, bigBatch(), Frame(2, 46))
	p.requireWriteDropped(t, 3)
}

func (p *pair) requireWriteDropped(t *testing.T, n uint64) {
	t.Helper()
	if c, ok := p.dev.(tap.Counted); ok {
		require.Equal(t, n, c.Stats().WriteDropped)
	}
}

// The batch is the caller's again: its frames are whole, and what is written into
// it afterwards does not change what was sent.
func (p *pair) testWriteKeepsBatch(t *testing.T) {
	b := batchOf(Frame(0, 100), Frame(1, 100), Frame(2, 100))
	require.NoError(t, p.dev.WriteBatch(b))
	for i := range b.Len() {
		require.Equal(t, Frame(i, 100), b.Frame(i))
		clear(b.Frame(i))
	}
	expect(t, p.peer, bigBatch(), Frame(0, 100), Frame(1, 100), Frame(2, 100))

	b = tap.NewBatch(2, 400)
	b.Append(Frame(3, 100), tap.Offload{})
	b.Trim(0, -tap.Headroom)
	copy(b.Frame(0), Frame(4, 100+tap.Headroom)) // no headroom left for the device
	require.NoError(t, p.dev.WriteBatch(b))
	expect(t, p.peer, bigBatch(), Frame(4, 100+tap.Headroom))
}

func (p *pair) testCloseUnblocks(t *testing.T) {
	require.NoError(t, p.peer.WriteBatch(batchOf(Frame(0, 100))))
	expect(t, p.dev, bigBatch(), Frame(0, 100))
	result := make(chan error)
	started := make(chan struct{})
	go func() {
		b := bigBatch()
		close(started)
		for {
			if err := p.dev.ReadBatch(b); err != nil {
				result <- err
				return
			}
		}
	}()
	<-started
	require.NoError(t, p.dev.Close())
	select {
	case err := <-result:
		require.ErrorIs(t, err, tap.ErrClosed)
	case <-time.After(patience):
		t.Fatal("Close did not end ReadBatch")
	}
}

func (p *pair) testClosed(t *testing.T) {
	require.NoError(t, p.peer.WriteBatch(batchOf(Frame(0, 100))))
	mtu, caps := p.dev.MTU(), p.dev.Caps()
	require.NoError(t, p.dev.Close())
	require.NoError(t, p.dev.Close(), "Close is idempotent")
	require.ErrorIs(t, p.dev.ReadBatch(bigBatch()), tap.ErrClosed)
	require.ErrorIs(t, p.dev.ReadBatch(bigBatch()), net.ErrClosed)
	require.ErrorIs(t, p.dev.WriteBatch(batchOf(Frame(0, 100))), tap.ErrClosed)
	require.ErrorIs(t, p.dev.WriteBatch(batchOf()), tap.ErrClosed)
	require.Equal(t, mtu, p.dev.MTU())
	require.Equal(t, caps, p.dev.Caps())
}

func (p *pair) testCloseWhileWriting(t *testing.T) {
	result := make(chan error, 1)
	started := make(chan struct{})
	var once sync.Once
	go func() {
		b := batchOf(Frame(0, 100), Frame(1, 100))
		for {
			if err := p.dev.WriteBatch(b); err != nil {
				result <- err
				return
			}
			once.Do(func() { close(started) })
		}
	}()
	// A peer that reads keeps a writer that blocks on a full queue moving.
	go func() {
		b := bigBatch()
		for p.peer.ReadBatch(b) == nil {
		}
	}()
	<-started
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { _ = p.dev.Close() })
	}
	wg.Wait()
	select {
	case err := <-result:
		require.ErrorIs(t, err, tap.ErrClosed)
	case <-time.After(patience):
		t.Fatal("Close did not end WriteBatch")
	}
}

func (p *pair) testDuplex(t *testing.T) {
	const rounds = 200
	defer watch(p.dev).Stop()
	defer watch(p.peer).Stop()
	// The peer sends back what it gets, while dev's writer waits for dev's reader.
	go func() {
		b := bigBatch()
		for p.peer.ReadBatch(b) == nil && p.peer.WriteBatch(b) == nil {
		}
	}()
	credit := make(chan struct{}, 16)
	written := make(chan error, 1)
	go func() {
		for i := range rounds {
			credit <- struct{}{}
			if err := p.dev.WriteBatch(batchOf(Frame(i, 200))); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	b := bigBatch()
	for next := 0; next < rounds; {
		require.NoError(t, p.dev.ReadBatch(b))
		for i := range b.Len() {
			if ours(b.Frame(i)) {
				require.Equal(t, Frame(next, 200), b.Frame(i))
				next++
				<-credit
			}
		}
	}
	require.NoError(t, <-written)
}

func (p *pair) testAllocs(t *testing.T) {
	defer watch(p.dev).Stop()
	defer watch(p.peer).Stop()
	out, in := batchOf(Frame(0, 1000), Frame(1, 200)), bigBatch()
	pass := func(from, to tap.Device) {
		if from.WriteBatch(out) != nil {
			t.Error("write failed")
		}
		for got := 0; got < out.Len(); {
			if to.ReadBatch(in) != nil {
				t.Error("read failed")
				return
			}
			for i := range in.Len() {
				if ours(in.Frame(i)) {
					got++
				}
			}
		}
	}
	for range DefaultQueue { // whatever is made once is made now
		pass(p.dev, p.peer)
		pass(p.peer, p.dev)
	}
	require.Zero(t, testing.AllocsPerRun(100, func() { pass(p.dev, p.peer) }), "WriteBatch allocates")
	require.Zero(t, testing.AllocsPerRun(100, func() { pass(p.peer, p.dev) }), "ReadBatch allocates")
}
