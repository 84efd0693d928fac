// Package udpio moves batches of datagrams through one UDP socket: runs of datagrams of one
// size to one address go out as one UDP_SEGMENT send, and arrive as one UDP_GRO receive
// (Linux; udp(7)). Elsewhere, and where the kernel refuses, each datagram is a call of its
// own. Nothing here allocates once it runs.
package udpio

import (
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
)

// Sizes that the kernel sets.
const (
	// MaxRun is how many datagrams one send may have (UDP_MAX_SEGMENTS is 64, 128 since
	// Linux 6.9).
	MaxRun = 64
	// MaxBytes is how long a run may be: an IP packet, without room for its headers.
	MaxBytes = 65535 - 40 - 8
	// BufferSize is what Receive needs.
	BufferSize = 65535
)

// Conn is a UDP socket. Send may be called by several goroutines, Receive by one at a time.
type Conn struct {
	udp *net.UDPConn
	sys sys

	segments atomic.Bool  // the kernel cuts runs
	refused  atomic.Int32 // runs in a row that it did not
	stats    counters
}

// maxRefused runs in a row that the kernel refuses to cut, and none is tried any more. Few
// may be the matter of one path.
const maxRefused = 16

// Stats counts what went through.
type Stats struct {
	// Datagrams sent and received, in so many Sends and Receives of the kernel's.
	Sent, Sends, Received, Receives uint64
	// Lost datagrams: the kernel did not take them.
	Lost uint64
	// Segmenting: runs go out as one; Coalescing: they may arrive as one.
	Segmenting, Coalescing bool
}

type counters struct{ sent, sends, received, receives, lost atomic.Uint64 }

// New takes over the reading and writing of udp; closing stays with the caller. The kernel is
// asked for buffers of so many bytes; less costs speed, not correctness.
func New(udp *net.UDPConn, buffers int) (*Conn, error) {
	Buffers(udp, buffers)
	c := &Conn{udp: udp}
	return c, c.open()
}

// Buffers asks the kernel for buffers of so many bytes. It gives what it may: to those with
// CAP_NET_ADMIN all of it, to others as much as net.core.rmem_max and wmem_max say, which
// usually is three runs of 64 KB.
func Buffers(udp *net.UDPConn, bytes int) {
	_ = udp.SetReadBuffer(bytes)
	_ = udp.SetWriteBuffer(bytes)
	force(udp, bytes)
}

// Stats is a snapshot.
func (c *Conn) Stats() Stats {
	s := &c.stats
	return Stats{
		Sent: s.sent.Load(), Sends: s.sends.Load(), Received: s.received.Load(), Receives: s.receives.Load(), Lost: s.lost.Load(),
		Segmenting: c.segments.Load(), Coalescing: c.coalesces(),
	}
}

// Received counts calls of Receive that brought something.
func (c *Conn) Received() uint64 { return c.stats.receives.Load() }

// Lost counts datagrams that the kernel did not take.
func (c *Conn) Lost() uint64 { return c.stats.lost.Load() }

// Run is how many of the first of sizes can go out as one: they are all as long as the
// first, but that the last may be shorter. An empty one goes alone: the kernel would lose it.
func Run(sizes []int) int {
	n, bytes := 0, 0
	for n < len(sizes) && n < MaxRun {
		if bytes += sizes[n]; n > 0 && (sizes[n] == 0 || sizes[n] > sizes[0] || bytes > MaxBytes) {
			break
		}
		n++
		if sizes[n-1] < sizes[0] {
			break
		}
	}
	return n
}

// Send sends datagrams to one address, in order. What the kernel does not take is lost, as
// on any wire: only a closed socket is an error.
func (c *Conn) Send(datagrams [][]byte, to netip.AddrPort) error {
	var sizes [MaxRun]int
	for len(datagrams) > 0 {
		n := min(len(datagrams), MaxRun)
		for i, d := range datagrams[:n] {
			sizes[i] = len(d)
		}
		n = Run(sizes[:n])
		if err := c.sendRun(datagrams[:n], to); err != nil {
			return err
		}
		datagrams = datagrams[n:]
	}
	return nil
}

// sendRun sends datagrams that could go out as one, or one by one where they cannot.
func (c *Conn) sendRun(run [][]byte, to netip.AddrPort) error {
	if len(run) > 1 && c.segments.Load() {
		err := c.send(run, to)
		if err == nil {
			c.refused.Store(0)
		}
		if err == nil || !c.refuses(err) {
			return c.count(len(run), err)
		}
		return c.sendEach(run, to)
	}
	for i := range run {
		if err := c.count(1, c.send(run[i:i+1], to)); err != nil {
			return err
		}
	}
	return nil
}

// sendEach sends a run that the kernel did not cut. If it takes the datagrams one by one, it was
// not their length that it did not like.
func (c *Conn) sendEach(run [][]byte, to netip.AddrPort) error {
	taken := false
	for i := range run {
		err := c.send(run[i:i+1], to)
		taken = taken || err == nil
		if err := c.count(1, err); err != nil {
			return err
		}
	}
	if taken && c.refused.Add(1) >= maxRefused {
		c.segments.Store(false)
	}
	return nil
}

// count notes what became of n datagrams; a closed socket is an error.
func (c *Conn) count(n int, err error) error {
	switch {
	case err == nil:
		c.stats.sent.Add(uint64(n))
		c.stats.sends.Add(1)
	case errors.Is(err, net.ErrClosed):
		return err
	default:
		c.stats.lost.Add(uint64(n))
	}
	return nil
}

// Receive waits for datagrams from one address: buf[:n] holds them back to back, each size
// bytes long but that the last may be shorter. buf should have BufferSize bytes.
func (c *Conn) Receive(buf []byte) (n, size int, from netip.AddrPort, err error) {
	return c.received(c.receive(buf, true))
}

// ReceiveNow is Receive without waiting: n is 0 when nothing is there. Elsewhere than on Linux
// nothing ever is.
func (c *Conn) ReceiveNow(buf []byte) (n, size int, from netip.AddrPort, err error) {
	n, size, from, err = c.receive(buf, false)
	if err == errNothing {
		return 0, 0, netip.AddrPort{}, nil
	}
	return c.received(n, size, from, err)
}

var errNothing = errors.New("udpio: nothing to receive")

func (c *Conn) received(n, size int, from netip.AddrPort, err error) (int, int, netip.AddrPort, error) {
	if err != nil {
		return 0, 0, netip.AddrPort{}, err
	}
	c.stats.receives.Add(1)
	if size <= 0 || size > n {
		size = n
	}
	c.stats.received.Add(uint64(max(1, (n+size-1)/max(size, 1))))
	return n, size, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), nil
}
