package tap_test

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/tap"
	"github.com/viasnet/vias/tap/taptest"
)

// wire is a datagram pipe: one frame a Read or Write, no allocation.
type wire struct {
	in, out chan datagram
	once    sync.Once
	done    chan struct{}
}

type datagram struct {
	n int
	b [1600]byte
}

func newWire() (a, b *wire) {
	x, y := make(chan datagram, 64), make(chan datagram, 64)
	return &wire{in: x, out: y, done: make(chan struct{})}, &wire{in: y, out: x, done: make(chan struct{})}
}

func (w *wire) Read(p []byte) (int, error) {
	select {
	case <-w.done:
		return 0, os.ErrClosed
	case d := <-w.in:
		return copy(p, d.b[:d.n]), nil
	}
}

func (w *wire) Write(p []byte) (int, error) {
	var d datagram
	d.n = copy(d.b[:], p)
	select {
	case <-w.done:
		return 0, os.ErrClosed
	case w.out <- d:
		return d.n, nil
	}
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.done) })
	return nil
}

func TestSimple(t *testing.T) {
	taptest.Run(t, func(*testing.T) (dev, peer tap.Device) {
		a, b := newWire()
		return tap.Simple(a, 1500), tap.Simple(b, 1500)
	})
}

// script is a ReadWriteCloser that does what it is told.
type script struct {
	reads  []func(p []byte) (int, error)
	write  func(p []byte) (int, error)
	closed error
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.reads) == 0 {
		return 0, io.EOF
	}
	r := s.reads[0]
	s.reads = s.reads[1:]
	return r(p)
}
func (s *script) Write(p []byte) (int, error) { return s.write(p) }
func (s *script) Close() error                { return s.closed }

func full(err error) func([]byte) (int, error) {
	return func(p []byte) (int, error) { return copy(p, taptest.Frame(1, 60)), err }
}

func fails(err error) func([]byte) (int, error) {
	return func([]byte) (int, error) { return 0, err }
}

func TestSimpleErrors(t *testing.T) {
	boom := errors.New("boom")
	frame := taptest.Frame(1, 60)
	b := tap.NewBatch(4, 4*2000)

	t.Run("frame together with error", func(t *testing.T) {
		d := tap.Simple(&script{reads: []func([]byte) (int, error){full(boom), fails(boom)}}, 0)
		require.Equal(t, tap.DefaultMTU, d.MTU())
		require.NoError(t, d.ReadBatch(b))
		require.Equal(t, frame, b.Frame(0))
		require.ErrorIs(t, d.ReadBatch(b), boom)
		require.Zero(t, b.Len())
	})
	t.Run("end of file is final but not ErrClosed", func(t *testing.T) {
		err := tap.Simple(&script{}, 0).ReadBatch(b)
		require.ErrorIs(t, err, io.EOF)
		require.NotErrorIs(t, err, tap.ErrClosed)
	})
	for _, closed := range []error{net.ErrClosed, os.ErrClosed, io.ErrClosedPipe} {
		t.Run("closed underneath: "+closed.Error(), func(t *testing.T) {
			d := tap.Simple(&script{reads: []func([]byte) (int, error){fails(closed)}}, 0)
			require.ErrorIs(t, d.ReadBatch(b), tap.ErrClosed)
		})
	}
	t.Run("nothing, for ever", func(t *testing.T) {
		s := &script{}
		for range 200 {
			s.reads = append(s.reads, fails(nil))
		}
		require.ErrorIs(t, tap.Simple(s, 0).ReadBatch(b), io.ErrNoProgress)
	})
	t.Run("close", func(t *testing.T) {
		d := tap.Simple(&script{closed: boom}, 0)
		require.ErrorIs(t, d.Close(), boom)
		require.NoError(t, d.Close())
		require.ErrorIs(t, d.ReadBatch(b), tap.ErrClosed)
	})
}

func TestSimpleFrames(t *testing.T) {
	boom := errors.New("boom")
	frame := taptest.Frame(1, 60)
	b := tap.NewBatch(4, 4*2000)
	t.Run("runt and giant dropped", func(t *testing.T) {
		d := tap.Simple(&script{reads: []func([]byte) (int, error){
			func([]byte) (int, error) { return 13, nil },
			func(p []byte) (int, error) { return copy(p, taptest.Frame(0, 1501)), nil },
			func(p []byte) (int, error) { return copy(p, taptest.Frame(0, 3000)), nil },
			full(nil),
		}}, 0)
		require.NoError(t, d.ReadBatch(b))
		require.Equal(t, frame, b.Frame(0))
		require.Equal(t, tap.Stats{ReadDropped: 3}, d.(tap.Counted).Stats())
	})
	t.Run("write", func(t *testing.T) {
		b.Reset()
		require.True(t, b.Append(frame, tap.Offload{NeedsChecksum: true, ChecksumStart: 20}))
		d := tap.Simple(&script{write: fails(boom)}, 0)
		require.NoError(t, d.WriteBatch(b), "an unfinished frame is not written")
		require.Equal(t, tap.Stats{WriteDropped: 1}, d.(tap.Counted).Stats())
		b.SetOffload(0, tap.Offload{})
		require.ErrorIs(t, d.WriteBatch(b), boom)
		d = tap.Simple(&script{write: func(p []byte) (int, error) { return len(p) - 1, nil }}, 0)
		require.ErrorIs(t, d.WriteBatch(b), io.ErrShortWrite)
	})
}
