package natssignal_test

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// valve passes TCP connections on, as a network does: while it is closed nothing comes
// through, neither end is told, and what was sent comes when it is opened again. A slow one
// keeps everything for delay.
type valve struct {
	net.Listener
	to    string
	delay time.Duration
	done  chan struct{}
	wg    sync.WaitGroup

	mu    sync.Mutex
	open  chan struct{} // closed while the valve is open
	conns []net.Conn
}

func newValve(t testing.TB, to string, delay time.Duration) *valve {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	v := &valve{Listener: ln, to: to, delay: delay, done: make(chan struct{}), open: make(chan struct{})}
	close(v.open)
	t.Cleanup(v.end)
	v.wg.Go(v.run)
	return v
}

func (v *valve) end() {
	close(v.done)
	_ = v.Close()
	v.mu.Lock()
	for _, c := range v.conns {
		_ = c.Close()
	}
	v.mu.Unlock()
	v.wg.Wait()
}

func (v *valve) shut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.open = make(chan struct{})
}

func (v *valve) reopen() {
	v.mu.Lock()
	defer v.mu.Unlock()
	close(v.open)
}

func (v *valve) run() {
	for {
		near, err := v.Accept()
		if err != nil {
			return
		}
		v.wg.Go(func() { v.join(near) })
	}
}

func (v *valve) join(near net.Conn) {
	defer near.Close()
	if !v.wait() {
		return
	}
	far, err := net.Dial("tcp", v.to)
	if err != nil {
		return
	}
	v.mu.Lock()
	v.conns = append(v.conns, near, far)
	v.mu.Unlock()
	v.wg.Go(func() { v.pass(far, near) })
	v.pass(near, far)
}

// wait until the valve is open; false = the test is over.
func (v *valve) wait() bool {
	v.mu.Lock()
	open := v.open
	v.mu.Unlock()
	select {
	case <-open:
		return true
	case <-v.done:
		return false
	}
}

func (v *valve) pass(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		if v.delay > 0 {
			select {
			case <-time.After(v.delay):
			case <-v.done:
				return
			}
		}
		if !v.wait() {
			return
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}
