package udpio

import (
	"bytes"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestAlignment: control messages are read and written as the structs that they are, which
// some processors do only where these are aligned.
func TestAlignment(t *testing.T) {
	for _, c := range []struct{ at, size, align uintptr }{
		{unsafe.Offsetof(outbound{}.control), unsafe.Sizeof(outbound{}.control[0]), unsafe.Alignof(outbound{})},
		{unsafe.Offsetof(inbound{}.control), 0, unsafe.Alignof(inbound{})},
	} {
		require.Zero(t, c.at%unsafe.Alignof(unix.Cmsghdr{}))
		require.Zero(t, c.size%unsafe.Alignof(unix.Cmsghdr{}))
		require.Zero(t, c.align%unsafe.Alignof(unix.Cmsghdr{}))
	}
	require.GreaterOrEqual(t, int(unsafe.Sizeof(outbound{}.control[0])), unix.CmsgSpace(2))
}

// TestManyMessages: where the kernel neither cuts nor joins, many datagrams are one call all the same.
func TestManyMessages(t *testing.T) {
	a, from := open(t, "udp4", "127.0.0.1:0")
	b, at := open(t, "udp4", "127.0.0.1:0")
	a.StepDown()
	b.StepDown()
	for _, sizes := range [][]int{{1}, {0}, {65507}, repeat(1400, 44, 700), repeat(1200, 130, 3, 900, 0, 900, 1000), {1, 2, 3, 3, 3, 2, 2, 1}} {
		sent := datagrams(sizes...)
		require.NoError(t, a.Send(sent, at))
		got, src := receive(t, b, len(sent))
		require.Equal(t, from, src)
		require.Len(t, got, len(sent))
		for i := range sent {
			require.True(t, bytes.Equal(sent[i], got[i]), "%v: datagram %d has %d bytes", sizes, i, len(got[i]))
		}
	}
	s := a.Stats()
	require.Zero(t, s.Lost)
	require.False(t, s.Segmenting || b.Stats().Coalescing)
	require.Equal(t, s.Sent, b.Stats().Received)
	require.Less(t, s.Sends, s.Sent/10)
	require.Less(t, b.Stats().Receives, s.Sent/10)
}

// TestMixedRuns: runs of several lengths are one call.
func TestMixedRuns(t *testing.T) {
	a, _ := open(t, "udp4", "127.0.0.1:0")
	b, at := open(t, "udp4", "127.0.0.1:0")
	sent := datagrams(100, 200, 300, 300, 300, 20, 1400, 1400)
	require.NoError(t, a.Send(sent, at))
	got, _ := receive(t, b, len(sent))
	require.Equal(t, sent, got)
	require.Equal(t, uint64(1), a.Stats().Sends)
}

// TestOneOfManyIsRefused: what the kernel does not take is lost alone.
func TestOneOfManyIsRefused(t *testing.T) {
	a, _ := open(t, "udp4", "127.0.0.1:0")
	b, at := open(t, "udp4", "127.0.0.1:0")
	a.StepDown()
	sent := datagrams(10, 70000, 20, 70000, 70000, 30)
	require.NoError(t, a.Send(sent, at))
	got, _ := receive(t, b, 3)
	require.Equal(t, [][]byte{sent[0], sent[2], sent[5]}, got)
	require.Equal(t, uint64(3), a.Stats().Lost)
	require.Equal(t, uint64(3), a.Stats().Sent)
}

// TestManySenders: what one call brings is handed over by senders, in order, also without waiting.
func TestManySenders(t *testing.T) {
	x, fromX := open(t, "udp4", "127.0.0.1:0")
	y, fromY := open(t, "udp4", "127.0.0.1:0")
	b, at := open(t, "udp4", "127.0.0.1:0")
	b.StepDown()
	sent := datagrams(7, 7, 7)
	send := func(c *Conn, n int) { require.NoError(t, c.Send(sent[:n], at)) }
	send(x, 2)
	send(y, 3)
	send(x, 1)
	send(y, 1)
	buf := make([]byte, BufferSize)
	require.NoError(t, b.udp.SetReadDeadline(time.Now().Add(10*time.Second)))
	for i, want := range []struct {
		n    int
		from netip.AddrPort
	}{{14, fromX}, {21, fromY}, {7, fromX}, {7, fromY}} {
		get := b.ReceiveNow // over loopback a send ends when it has arrived
		if i == 0 {
			get = b.Receive
		}
		n, size, from, err := get(buf)
		require.NoError(t, err)
		require.Equal(t, want.n, n)
		require.Equal(t, 7, size)
		require.Equal(t, want.from, from)
	}
	n, _, _, err := b.ReceiveNow(buf)
	require.NoError(t, err)
	require.Zero(t, n)
	require.Equal(t, uint64(1), b.Stats().Receives)
	require.Equal(t, uint64(4), b.Brought())

	send(x, 3)
	small := make([]byte, 16) // what does not fit is the next one's
	for _, want := range []int{14, 7} {
		n, size, _, err := b.Receive(small)
		require.NoError(t, err)
		require.Equal(t, want, n)
		require.Equal(t, 7, size)
	}
}

// TestWaited: what was there already can be told from what came.
func TestWaited(t *testing.T) {
	for _, stepDown := range []bool{false, true} {
		a, _ := open(t, "udp4", "127.0.0.1:0")
		b, at := open(t, "udp4", "127.0.0.1:0")
		if stepDown {
			b.StepDown()
		}
		buf := make([]byte, BufferSize)
		require.NoError(t, b.udp.SetReadDeadline(time.Now().Add(10*time.Second)))
		for range 2 {
			require.NoError(t, a.Send(datagrams(100), at)) // over loopback it has arrived then
		}
		n, _, _, err := b.Receive(buf)
		require.NoError(t, err)
		require.Positive(t, n)
		require.False(t, b.Waited())
		if n == 100 {
			_, _, _, err = b.ReceiveNow(buf)
			require.NoError(t, err)
			require.False(t, b.Waited())
		}
		_, _, _, err = b.ReceiveNow(buf)
		require.NoError(t, err)
		require.True(t, b.Waited())
	}
}

func TestManyMessagesAllocateNothing(t *testing.T) {
	a, _ := open(t, "udp4", "127.0.0.1:0")
	b, at := open(t, "udp4", "127.0.0.1:0")
	a.StepDown()
	b.StepDown()
	noAllocs(t, a, b, at)
}

// BenchmarkOldKernel is BenchmarkSendReceive where the kernel neither cuts nor joins.
func BenchmarkOldKernel(b *testing.B) {
	x, _ := open(b, "udp4", "127.0.0.1:0")
	y, at := open(b, "udp4", "127.0.0.1:0")
	x.StepDown()
	y.StepDown()
	sendReceive(b, x, y, at, 44)
}
