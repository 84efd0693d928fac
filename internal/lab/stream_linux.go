package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// stream is one TCP connection between the first containers of the first two hosts
// that carries pseudo-random bytes in both directions at once, at a steady pace, for
// as long as its owner wants. What arrives is hashed, and its time noted: a stream
// tells both whether it was delivered whole and how long it stood still.
type stream struct {
	client, server *net.TCPConn
	courses        [2]*course // client to server, and back
	marker         []byte     // each chunk begins with it
	every          time.Duration
	stop           chan struct{}
	wg             sync.WaitGroup
	// slack is what TCP may add to the time in which its path is gone: its
	// retransmission timer backs off, so that the first segment that finds a path
	// comes up to this much later than the path. The timer is capped where the kernel
	// can do that (Linux 6.15).
	slack time.Duration
}

// course is one direction of a stream.
type course struct {
	name     string
	from, to *net.TCPConn

	mu       sync.Mutex // guards what follows
	arrivals []arrival  // in order
	sent     uint64
	sums     [2][]byte // of what was sent and of what arrived
	err      error     // of either end
}

// arrival is a read that returned something: so many bytes had arrived until then.
type arrival struct {
	at    time.Time
	bytes uint64
}

// The pace of a stream: a chunk each interval, 3.3 Mbit/s in each direction.
const (
	streamChunk    = 4 << 10
	streamInterval = 10 * time.Millisecond
	// streamPatience is how long unacknowledged bytes do not end the connection.
	streamPatience = 2 * time.Minute
	rtoCap         = time.Second
)

// startStream connects to a port of the second host's container, over IPv4 or IPv6.
func (l *Lab) startStream(k Kind, port uint16) (*stream, error) {
	return startStreamBetween(l.hosts[0].Containers[0], l.hosts[1].Containers[0], k, port)
}

// startStreamBetween connects container a to a port of b.
func startStreamBetween(a, b Container, k Kind, port uint16) (*stream, error) {
	return startMarked(a, b, k, port, nil, streamInterval)
}

// startMarked has each chunk begin with a marker, and gives the time between two.
func startMarked(a, b Container, k Kind, port uint16, marker []byte, every time.Duration) (*stream, error) {
	var ln *net.TCPListener
	err := within(b.Namespace, func() (err error) {
		ln, err = net.ListenTCP(k.network(), net.TCPAddrFromAddrPort(netip.AddrPortFrom(b.addr(k), port)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("lab: stream: %w", err)
	}
	defer ln.Close()
	s := &stream{stop: make(chan struct{}), marker: marker, every: every}
	err = within(a.Namespace, func() error {
		c, err := net.DialTimeout(k.network(), ln.Addr().String(), 10*time.Second)
		if err == nil {
			s.client = c.(*net.TCPConn)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("lab: stream: %w", err)
	}
	if s.server, err = acceptFrom(ln, s.client.LocalAddr()); err == nil {
		err = s.tune()
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("lab: stream: %w", err)
	}
	s.start()
	return s, nil
}

// start sends and receives until finish or abort.
func (s *stream) start() {
	s.courses = [2]*course{{name: "there", from: s.client, to: s.server}, {name: "back", from: s.server, to: s.client}}
	for _, c := range s.courses {
		s.wg.Go(func() { c.note(c.send(s)) })
		s.wg.Go(func() { c.note(c.receive()) })
	}
}

// acceptFrom accepts the connection whose other end is at from.
func acceptFrom(ln *net.TCPListener, from net.Addr) (*net.TCPConn, error) {
	if err := ln.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return nil, err
	}
	for {
		c, err := ln.AcceptTCP()
		if err != nil {
			return nil, err
		}
		if c.RemoteAddr().String() == from.String() {
			return c, nil
		}
		_ = c.Close()
	}
}

// tune sets both ends' patience, and caps the back-off of their timers.
func (s *stream) tune() error {
	s.slack = rtoCap + 200*time.Millisecond
	for _, c := range []*net.TCPConn{s.client, s.server} {
		capped, err := tune(c, streamPatience)
		if err != nil {
			return err
		}
		if !capped {
			// Sent again after 0.2, 0.6, 1.4, 3 and 6.2 s: who misses the one at 3 s
			// waits for the next.
			s.slack = 3400 * time.Millisecond
		}
	}
	return nil
}

// tune sets how long unacknowledged bytes do not end a connection, and caps the back-off of
// its timer, if the kernel can.
func tune(c *net.TCPConn, patience time.Duration) (capped bool, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false, err
	}
	var wait, limit error
	if err := raw.Control(func(fd uintptr) {
		wait = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(patience.Milliseconds()))
		limit = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_RTO_MAX_MS, int(rtoCap.Milliseconds()))
	}); err != nil {
		return false, err
	}
	if wait != nil {
		return false, os.NewSyscallError("TCP_USER_TIMEOUT", wait)
	}
	return limit == nil, nil
}

// send writes chunks until stop, and then says that there are no more.
func (c *course) send(s *stream) error {
	var seed [32]byte
	_, _ = rand.Read(seed[:]) // never fails (crypto/rand)
	random, sum, b := mathrand.NewChaCha8(seed), sha256.New(), make([]byte, streamChunk)
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.stop:
			c.mu.Lock()
			c.sums[0] = sum.Sum(nil)
			c.mu.Unlock()
			return c.from.CloseWrite()
		}
		_, _ = random.Read(b) // never fails (math/rand/v2)
		copy(b, s.marker)
		n, err := c.from.Write(b)
		sum.Write(b[:n])
		c.mu.Lock()
		c.sent += uint64(n)
		c.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// receive reads until the sender has no more.
func (c *course) receive() error {
	sum, b, total := sha256.New(), make([]byte, 64<<10), uint64(0)
	for {
		n, err := c.to.Read(b)
		if n > 0 {
			sum.Write(b[:n])
			total += uint64(n)
			c.mu.Lock()
			c.arrivals = append(c.arrivals, arrival{time.Now(), total})
			c.mu.Unlock()
		}
		if errors.Is(err, io.EOF) {
			c.mu.Lock()
			c.sums[1] = sum.Sum(nil)
			c.mu.Unlock()
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// note keeps the first error.
func (c *course) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && err != nil {
		c.err = fmt.Errorf("%s: %w", c.name, err)
	}
}

// from is the client's address.
func (s *stream) from() netip.AddrPort { return s.client.LocalAddr().(*net.TCPAddr).AddrPort() }

// broken is why the connection ended; nil = it lives.
func (s *stream) broken() error {
	var errs []error
	for _, c := range s.courses {
		c.mu.Lock()
		errs = append(errs, c.err)
		c.mu.Unlock()
	}
	return errors.Join(errs...)
}

// arrived is how many bytes have arrived since then, in the direction that has fewer.
func (s *stream) arrived(since time.Time) uint64 {
	least := ^uint64(0)
	for _, c := range s.courses {
		c.mu.Lock()
		n := uint64(0)
		for i := len(c.arrivals) - 1; i >= 0; i-- {
			if c.arrivals[i].at.Before(since) {
				n = c.arrivals[i].bytes
				break
			}
		}
		if k := len(c.arrivals); k > 0 {
			n = c.arrivals[k-1].bytes - n
		}
		c.mu.Unlock()
		least = min(least, n)
	}
	return least
}

// gap is the longest time after since in which nothing arrived, in either direction.
func (s *stream) gap(since time.Time) time.Duration {
	var longest time.Duration
	for _, c := range s.courses {
		last := since
		c.mu.Lock()
		for _, a := range c.arrivals {
			if a.at.After(since) {
				longest = max(longest, a.at.Sub(last))
				last = a.at
			}
		}
		c.mu.Unlock()
		longest = max(longest, time.Since(last))
	}
	return longest
}

// finish ends the stream in order and compares the checksums of what was sent with
// those of what arrived. It returns how many bytes went there and back.
func (s *stream) finish(limit time.Duration) (there, back uint64, err error) {
	deadline := time.Now().Add(limit)
	err = errors.Join(s.client.SetDeadline(deadline), s.server.SetDeadline(deadline))
	close(s.stop)
	s.wg.Wait()
	s.close()
	err = errors.Join(err, s.broken())
	for _, c := range s.courses {
		if err == nil {
			err = c.compare()
		}
	}
	return s.courses[0].sent, s.courses[1].sent, err
}

// compare is called when both ends are done.
func (c *course) compare() error {
	var got uint64
	if n := len(c.arrivals); n > 0 {
		got = c.arrivals[n-1].bytes
	}
	switch {
	case got == 0 || got != c.sent:
		return fmt.Errorf("%s: %d bytes were sent and %d arrived", c.name, c.sent, got)
	case !bytes.Equal(c.sums[0], c.sums[1]):
		return fmt.Errorf("%s: the checksum of what was sent is %x, and of what arrived %x", c.name, c.sums[0], c.sums[1])
	}
	return nil
}

// abort ends the stream in the middle, unless it was finished.
func (s *stream) abort() {
	select {
	case <-s.stop:
		return
	default:
	}
	close(s.stop)
	s.close()
	s.wg.Wait()
}

func (s *stream) close() {
	for _, c := range []*net.TCPConn{s.client, s.server} {
		if c != nil {
			_ = c.Close()
		}
	}
}

// within runs f on a thread in a namespace. The sockets that f opens stay there.
func within(ns string, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- enter(ns, f) }()
	return <-done
}

// enter locks the calling goroutine to its thread for good: the thread ends with it.
func enter(ns string, f func() error) error {
	runtime.LockOSThread()
	there, err := os.Open(filepath.Join("/run/netns", ns))
	if err != nil {
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("setns", err)
	}
	return f()
}

// pause lets time pass while something is broken.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
