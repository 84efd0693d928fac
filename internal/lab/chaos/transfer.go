package chaos

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"
)

// Wire is what carries a transfer.
type Wire struct {
	// Listener is the server's. The transfer closes it.
	Listener net.Listener
	// Dial connects to it. It is called again when a connection ended.
	Dial func(context.Context) (net.Conn, error)
}

// The pace of a transfer: a chunk each interval, 1.6 Mbit/s in each direction.
const (
	chunkSize = 4 << 10
	interval  = 20 * time.Millisecond
	redial    = 500 * time.Millisecond
)

// Marker is in every chunk of every transfer, in clear.
type Marker [16]byte

// Transfer is pseudo-random bytes in both directions at once. It outlives its connections:
// ends tell each other how much they have, and go on from there.
type Transfer struct {
	Name string

	courses [2]*course // the client's bytes to the server, and back
	cancel  context.CancelFunc
	ended   sync.WaitGroup

	mu     sync.Mutex // guards what follows
	broken []brokenConn
	wrong  error
}

// brokenConn is a connection that ended.
type brokenConn struct {
	at      time.Time
	silence time.Duration
	err     error
}

// course is one direction.
type course struct {
	marker Marker
	seed   [32]byte

	mu       sync.Mutex // guards what follows
	stopped  bool
	sent     uint64 // the end of what was ever sent
	sum      hash.Hash
	arrivals []arrival // in order
}

// arrival is a read: so many bytes had arrived until then.
type arrival struct {
	at    time.Time
	bytes uint64
}

// Start begins a transfer. It ends by Finish or Abort.
func Start(name string, w Wire, marker Marker, seed uint64) *Transfer {
	ctx, cancel := context.WithCancel(context.Background())
	t := &Transfer{Name: name, cancel: cancel}
	for i := range t.courses {
		c := &course{marker: marker, sum: sha256.New()}
		binary.BigEndian.PutUint64(c.seed[:], seed)
		c.seed[31] = byte(i)
		t.courses[i] = c
	}
	context.AfterFunc(ctx, func() { _ = w.Listener.Close() })
	t.ended.Go(func() { t.serve(ctx, w.Listener) })
	t.ended.Go(func() { t.dial(ctx, w.Dial) })
	return t
}

// serve lives on the newest connection.
func (t *Transfer) serve(ctx context.Context, ln net.Listener) {
	var one sync.WaitGroup
	defer one.Wait()
	for end := context.CancelFunc(func() {}); ; {
		c, err := ln.Accept()
		end() // the client has given the last one up
		if err != nil {
			return
		}
		one.Wait()
		var live context.Context
		live, end = context.WithCancel(ctx)
		one.Go(func() { t.note(live, time.Now(), t.live(live, c, t.courses[1], t.courses[0])) })
	}
}

func (t *Transfer) dial(ctx context.Context, dial func(context.Context) (net.Conn, error)) {
	for ctx.Err() == nil {
		c, err := dial(ctx)
		if err == nil {
			t.note(ctx, time.Now(), t.live(ctx, c, t.courses[0], t.courses[1]))
		}
		sleep(ctx, redial)
	}
}

// note keeps why a connection ended, unless we ended it: once, by the end that knew first.
func (t *Transfer) note(ctx context.Context, begun time.Time, err error) {
	if ctx.Err() != nil || errors.Is(err, io.EOF) {
		return // the other end has the cause
	}
	silence := time.Duration(0)
	for _, c := range t.courses {
		silence = max(silence, c.silence())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.broken); n > 0 && t.broken[n-1].at.After(begun) {
		return
	}
	t.broken = append(t.broken, brokenConn{time.Now(), silence, err})
}

func (t *Transfer) breaks() []brokenConn {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.broken)
}

// live sends and receives on one connection until it ends.
func (t *Transfer) live(ctx context.Context, c net.Conn, out, in *course) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	var both sync.WaitGroup
	told := make(chan struct{}) // what we have, which comes before anything else
	both.Go(func() {
		cancel(t.receive(c, in, func(have uint64) {
			both.Go(func() {
				<-told
				cancel(out.send(ctx, c, have))
			})
		}))
	})
	var have [8]byte
	binary.BigEndian.PutUint64(have[:], in.received())
	if _, err := c.Write(have[:]); err != nil {
		cancel(err)
	}
	close(told)
	<-ctx.Done()
	_ = c.Close()
	both.Wait()
	return context.Cause(ctx)
}

// receive reads what the other end has, and then what it sends.
func (t *Transfer) receive(c net.Conn, in *course, peer func(have uint64)) error {
	var have [8]byte
	if _, err := io.ReadFull(c, have[:]); err != nil {
		return err
	}
	peer(binary.BigEndian.Uint64(have[:]))
	b, want := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := in.received(); ; {
		n, err := c.Read(b)
		if n > 0 {
			in.fill(at, want[:n])
			if !bytes.Equal(b[:n], want[:n]) {
				t.isWrong(fmt.Errorf("%s: what arrived at byte %d is not what was sent", t.Name, at))
			}
			at += uint64(n)
			in.arrived(b[:n])
		}
		if err != nil {
			return err
		}
	}
}

func (t *Transfer) isWrong(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wrong == nil {
		t.wrong = err
	}
}

// Wrong is the first thing that arrived and was not sent; nil = nothing.
func (t *Transfer) Wrong() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.wrong
}

// send goes on from a place until ctx ends.
func (c *course) send(ctx context.Context, to net.Conn, at uint64) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for b := make([]byte, chunkSize); ; {
		n := c.next(at)
		c.fill(at, b[:n])
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return err
			}
		}
		at += uint64(n)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// next is how many bytes to send from a place on: what was lost with a connection, and
// otherwise something new, unless there is to be no more.
func (c *course) next(at uint64) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(chunkSize, c.sent-at)
	if n == 0 && !c.stopped {
		n = chunkSize
		c.sent += n
	}
	return int(n)
}

// fill writes what belongs at a place.
func (c *course) fill(at uint64, b []byte) {
	for len(b) > 0 {
		var chunk [chunkSize]byte
		nr, off := at/chunkSize, at%chunkSize
		seed := c.seed
		binary.BigEndian.PutUint64(seed[8:], nr)
		copy(chunk[:], c.marker[:])
		_, _ = rand.NewChaCha8(seed).Read(chunk[len(c.marker):]) // never fails
		n := copy(b, chunk[off:])
		b, at = b[n:], at+uint64(n)
	}
}

func (c *course) arrived(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sum.Write(b)
	c.arrivals = append(c.arrivals, arrival{time.Now(), c.lastLocked().bytes + uint64(len(b))})
}

// lastLocked is zero when nothing has arrived.
func (c *course) lastLocked() arrival {
	if len(c.arrivals) == 0 {
		return arrival{}
	}
	return c.arrivals[len(c.arrivals)-1]
}

func (c *course) received() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lastLocked().bytes
}

func (c *course) silence() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if last := c.lastLocked(); last.bytes > 0 {
		return time.Since(last.at)
	}
	return 0
}

// after is the index of the first arrival after a moment.
func (c *course) afterLocked(at time.Time) int {
	i, _ := slices.BinarySearchFunc(c.arrivals, at, func(a arrival, at time.Time) int {
		if a.at.After(at) {
			return 1
		}
		return -1
	})
	return i
}

// moved is how many bytes have arrived since then, in the direction that has fewer.
func (t *Transfer) moved(since time.Time) uint64 {
	least := ^uint64(0)
	for _, c := range t.courses {
		c.mu.Lock()
		before := uint64(0)
		if i := c.afterLocked(since); i > 0 {
			before = c.arrivals[i-1].bytes
		}
		least = min(least, c.lastLocked().bytes-before)
		c.mu.Unlock()
	}
	return least
}

// gap is the longest time between from and to in which nothing arrived, in either direction.
func (t *Transfer) gap(from, to time.Time) (longest time.Duration) {
	for _, c := range t.courses {
		c.mu.Lock()
		last := from
		for _, a := range c.arrivals[c.afterLocked(from):] {
			if a.at.After(to) {
				break
			}
			longest, last = max(longest, a.at.Sub(last)), a.at
		}
		c.mu.Unlock()
		longest = max(longest, to.Sub(last))
	}
	return longest
}

// Bytes that have arrived, there and back.
func (t *Transfer) Bytes() (there, back uint64) {
	return t.courses[0].received(), t.courses[1].received()
}

// Finish sends no more, waits until what was sent has arrived, and compares checksums.
func (t *Transfer) Finish(ctx context.Context) error {
	defer t.Abort()
	for _, c := range t.courses {
		c.mu.Lock()
		c.stopped = true
		c.mu.Unlock()
	}
	for i, c := range t.courses {
		if err := c.finish(ctx); err != nil {
			return fmt.Errorf("%w: %s, %s: %w", ErrChaos, t.Name, [...]string{"there", "back"}[i], err)
		}
	}
	return t.Wrong()
}

func (c *course) finish(ctx context.Context) error {
	for {
		c.mu.Lock()
		sent, got, sum := c.sent, c.lastLocked().bytes, c.sum.Sum(nil)
		c.mu.Unlock()
		if got >= sent {
			return c.compare(sent, got, sum)
		}
		if !sleep(ctx, interval) {
			return fmt.Errorf("of %d bytes that were sent %d arrived: %w", sent, got, context.Cause(ctx))
		}
	}
}

// compare sums what was sent.
func (c *course) compare(sent, got uint64, sum []byte) error {
	want, b := sha256.New(), make([]byte, chunkSize)
	for at := uint64(0); at < sent; {
		n := min(chunkSize, sent-at)
		c.fill(at, b[:n])
		want.Write(b[:n])
		at += n
	}
	if got == 0 || got != sent || !bytes.Equal(sum, want.Sum(nil)) {
		return fmt.Errorf("%d bytes were sent and %d arrived, with checksums %x and %x", sent, got, want.Sum(nil), sum)
	}
	return nil
}

// Abort ends it in the middle, unless it has ended.
func (t *Transfer) Abort() {
	t.cancel()
	t.ended.Wait()
}
