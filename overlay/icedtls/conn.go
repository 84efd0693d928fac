package icedtls

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// buffer is a datagram on its way from the socket to whoever reads it, or a run of data
// records of one session.
type buffer struct {
	data []byte // as long as any datagram, or run of them, may be
	n    int
	size int // of each record of a run, the last may be shorter; 0 = it is none
	at   int // what of a run was read
	// urgent: it is to get through a full queue.
	urgent bool
	from   netip.AddrPort
	home   *bufferPool
	next   *buffer // behind it in a queue
}

func (b *buffer) bytes() []byte { return b.data[:b.n] }

// bufferPool keeps buffers of one size.
type bufferPool struct{ pool sync.Pool }

func newBufferPool(size int) *bufferPool {
	p := &bufferPool{}
	p.pool.New = func() any { return &buffer{data: make([]byte, size), home: p} }
	return p
}

func (p *bufferPool) get() *buffer { return p.pool.Get().(*buffer) }

// put takes b back, to the pool that it came from.
func (p *bufferPool) put(b *buffer) {
	b.size, b.at, b.urgent = 0, 0, false
	b.home.pool.Put(b)
}

// packetConn is the part of the socket that one ICE candidate or one DTLS
// association sees. It implements net.PacketConn, and pion's AddrPort methods,
// which spare allocations. The socket's reader puts datagrams in and never blocks.
type packetConn struct {
	local *net.UDPAddr
	pool  *bufferPool
	write func(b []byte, to netip.AddrPort) (int, error)
	queue queue
	drops *drops

	closed atomic.Bool // changed under mu

	// A reader waits on news: that takes less of the stack of a goroutine that each Link has than
	// channels do.
	mu    sync.Mutex
	news  sync.Cond   // a datagram, the deadline, or the end
	timer *time.Timer // what sets late; nil = nothing
	late  bool        // the read deadline has passed
	set   int         // how often the deadline was set
}

func newPacketConn(local netip.AddrPort, depth int, pool *bufferPool, d *drops,
	write func([]byte, netip.AddrPort) (int, error),
) *packetConn {
	c := &packetConn{
		local: net.UDPAddrFromAddrPort(local),
		pool:  pool,
		write: write,
		queue: queue{depth: depth},
		drops: d,
	}
	c.news.L = &c.mu
	return c
}

// put takes b over, or drops it when nobody reads fast enough.
func (c *packetConn) put(b *buffer) {
	if !c.queue.put(b) {
		c.drops.add(causeFull)
		c.pool.put(b)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.news.Signal()
}

// ReadFromAddrPort waits for a datagram.
func (c *packetConn) ReadFromAddrPort(p []byte) (int, netip.AddrPort, error) {
	b, err := c.next()
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	from := b.from
	return c.take(b, p), from, nil
}

// ReadFrom is ReadFromAddrPort. The address is always the same one, since DTLS has
// no use for it and ICE does not call this.
func (c *packetConn) ReadFrom(p []byte) (int, net.Addr, error) {
	b, err := c.next()
	if err != nil {
		return 0, c.local, err
	}
	return c.take(b, p), c.local, nil
}

// next waits for a datagram.
func (c *packetConn) next() (b *buffer, err error) {
	c.mu.Lock()
	for b == nil && err == nil {
		switch {
		case c.closed.Load():
			err = io.EOF
		case c.late:
			err = os.ErrDeadlineExceeded
		default:
			if b = c.queue.get(); b == nil {
				c.news.Wait()
			}
		}
	}
	c.mu.Unlock()
	return b, err
}

func (c *packetConn) take(b *buffer, p []byte) int {
	n := copy(p, b.bytes())
	c.pool.put(b)
	return n
}

// WriteToAddrPort sends a datagram.
func (c *packetConn) WriteToAddrPort(p []byte, to netip.AddrPort) (int, error) {
	if c.closed.Load() {
		return 0, io.ErrClosedPipe
	}
	return c.write(p, to)
}

// WriteTo sends a datagram.
func (c *packetConn) WriteTo(p []byte, to net.Addr) (int, error) {
	var dst netip.AddrPort
	if a, ok := to.(*net.UDPAddr); ok {
		dst = a.AddrPort()
	}
	return c.WriteToAddrPort(p, dst)
}

// Close makes reads and writes fail. The socket stays open.
func (c *packetConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed.Store(true)
	c.news.Broadcast()
	return nil
}

// LocalAddr is the candidate's address.
func (c *packetConn) LocalAddr() net.Addr { return c.local }

// SetDeadline sets the read deadline; writes do not block.
func (c *packetConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline does nothing; writes do not block.
func (c *packetConn) SetWriteDeadline(time.Time) error { return nil }

// SetReadDeadline ends reads at t; the zero time lets them wait for ever.
func (c *packetConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	c.late = false
	c.set++
	if t.IsZero() {
		return nil
	}
	wait := time.Until(t)
	if wait <= 0 {
		c.late = true
		c.news.Broadcast()
		return nil
	}
	set := c.set
	c.timer = time.AfterFunc(wait, func() { c.expire(set) })
	return nil
}

// expire is called by the timer of the deadline that was set as that, which may be another by now.
func (c *packetConn) expire(set int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.set == set {
		c.late = true
		c.news.Broadcast()
	}
}
