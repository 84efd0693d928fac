// Package udpio moves batches of datagrams through one UDP socket. On Linux a run of datagrams of
// one size to one address is one message that the kernel cuts (UDP_SEGMENT, udp(7)), and several messages are
// one call (sendmmsg(2)); runs arrive as one message (UDP_GRO), or, where the kernel does not join them,
// several messages by one call (recvmmsg(2)), which are joined here. Elsewhere each datagram is a call
// of its own. Nothing here allocates once it runs.
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
	// Datagrams sent and received, by so many system calls.
	Sent, Sends, Received, Receives uint64
	// Lost datagrams: the kernel did not take them.
	Lost uint64
	// Segmenting: the kernel cuts runs; Coalescing: it joins them.
	Segmenting, Coalescing bool
}

type counters struct{ sent, sends, received, receives, brought, lost atomic.Uint64 }

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

// StepDown makes c as it is on a kernel that neither cuts runs nor joins them, for tests. It must
// not be received from yet.
func (c *Conn) StepDown() {
	c.segments.Store(false)
	c.keepApart()
}

// Brought counts calls of Receive and ReceiveNow that brought something.
func (c *Conn) Brought() uint64 { return c.stats.brought.Load() }

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
	var runs [MaxRun]int
	for len(datagrams) > 0 {
		some := datagrams[:min(len(datagrams), MaxRun)]
		if _, err := c.sendRuns(some, c.cut(some, &runs), to); err != nil {
			return err
		}
		datagrams = datagrams[len(some):]
	}
	return nil
}

// cut tells how many datagrams each run has that the kernel is to cut.
func (c *Conn) cut(datagrams [][]byte, runs *[MaxRun]int) []int {
	if len(datagrams) == 1 || !c.segments.Load() {
		return alone(len(datagrams), runs)
	}
	var lengths [MaxRun]int
	for i, d := range datagrams {
		lengths[i] = len(d)
	}
	n := 0
	for rest := lengths[:len(datagrams)]; len(rest) > 0; n++ {
		runs[n] = Run(rest)
		rest = rest[runs[n]:]
	}
	return runs[:n]
}

// alone has each of n datagrams go by itself.
func alone(n int, runs *[MaxRun]int) []int {
	for i := range n {
		runs[i] = 1
	}
	return runs[:n]
}

// sendRuns sends datagrams, so many a run, and tells how many the kernel took.
func (c *Conn) sendRuns(datagrams [][]byte, runs []int, to netip.AddrPort) (sent int, err error) {
	for len(runs) > 0 {
		taken, err := c.send(datagrams, runs, to)
		n := 0
		for _, run := range runs[:taken] {
			n += run
		}
		if n > 0 {
			c.stats.sent.Add(uint64(n))
			c.stats.sends.Add(1)
		}
		if n > taken {
			c.refused.Store(0)
		}
		sent, datagrams, runs = sent+n, datagrams[n:], runs[taken:]
		if err == nil {
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return sent, err
		}
		first := datagrams[:runs[0]]
		datagrams, runs = datagrams[len(first):], runs[1:]
		if len(first) == 1 || !c.refuses(err) {
			c.stats.lost.Add(uint64(len(first)))
			continue
		}
		n, err = c.sendEach(first, to)
		if sent += n; err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// sendEach sends a run that the kernel did not cut. If it takes the datagrams one by one, it was
// not their length that it did not like.
func (c *Conn) sendEach(run [][]byte, to netip.AddrPort) (sent int, err error) {
	var runs [MaxRun]int
	sent, err = c.sendRuns(run, alone(len(run), &runs), to)
	if sent > 0 && c.refused.Add(1) >= maxRefused {
		c.segments.Store(false)
	}
	return sent, err
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

// Waited tells whether nothing was there when the last Receive or ReceiveNow began. Elsewhere than on Linux it
// always says so.
func (c *Conn) Waited() bool { return c.waited() }

var errNothing = errors.New("udpio: nothing to receive")

func (c *Conn) received(n, size int, from netip.AddrPort, err error) (int, int, netip.AddrPort, error) {
	if err != nil {
		return 0, 0, netip.AddrPort{}, err
	}
	c.stats.brought.Add(1)
	if size <= 0 || size > n {
		size = n
	}
	c.stats.received.Add(uint64(max(1, (n+size-1)/max(size, 1))))
	return n, size, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), nil
}
