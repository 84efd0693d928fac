package ofctl

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// Config configures a connection. The zero value is good.
type Config struct {
	// HandshakeTimeout bounds Dial from the established stream to the end of
	// probing, beside Dial's ctx; 0 = 5 s.
	HandshakeTimeout time.Duration
	// KeepAlive is how long the switch may be silent before it is asked for an
	// echo; silent for three times as long, the connection is lost. 0 = 5 s.
	KeepAlive time.Duration
	// WriteTimeout bounds one write; a switch that takes no bytes for so long has
	// lost the connection. 0 = 5 s.
	WriteTimeout time.Duration
	// PacketIns is how many packet-ins wait for a watcher that is slow; further
	// ones are dropped and counted. 0 = 1024.
	PacketIns int
	// TLS is for addresses with "ssl:"; its owner must not change it any more. It should
	// have the certificate that the other side wants to see.
	TLS *tls.Config
	// Logger gets what nobody else hears: messages that could not be read. nil =
	// silent.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	for _, d := range []*time.Duration{&c.HandshakeTimeout, &c.KeepAlive, &c.WriteTimeout} {
		if *d <= 0 {
			*d = 5 * time.Second
		}
	}
	if c.PacketIns <= 0 {
		c.PacketIns = 1024
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Conn is a native OpenFlow 1.3 connection to a switch, that this side or the switch
// made. It implements Switch.
type Conn struct {
	cfg      Config
	nc       net.Conn
	features Features
	xid      atomic.Uint32
	bundle   atomic.Uint32
	heard    atomic.Uint64 // messages read
	dropped  atomic.Uint64 // packet-ins
	scratch  sync.Pool     // *[]byte

	// writing is the right to write, a lock that a waiter can give up on.
	writing chan struct{}
	// lost is closed, after cause is set, when the connection is over.
	lost   chan struct{}
	cause  error
	closed sync.WaitGroup
	echoes chan echo // requests of the switch, for keepAlive to answer

	mu       sync.Mutex
	over     bool
	calls    map[uint32]*call // by the xid of the message that ends each
	watchers map[*watcher]struct{}
}

var _ Switch = (*Conn)(nil)

// NewConn is Dial on a stream that is there already, such as a TLS connection. It
// takes over nc and closes it, on an error too.
func NewConn(ctx context.Context, nc net.Conn, cfg Config) (*Conn, error) {
	c := &Conn{
		cfg: cfg.withDefaults(), nc: nc,
		writing:  make(chan struct{}, 1),
		lost:     make(chan struct{}),
		echoes:   make(chan echo, 1),
		calls:    make(map[uint32]*call),
		watchers: make(map[*watcher]struct{}),
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.HandshakeTimeout)
	defer cancel()
	// Before the reader runs only closing the stream ends a wait for its peer.
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	br := bufio.NewReaderSize(nc, 64<<10)
	err := c.hello(br)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		return nil, errors.Join(err, ctx.Err())
	}
	c.closed.Add(2)
	go c.readLoop(br)
	go c.keepAlive()
	if err := c.introduce(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// hello agrees on OpenFlow 1.3 (section 6.3.1).
func (c *Conn) hello(br *bufio.Reader) error {
	b, err := Encode(nil, c.xid.Add(1), Hello{Version: ofp.Version, Bitmap: 1 << ofp.Version})
	if err != nil {
		return err
	}
	if _, err := c.nc.Write(b); err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	if b, err = ofp.Read(br); err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	_, m, err := Decode(b)
	if err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	switch m := m.(type) {
	case *SwitchError:
		return fmt.Errorf("hello: %w", m)
	case Hello:
		if !m.Speaks(ofp.Version) {
			return fmt.Errorf("hello: %w: it does not speak OpenFlow 1.3 (version %d, bitmap 0x%x)",
				ErrNotSupported, m.Version, m.Bitmap)
		}
		return nil
	}
	return fmt.Errorf("hello: %w: first message is a %T", ofp.ErrFrame, m)
}

// introduce asks for the switch's features, for asynchronous messages, and probes.
func (c *Conn) introduce(ctx context.Context) error {
	f, err := Ask(ctx, c, FeaturesRequest{})
	if err != nil {
		return fmt.Errorf("features: %w", err)
	}
	c.features = Features{DatapathID: f.DatapathID, Tables: f.Tables}
	var b []byte
	for _, m := range []Message{
		// Open vSwitch sends a passive connection's packet-ins only once this is set.
		SetConfig{MissSendLen: 0xffff},
		SetAsync{Master: AllEvents()},
	} {
		if b, err = Encode(b, c.xid.Add(1), m); err != nil {
			return err
		}
	}
	if _, err := c.write(ctx, b); err != nil {
		return fmt.Errorf("set-config: %w", err)
	}
	if c.features.Capabilities, err = c.probe(ctx); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	meters, err := c.probeMeters(ctx)
	if err != nil {
		return fmt.Errorf("probe: meters: %w", err)
	}
	c.features.Capabilities |= meters
	return nil
}

// Features implements Switch.
func (c *Conn) Features() Features { return c.features }

// DroppedPacketIns is how many packet-ins were dropped because a watcher was slow.
func (c *Conn) DroppedPacketIns() uint64 { return c.dropped.Load() }

// Close implements Switch. It returns when no goroutine of the connection is left;
// a Watch ends by itself, and may call Close.
func (c *Conn) Close() error {
	c.lose(nil)
	c.closed.Wait()
	return nil
}

// lose ends the connection for cause (nil = Close) and with it all calls.
func (c *Conn) lose(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	c.over = true
	c.cause = ErrClosed
	if cause != nil {
		c.cause = fmt.Errorf("%w: %w", ErrClosed, cause)
	}
	close(c.lost)
	c.nc.Close()
}

// echo is an echo request that waits for its answer.
type echo struct {
	xid  uint32
	data []byte
}

// keepAlive answers the switch's echo requests, asks a silent switch for an echo,
// and gives up on one that stays silent.
func (c *Conn) keepAlive() {
	defer c.closed.Done()
	tick := time.NewTicker(c.cfg.KeepAlive)
	defer tick.Stop()
	var heard, silent uint64
	for {
		select {
		case <-c.lost:
			return
		case e := <-c.echoes:
			c.sendEcho(e.xid, EchoReply{Data: e.data})
			continue
		case <-tick.C:
		}
		if now := c.heard.Load(); now != heard {
			heard, silent = now, 0
			continue
		}
		if silent++; silent >= 3 {
			c.lose(fmt.Errorf("no answer to an echo request for %v", 2*c.cfg.KeepAlive))
			return
		}
		c.sendEcho(c.xid.Add(1), EchoRequest{})
	}
}

// sendEcho sends an echo request or reply; a failure shows as a lost connection.
func (c *Conn) sendEcho(xid uint32, m Message) {
	b, err := Encode(nil, xid, m)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.WriteTimeout)
	defer cancel()
	_, _ = c.write(ctx, b)
}

// write sends b whole. ctx ends the wait for other writers; a write that has begun
// is finished or, after the write time-out, loses the connection.
func (c *Conn) write(ctx context.Context, b []byte) (begun bool, err error) {
	select {
	case <-c.lost:
		return false, c.cause
	case <-ctx.Done():
		return false, ctx.Err()
	default:
	}
	select {
	case c.writing <- struct{}{}:
	case <-c.lost:
		return false, c.cause
	case <-ctx.Done():
		return false, ctx.Err()
	}
	defer func() { <-c.writing }()
	// In pieces: a switch that takes some bytes in time is alive, however many there are.
	for piece := range slices.Chunk(b, writeChunk) {
		err := c.nc.SetWriteDeadline(time.Now().Add(c.cfg.WriteTimeout))
		if err == nil {
			_, err = c.nc.Write(piece)
		}
		if err != nil {
			c.lose(fmt.Errorf("write: %w", err))
			return true, c.cause
		}
	}
	return true, nil
}

// writeChunk is how much is written under one write time-out.
const writeChunk = 256 << 10

// readLoop hands every message that comes to whom it is for. It never waits for
// anybody, so that a slow watcher cannot stall replies.
func (c *Conn) readLoop(br *bufio.Reader) {
	defer c.closed.Done()
	defer c.endWatchers()
	for {
		b, err := ofp.Read(br)
		if err != nil {
			c.lose(fmt.Errorf("read: %w", err))
			return
		}
		c.heard.Add(1)
		xid, m, err := Decode(b)
		if err != nil {
			if !c.failCall(xid, err) {
				c.cfg.Logger.Debug("ofctl: message skipped", "err", err)
			}
			continue
		}
		c.dispatch(xid, m)
	}
}
