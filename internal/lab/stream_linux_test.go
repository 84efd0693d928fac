package lab

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// relay carries a stream's bytes from its client to its server, and may flip one, hold
// them back, or break the connection.
type relay struct {
	flip bool
	gate sync.Mutex // held = nothing goes on
}

func (r *relay) carry(to io.WriteCloser, from io.Reader, flip bool) {
	defer to.Close()
	b := make([]byte, 1000)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		r.gate.Lock()
		if flip {
			b[n/2] ^= 1
			flip = false
		}
		_, err = to.Write(b[:n])
		r.gate.Unlock()
		if err != nil {
			return
		}
	}
}

// relayed is a stream over r, on the loopback interface.
func relayed(t *testing.T, r *relay) (s *stream, client, server net.Conn) {
	t.Helper()
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer ln.Close()
	connect := func() (here, there *net.TCPConn) {
		c, err := net.Dial("tcp4", ln.Addr().String())
		require.NoError(t, err)
		there, err = ln.AcceptTCP()
		require.NoError(t, err)
		return c.(*net.TCPConn), there
	}
	s = &stream{stop: make(chan struct{}), every: streamInterval}
	var a, b *net.TCPConn
	s.client, a = connect()
	s.server, b = connect()
	var wg sync.WaitGroup
	wg.Go(func() { r.carry(halfCloser{b}, a, r.flip) })
	wg.Go(func() { r.carry(halfCloser{a}, b, false) })
	s.start()
	t.Cleanup(func() {
		s.abort()
		_, _ = a.Close(), b.Close()
		wg.Wait()
	})
	return s, a, b
}

// halfCloser is closed in one direction only.
type halfCloser struct{ *net.TCPConn }

func (h halfCloser) Close() error { return h.CloseWrite() }

func awaitArrived(t *testing.T, s *stream, since time.Time, n uint64) {
	t.Helper()
	require.Eventually(t, func() bool { return s.arrived(since) >= n }, 10*time.Second, time.Millisecond)
}

func TestStreamWhole(t *testing.T) {
	s, _, _ := relayed(t, &relay{})
	start := time.Now()
	awaitArrived(t, s, start, 10*streamChunk)
	there, back, err := s.finish(10 * time.Second)
	require.NoError(t, err)
	require.GreaterOrEqual(t, min(there, back), uint64(10*streamChunk))
}

func TestStreamGap(t *testing.T) {
	r := &relay{}
	s, _, _ := relayed(t, r)
	awaitArrived(t, s, time.Now(), streamChunk)
	r.gate.Lock()
	held := time.Now()
	require.Eventually(t, func() bool { return s.gap(held) > 300*time.Millisecond }, 10*time.Second, time.Millisecond)
	r.gate.Unlock()
	released := time.Now()
	awaitArrived(t, s, released, streamChunk)
	require.GreaterOrEqual(t, s.gap(held), 290*time.Millisecond)
	_, _, err := s.finish(10 * time.Second)
	require.NoError(t, err, "held back is not lost")
}

func TestStreamFlippedBit(t *testing.T) {
	s, _, _ := relayed(t, &relay{flip: true})
	awaitArrived(t, s, time.Now(), streamChunk)
	_, _, err := s.finish(10 * time.Second)
	require.ErrorContains(t, err, "there: the checksum of what was sent is")
}

func TestStreamBroken(t *testing.T) {
	s, a, _ := relayed(t, &relay{})
	awaitArrived(t, s, time.Now(), streamChunk)
	require.NoError(t, s.broken())
	require.NoError(t, a.(*net.TCPConn).SetLinger(0))
	require.NoError(t, a.Close())
	require.Eventually(t, func() bool { return s.broken() != nil }, 10*time.Second, time.Millisecond)
	_, _, err := s.finish(10 * time.Second)
	require.Error(t, err)
}
