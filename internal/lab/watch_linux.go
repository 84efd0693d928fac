package lab

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/internal/lab/chaos"
)

// watch looks for a marker in every frame between clouds, and in those inside of them.
type watch struct {
	marker   chaos.Marker
	fds      []int
	stopping atomic.Bool
	readers  sync.WaitGroup
	frames   atomic.Int64
	inside   atomic.Int64

	mu      sync.Mutex // guards what follows
	outside int
	where   string // the first that was outside
	failed  error
}

// watchBuffer is what the kernel keeps for a socket while nobody reads.
const watchBuffer = 64 << 20

// watch begins at once, in the namespaces of all routers.
// Between hosts of one cloud a marker may be in clear; where there is one host alone it may not.
func (l *Lab) watch(marker chaos.Marker) (*watch, error) {
	w := &watch{marker: marker}
	hosts := map[string]int{l.cfg.outside(): 0} // by the router's namespace
	for _, h := range l.hosts {
		hosts[l.cfg.site(h.Index).namespace]++
	}
	for ns, n := range hosts {
		if err := w.open(ns, n); err != nil {
			return nil, errors.Join(fmt.Errorf("lab: capture: %w", err), w.end())
		}
	}
	return w, nil
}

// open watches a router's namespace, behind which are so many hosts.
func (w *watch) open(ns string, hosts int) error {
	return within(ns, func() error {
		wan := 0 // of nobody
		if hosts > 0 {
			i, err := net.InterfaceByName("wan")
			if err != nil {
				return err
			}
			wan = i.Index
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(htons(unix.ETH_P_ALL)))
		if err != nil {
			return err
		}
		w.fds = append(w.fds, fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, watchBuffer); err != nil {
			return err
		}
		isInside := func(index int) bool { return hosts > 1 && index != wan }
		w.readers.Go(func() { w.read(fd, ns, isInside) })
		return nil
	})
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func (w *watch) read(fd int, ns string, isInside func(index int) bool) {
	b := make([]byte, 1<<17)
	for {
		n, from, err := unix.Recvfrom(fd, b, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if w.stopping.Load() {
				return
			}
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20) // milliseconds
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN): // of a link that was taken down
		case err != nil:
			w.note(func() { w.failed = errors.Join(w.failed, err) })
			return
		default:
			w.look(b[:n], from, ns, isInside)
		}
	}
}

func (w *watch) look(frame []byte, from unix.Sockaddr, ns string, isInside func(index int) bool) {
	w.frames.Add(1)
	if !bytes.Contains(frame, w.marker[:]) {
		return
	}
	if at, ok := from.(*unix.SockaddrLinklayer); ok && isInside(at.Ifindex) {
		w.inside.Add(1)
		return
	}
	w.note(func() {
		if w.outside++; w.where == "" {
			w.where = fmt.Sprintf("in %s: %x", ns, frame[:min(len(frame), 64)])
		}
	})
}

func (w *watch) note(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *watch) counts() (outside, inside, frames int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.outside, int(w.inside.Load()), int(w.frames.Load())
}

// first is where the marker was first seen outside.
func (w *watch) first() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.where
}

// end stops watching. An error says that frames were missed.
func (w *watch) end() error {
	w.stopping.Store(true)
	w.readers.Wait()
	for _, fd := range w.fds {
		stats, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err == nil && stats.Drops > 0 {
			err = fmt.Errorf("lab: the capture lost %d frames", stats.Drops)
		}
		w.failed = errors.Join(w.failed, err, unix.Close(fd))
	}
	w.fds = nil
	return w.failed
}
