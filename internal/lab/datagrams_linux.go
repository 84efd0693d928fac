package lab

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// datagrams is one UDP conversation between the first containers of the first two hosts,
// as QUIC has it: datagrams of one size both ways in one five-tuple, at a steady rate,
// for as long as its owner wants. Each has a number and a content of its own, and what was
// sent is compared with what arrived as multisets.
type datagrams struct {
	client, server *net.UDPConn
	courses        [2]*shots    // client to server, and back
	rate           atomic.Int64 // datagrams a second, each way
	stop           chan struct{}
	senders, wg    sync.WaitGroup
}

// shots is one direction of a conversation.
type shots struct {
	name     string
	from, to *net.UDPConn
	size     int // of each
	seed     maphash.Seed
	payload  []byte // of which each datagram has a part

	mu     sync.Mutex // guards what follows
	sums   []uint64   // of each datagram that was sent, by number
	seen   []bool     // by number
	count  tally
	latest time.Time // when something arrived
	err    error     // of either end
}

// tally is what became of datagrams. Twice and Foreign are to be 0: what arrived again,
// and what arrived that was never sent like that.
type tally struct{ Sent, Arrived, Twice, Foreign int }

func (t tally) since(before tally) tally {
	return tally{t.Sent - before.Sent, t.Arrived - before.Arrived, t.Twice - before.Twice, t.Foreign - before.Foreign}
}

// lost is a share of what was sent.
func (t tally) lost() float64 { return 1 - float64(t.Arrived)/float64(max(t.Sent, 1)) }

// whole says why what arrived is not part of what was sent; nil = it is.
func (t tally) whole() error {
	if t.Twice+t.Foreign > 0 {
		return fmt.Errorf("of %d datagrams %d arrived, %d again and %d that nobody sent", t.Sent, t.Arrived, t.Twice, t.Foreign)
	}
	return nil
}

const (
	datagramSize = 1200 // QUIC's least (RFC 9000)
	mostDatagram = 9 << 10
	warmRate     = 500 // a second, before a measurement
	socketBuffer = 8 << 20
)

// startDatagrams opens both ends, the server's at that port, and sends datagrams of that
// size at warmRate. The guests' kernels do not fragment them.
func (l *Lab) startDatagrams(k Kind, port uint16, size int) (*datagrams, error) {
	a, b := l.hosts[0].Containers[0], l.hosts[1].Containers[0]
	k.UDP = true
	at := netip.AddrPortFrom(b.addr(k), port)
	var client, server *net.UDPConn
	err := within(a.Namespace, func() (err error) {
		client, err = net.DialUDP(k.network(), net.UDPAddrFromAddrPort(netip.AddrPortFrom(a.addr(k), 0)), net.UDPAddrFromAddrPort(at))
		return err
	})
	if err == nil {
		err = within(b.Namespace, func() (err error) {
			server, err = net.DialUDP(k.network(), net.UDPAddrFromAddrPort(at), client.LocalAddr().(*net.UDPAddr))
			return err
		})
	}
	if err != nil {
		if client != nil {
			_ = client.Close()
		}
		return nil, fmt.Errorf("lab: datagrams: %w", err)
	}
	return converse(client, server, size), nil
}

// converse starts a conversation between two connected sockets, which it owns.
func converse(client, server *net.UDPConn, size int) *datagrams {
	d := &datagrams{client: client, server: server, stop: make(chan struct{})}
	d.rate.Store(warmRate)
	d.courses = [2]*shots{{name: "there", from: client, to: server}, {name: "back", from: server, to: client}}
	for _, c := range d.courses {
		c.size, c.seed, c.payload = min(size, mostDatagram), maphash.MakeSeed(), make([]byte, 64<<10+mostDatagram)
		_, _ = rand.Read(c.payload) // never fails (crypto/rand)
		c.note(tuneUDP(c.to))
		d.senders.Go(func() { c.note(c.send(&d.rate, d.stop)) })
		d.wg.Go(func() { c.note(c.receive()) })
	}
	return d
}

// tuneUDP makes room for bursts that a busy machine does not read in time, and forbids
// fragments, whatever the kernel learns of the path.
func tuneUDP(c *net.UDPConn) error {
	return control(c, func(fd int) error {
		if c.LocalAddr().(*net.UDPAddr).IP.To4() == nil {
			return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer),
				unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE))
		}
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer),
			unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE))
	})
}

// control runs f on a socket's descriptor.
func control(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = f(int(fd)) })
	return errors.Join(err, inner)
}

// send sends what is due each millisecond.
func (c *shots) send(rate *atomic.Int64, stop <-chan struct{}) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	last, due := time.Now(), 0.0
	for b := make([]byte, c.size); ; {
		var now time.Time
		select {
		case now = <-tick.C:
		case <-stop:
			return nil
		}
		perSecond := float64(rate.Load())
		due = min(due+now.Sub(last).Seconds()*perSecond, max(1, perSecond/50)) // no burst after a pause
		last = now
		for ; due >= 1; due-- {
			c.fill(b)
			if _, err := c.from.Write(b); err != nil && !passing(err) {
				return err
			}
		}
	}
}

// passing: an ICMP error that came for an earlier datagram, or a full queue.
func passing(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.EHOSTUNREACH)
}

// fill makes the next datagram.
func (c *shots) fill(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	nr := len(c.sums)
	binary.BigEndian.PutUint64(b, uint64(nr))
	copy(b[8:], c.payload[nr&0xffff:])
	c.sums = append(c.sums, maphash.Bytes(c.seed, b))
	c.seen = append(c.seen, false)
	c.count.Sent++
}

func (c *shots) receive() error {
	b := make([]byte, c.size+1)
	for {
		n, err := c.to.Read(b)
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil && !passing(err):
			return err
		case err == nil:
			c.arrived(b[:n])
		}
	}
}

func (c *shots) arrived(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.latest = time.Now()
	nr := uint64(len(c.sums))
	if len(b) == c.size {
		nr = binary.BigEndian.Uint64(b)
	}
	switch {
	case nr >= uint64(len(c.sums)) || maphash.Bytes(c.seed, b) != c.sums[nr]:
		c.count.Foreign++
	case c.seen[nr]:
		c.count.Twice++
	default:
		c.seen[nr] = true
		c.count.Arrived++
	}
}

func (c *shots) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && err != nil {
		c.err = fmt.Errorf("%s: %w", c.name, err)
	}
}

// from is the client's address.
func (d *datagrams) from() netip.AddrPort { return d.client.LocalAddr().(*net.UDPAddr).AddrPort() }

// broken is why an end gave up; nil = it did not.
func (d *datagrams) broken() error {
	var errs []error
	for _, c := range d.courses {
		c.mu.Lock()
		errs = append(errs, c.err)
		c.mu.Unlock()
	}
	return errors.Join(errs...)
}

// tallies counts until now, by direction.
func (d *datagrams) tallies() (t [2]tally) {
	for i, c := range d.courses {
		c.mu.Lock()
		t[i] = c.count
		c.mu.Unlock()
	}
	return t
}

// quiet waits until all has arrived, or nothing has for a while.
func (d *datagrams) quiet(ctx context.Context) error {
	const while = 300 * time.Millisecond
	start := time.Now()
	return poll(ctx, 10*time.Millisecond, func() (bool, error) {
		over := true
		for _, c := range d.courses {
			c.mu.Lock()
			late := c.latest
			if late.Before(start) {
				late = start
			}
			over = over && (c.count.Arrived == c.count.Sent || time.Since(late) > while)
			c.mu.Unlock()
		}
		return over, nil
	})
}

// measure sends so many a second each way for a time, and returns what became of them.
func (d *datagrams) measure(ctx context.Context, rate int, during time.Duration) (t [2]tally, err error) {
	d.rate.Store(0)
	if err := d.quiet(ctx); err != nil {
		return t, err
	}
	before := d.tallies()
	d.rate.Store(int64(rate))
	err = pause(ctx, during)
	d.rate.Store(0)
	if err := errors.Join(err, d.quiet(ctx), d.broken()); err != nil {
		return t, err
	}
	for i, after := range d.tallies() {
		t[i] = after.since(before[i])
		err = errors.Join(err, t[i].whole())
	}
	return t, err
}

// finish ends the conversation and compares the multisets. It returns what became of the
// datagrams there and back: what is lost is the caller's to judge.
func (d *datagrams) finish(ctx context.Context) (t [2]tally, err error) {
	close(d.stop)
	d.senders.Wait()
	err = errors.Join(d.quiet(ctx), d.close())
	t = d.tallies()
	for i := range t {
		err = errors.Join(err, t[i].whole())
	}
	return t, errors.Join(err, d.broken())
}

// abort ends it, unless it was finished.
func (d *datagrams) abort() {
	select {
	case <-d.stop:
		return
	default:
	}
	close(d.stop)
	_ = d.close()
	d.senders.Wait()
}

func (d *datagrams) close() error {
	err := errors.Join(d.client.Close(), d.server.Close())
	d.wg.Wait()
	return err
}
