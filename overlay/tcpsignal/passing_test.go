//go:build !plan9 && !windows

package tcpsignal

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// poor is a listener whose Accept fails in the given ways, one after the other, and
// then waits for its end.
type poor struct {
	net.Listener
	errs   []error
	tries  []time.Time
	closed chan struct{}
	once   sync.Once
}

func (p *poor) Accept() (net.Conn, error) {
	p.tries = append(p.tries, time.Now())
	if len(p.errs) > 0 {
		err := p.errs[0]
		p.errs = p.errs[1:]
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: err}
	}
	<-p.closed
	return nil, net.ErrClosed
}

func (p *poor) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// accepting runs a server on p until ctx ends, or it does.
func accepting(ctx context.Context, p *poor) error {
	p.closed = make(chan struct{})
	return Serve(ctx, p, ServerConfig{})
}

func TestShortage(t *testing.T) {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		t.Run(e.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				p := &poor{}
				for range 20 {
					p.errs = append(p.errs, os.NewSyscallError("accept4", e))
				}
				require.NoError(t, accepting(ctx, p))
				require.Len(t, p.tries, 21)
				require.Equal(t, firstPause, p.tries[1].Sub(p.tries[0]))
				require.Equal(t, lastPause, p.tries[20].Sub(p.tries[19]))
			})
		})
	}
}

// TestShortageEnds: the pause does not outlive ctx.
func TestShortageEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), firstPause/2)
		defer cancel()
		require.NoError(t, accepting(ctx, &poor{errs: []error{syscall.EMFILE}}))
		require.Equal(t, firstPause/2, time.Since(start))
	})
}

func TestListenerFails(t *testing.T) {
	broken := errors.New("broken")
	require.ErrorIs(t, accepting(t.Context(), &poor{errs: []error{syscall.EMFILE, broken}}), broken)
	require.ErrorIs(t, accepting(t.Context(), &poor{errs: []error{syscall.EBADF}}), syscall.EBADF)
}
