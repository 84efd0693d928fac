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
	from netip.AddrPort
	home *bufferPool
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
	b.size, b.at = 0, 0
	b.home.pool.Put(b)
}

// packetConn is the part of the socket that one ICE candidate or one DTLS
// association sees. It implements net.PacketConn, and pion's AddrPort methods,
// which spare allocations. The socket's reader puts datagrams in and never blocks.
type packetConn struct {
	local   *net.UDPAddr
	pool    *bufferPool
	write   func(b []byte, to netip.AddrPort) (int, error)
	queue   chan *buffer
	dropped *atomic.Uint64

	done      chan struct{}
	closeOnce sync.Once

	mu      sync.Mutex
	expired chan struct{} // closed when the read deadline has passed
	timer   *time.Timer
}

func newPacketConn(local netip.AddrPort, depth int, pool *bufferPool, dropped *atomic.Uint64,
	write func([]byte, netip.AddrPort) (int, error),
) *packetConn {
	return &packetConn{
		local:   net.UDPAddrFromAddrPort(local),
		pool:    pool,
		write:   write,
		queue:   make(chan *buffer, depth),
		dropped: dropped,
		done:    make(chan struct{}),
		expired: make(chan struct{}),
	}
}

// put takes b over, or drops it when nobody reads fast enough.
func (c *packetConn) put(b *buffer) {
	select {
	case c.queue <- b:
	default:
		c.dropped.Add(1)
		c.pool.put(b)
	}
}

func (c *packetConn) deadline() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.expired
}

// ReadFromAddrPort waits for a datagram.
func (c *packetConn) ReadFromAddrPort(p []byte) (int, netip.AddrPort, error) {
	expired := c.deadline()
	select {
	case <-c.done:
		return 0, netip.AddrPort{}, io.EOF
	case <-expired:
		return 0, netip.AddrPort{}, os.ErrDeadlineExceeded
	default:
	}
	select {
	case b := <-c.queue:
		n, from := copy(p, b.bytes()), b.from
		c.pool.put(b)
		return n, from, nil
	case <-c.done:
		return 0, netip.AddrPort{}, io.EOF
	case <-expired:
		return 0, netip.AddrPort{}, os.ErrDeadlineExceeded
	}
}

// ReadFrom is ReadFromAddrPort. The address is always the same one, since DTLS has
// no use for it and ICE does not call this.
func (c *packetConn) ReadFrom(p []byte) (int, net.Addr, error) {
	n, _, err := c.ReadFromAddrPort(p)
	return n, c.local, err
}

// WriteToAddrPort sends a datagram.
func (c *packetConn) WriteToAddrPort(p []byte, to netip.AddrPort) (int, error) {
	select {
	case <-c.done:
		return 0, io.ErrClosedPipe
	default:
		return c.write(p, to)
	}
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
	c.closeOnce.Do(func() { close(c.done) })
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
	select {
	case <-c.expired:
		c.expired = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return nil
	}
	wait := time.Until(t)
	if wait <= 0 {
		close(c.expired)
		return nil
	}
	expired := c.expired
	c.timer = time.AfterFunc(wait, func() { c.expire(expired) })
	return nil
}

func (c *packetConn) expire(expired chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.expired != expired {
		return
	}
	select {
	case <-expired:
	default:
		close(expired)
	}
}
