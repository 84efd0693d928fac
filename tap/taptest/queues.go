package taptest

import (
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/tap"
)

// flows and rounds of RunQueues: so many frames each way.
const (
	queueFlows  = 24
	queueRounds = 6
)

// RunQueues is what a [tap.MultiQueue] passes besides [Run], which tries a Device of one queue. open
// makes a device and its peer, which has one queue; frames between them are UDP over IPv4.
func RunQueues(t *testing.T, open func(t *testing.T) (dev tap.MultiQueue, peer tap.Device)) {
	t.Run("Read", func(t *testing.T) { testQueuesRead(t, open) })
	t.Run("Write", func(t *testing.T) { testQueuesWrite(t, open) })
	t.Run("Close", func(t *testing.T) { testQueuesClose(t, open) })
}

// UDPFrame is a frame of a flow, with its number.
func UDPFrame(flow, number int) []byte {
	f := make([]byte, 14+20+8+8)
	copy(f, tap.Broadcast[:])
	copy(f[6:], []byte{2, 0, 0, 0, 0, 9, 8, 0, 0x45})
	ip := f[14:34]
	binary.BigEndian.PutUint16(ip[2:], 20+8+8)
	ip[8], ip[9] = 64, 17
	copy(ip[12:], []byte{10, 9, 8, 1, 10, 9, 8, 2})
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(f[34:], uint16(20000+flow))
	binary.BigEndian.PutUint16(f[36:], 9)
	binary.BigEndian.PutUint16(f[38:], 8+8) // no checksum
	binary.BigEndian.PutUint32(f[42:], uint32(flow))
	binary.BigEndian.PutUint32(f[46:], uint32(number))
	return f
}

// parseUDPFrame is the reverse; false: it is another's, as the kernel's own are.
func parseUDPFrame(f []byte) (flow, number int, ok bool) {
	if len(f) != 50 || f[12] != 8 || f[13] != 0 || f[23] != 17 || f[26] != 10 || f[27] != 9 {
		return 0, 0, false
	}
	return int(binary.BigEndian.Uint32(f[42:])), int(binary.BigEndian.Uint32(f[46:])), true
}

// tally is what came: each flow's frames must be there once, and in order.
type tally struct {
	mu     sync.Mutex
	next   [queueFlows]int
	total  int
	queues map[int]bool
	bad    string
	done   chan struct{}
}

func newTally() *tally { return &tally{queues: map[int]bool{}, done: make(chan struct{})} }

func (x *tally) add(queue int, frame []byte) {
	flow, number, ok := parseUDPFrame(frame)
	if !ok || flow >= queueFlows {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if number != x.next[flow] && x.bad == "" {
		x.bad = "a frame was lost, repeated, or overtook another of its flow"
	}
	x.next[flow] = number + 1
	x.queues[queue] = true
	if x.total++; x.total == queueFlows*queueRounds {
		close(x.done)
	}
}

// read reads a queue until it is closed.
func (x *tally) read(queue int, d tap.Device) {
	b := tap.NewBatch(64, 2*tap.MaxFrame)
	for d.ReadBatch(b) == nil {
		for i := range b.Len() {
			x.add(queue, b.Frame(i))
		}
	}
}

// await waits for all of it.
func (x *tally) await(t *testing.T) {
	t.Helper()
	select {
	case <-x.done:
	case <-time.After(20 * time.Second):
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	require.Empty(t, x.bad)
	require.Equal(t, queueFlows*queueRounds, x.total)
}

func round(number int) *tap.Batch {
	b := tap.NewBatch(queueFlows, queueFlows*64)
	for flow := range queueFlows {
		b.Append(UDPFrame(flow, number), tap.Offload{})
	}
	return b
}

func testQueuesRead(t *testing.T, open func(t *testing.T) (tap.MultiQueue, tap.Device)) {
	dev, peer := open(t)
	queues, got := dev.Queues(), newTally()
	require.Greater(t, len(queues), 1)
	require.Equal(t, tap.Device(dev), queues[0])
	var wg sync.WaitGroup
	for i, q := range queues {
		require.Equal(t, dev.Caps(), q.Caps())
		require.Equal(t, dev.MTU(), q.MTU())
		wg.Go(func() { got.read(i, q) })
	}
	for n := range queueRounds {
		require.NoError(t, peer.WriteBatch(round(n)))
	}
	got.await(t)
	require.Greater(t, len(got.queues), 1, "all flows are in one queue")
	require.NoError(t, dev.Close())
	wg.Wait()
}

func testQueuesWrite(t *testing.T, open func(t *testing.T) (tap.MultiQueue, tap.Device)) {
	dev, peer := open(t)
	got := newTally()
	go got.read(0, peer)
	var wg sync.WaitGroup
	queues := dev.Queues()
	for i, q := range queues { // each writes some flows
		wg.Go(func() {
			for n := range queueRounds {
				b := round(n)
				flow := 0
				b.Drop(func(int) bool { flow++; return flow%len(queues) == i })
				if q.WriteBatch(b) != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	got.await(t)
	require.NoError(t, peer.Close())
	require.NoError(t, dev.Close())
}

func testQueuesClose(t *testing.T, open func(t *testing.T) (tap.MultiQueue, tap.Device)) {
	dev, _ := open(t)
	ended := make(chan error, tap.MaxQueues)
	for _, q := range dev.Queues() {
		go func() {
			b := tap.NewBatch(4, tap.MaxFrame)
			for {
				if err := q.ReadBatch(b); err != nil {
					ended <- err
					return
				}
			}
		}()
	}
	require.NoError(t, dev.Close())
	for _, q := range dev.Queues() {
		require.ErrorIs(t, <-ended, tap.ErrClosed)
		require.ErrorIs(t, q.WriteBatch(tap.NewBatch(1, 64)), tap.ErrClosed)
	}
	require.NoError(t, dev.Close())
}
