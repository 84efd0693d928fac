package icedtls

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/dtls/v3"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// The first byte inside a DTLS record says what the rest is.
const (
	recordData byte = iota + 1
	recordPing      // 8 bytes, which the pong repeats: pingLen in all
	recordPong
	recordClose
	recordHello   // about data records: see data.go
	recordConfirm // nothing: it shows that we have the keys, and the path takes them
	recordTunnel  // a datagram of the next association's handshake: see rekey.go
)

const pingLen = 1 + 8

const (
	pingInterval = 500 * time.Millisecond
	// lossTime without anything heard ends the Link: five pings.
	lossTime = 2500 * time.Millisecond
	// pingTick is how often the two are looked at.
	pingTick = 125 * time.Millisecond
	// rttInterval is how old a busy Link's RTT may get.
	rttInterval  = 5 * time.Second
	closeRepeats = 3
	inboxDepth   = 2048
	inboxBytes   = 4 << 20 // in buffers that wait
)

// recordOverhead is what a datagram of ours gains on its way into UDP: record
// header, connection ID, explicit nonce, tag, inner content type (RFC 9146,
// section 5), and our type byte.
const recordOverhead = 13 + cidLength + 8 + 16 + 1 + 1

const (
	headerIPv4 = 20 + 8 // with UDP
	headerIPv6 = 40 + 8
)

func datagramMTU(underlay int, remote netip.Addr) int {
	if remote.Is4() {
		return underlay - headerIPv4 - recordOverhead
	}
	return underlay - headerIPv6 - recordOverhead
}

// link implements overlay.Link.
type link struct {
	session *session
	conn    *dtls.Conn
	data    data
	inbox   chan *buffer
	waiting atomic.Int64 // bytes of buffers in inbox
	held    *buffer      // did not fit into the last batch; RecvBatch's own

	away, reading turn    // its turns to read the socket (see turn.go)
	reader        *reader // for those; RecvBatch's own

	start    time.Time
	heard    atomic.Int64 // since start, ns
	said     atomic.Int64
	pinged   atomic.Int64
	rtt      atomic.Int64
	closed   atomic.Bool // by our user
	done     chan struct{}
	life     context.Context // ends with done, for what must be told by a context
	end      context.CancelFunc
	failOnce sync.Once
	err      error // set before done is closed
}

func newLink(s *session, conn *dtls.Conn) (*link, error) {
	l := &link{
		session: s, conn: conn, start: time.Now(),
		inbox: make(chan *buffer, inboxDepth),
		done:  make(chan struct{}),
	}
	l.away, l.reading = turn{link: l}, turn{link: l, reading: true}
	l.life, l.end = context.WithCancel(context.Background())
	if err := l.data.init(l); err != nil {
		l.end()
		_ = conn.Close()
		return nil, err
	}
	s.link.Store(l)
	return l, nil
}

func (l *link) now() int64 { return int64(time.Since(l.start)) }

// Peer is who was authenticated.
func (l *link) Peer() overlay.PeerID { return l.session.peer }

// Path is a snapshot.
func (l *link) Path() overlay.Path {
	p := *l.session.path.Load()
	p.RTT = time.Duration(l.rtt.Load())
	return p
}

// SendBatch sends each datagram as one record.
func (l *link) SendBatch(b *tap.Batch) error {
	mtu := l.session.path.Load().MTU
	if sent, err := l.data.send(b, mtu); sent || err != nil {
		return err
	}
	for i := range b.Len() {
		select {
		case <-l.done:
			return l.final()
		default:
		}
		mem, off, n := b.Room(i)
		if n == 0 || n > mtu || off == 0 {
			l.session.transport.dropped.Add(1)
			continue
		}
		mem[off-1] = recordData
		if _, err := l.conn.Write(mem[off-1 : off+n]); err != nil {
			return l.writeFailed(err)
		}
	}
	if b.Len() > 0 {
		l.said.Store(l.now())
	}
	select {
	case <-l.done:
		return l.final()
	default:
		return nil
	}
}

// writeFailed: records are lost silently, so an error means that the association
// is over.
func (l *link) writeFailed(err error) error {
	if errors.Is(err, dtls.ErrConnClosed) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed) {
		l.fail(overlay.ErrPeerClosed)
	} else {
		l.fail(overlay.ErrLinkLost)
	}
	return l.final()
}

func (l *link) final() error {
	if l.closed.Load() {
		return overlay.ErrClosed
	}
	return l.err
}

// RecvBatch takes what has arrived. What came before the peer's close is returned
// before ErrPeerClosed.
func (l *link) RecvBatch(b *tap.Batch) error {
	b.Reset()
	for b.Len() == 0 {
		if l.closed.Load() {
			return overlay.ErrClosed
		}
		first := l.held
		l.held = nil
		if first == nil {
			select {
			case first = <-l.inbox:
			default:
				if l.readTurn(b) {
					continue
				}
				select {
				case first = <-l.inbox:
				case <-l.done:
					if len(l.inbox) == 0 {
						return l.final()
					}
					continue
				}
			}
		}
		l.take(b, first)
	}
	return nil
}

// put takes b over, or drops it when nobody reads fast enough.
func (l *link) put(b *buffer) {
	if l.waiting.Add(int64(len(b.data))) <= inboxBytes {
		select {
		case l.inbox <- b:
			l.wake()
			return
		default:
		}
	}
	l.waiting.Add(-int64(len(b.data)))
	l.session.transport.dropped.Add(1)
	b.home.put(b)
}

// take appends d and whatever else is there and fits.
func (l *link) take(b *tap.Batch, d *buffer) {
	for {
		whole := false
		if d.size > 0 {
			whole = l.data.receive(b, d)
		} else {
			whole = b.Append(d.data[1:d.n], tap.Offload{})
		}
		switch {
		case whole:
		case b.Len() > 0:
			l.held = d
			return
		default: // no batch of this size will ever hold it
			l.session.transport.dropped.Add(1)
		}
		l.waiting.Add(-int64(len(d.data)))
		d.home.put(d)
		select {
		case d = <-l.inbox:
		default:
			return
		}
	}
}

// run reads the association until its end.
func (l *link) run() {
	t := l.session.transport
	b := t.socket.pool.get()
	for bad := 0; ; {
		n, err := l.conn.Read(b.data)
		if err != nil {
			if bad++; bad > 100 || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
				l.fail(overlay.ErrPeerClosed)
				return
			}
			t.dropped.Add(1)
			continue
		}
		bad = 0
		l.heard.Store(l.now())
		if n == 0 {
			continue
		}
		b.n = n
		if b = l.record(b); b == nil {
			return
		}
	}
}

// record handles one record and returns a buffer for the next; nil at the end.
func (l *link) record(b *buffer) *buffer {
	t := l.session.transport
	switch b.data[0] {
	case recordData:
		if b.n == 1 {
			break
		}
		l.put(b)
		return t.socket.pool.get()
	case recordHello:
		l.data.hello(b.bytes())
	case recordTunnel:
		l.data.tunnelled(b.bytes())
	case recordPing:
		b.data[0] = recordPong
		l.write(b.bytes()[:min(b.n, 9)])
	case recordPong:
		l.pong(b.bytes())
	case recordClose:
		l.fail(overlay.ErrPeerClosed)
		return nil
	}
	return b
}

// write is for records of our own; losing one is no harm. Pings go the way of the frames,
// so that a path that takes only one kind of record does not look alive.
func (l *link) write(record []byte) {
	if l.data.write(record) || l.writeDTLS(record) {
		l.said.Store(l.now())
	}
}

func (l *link) writeDTLS(record []byte) bool {
	_, err := l.conn.Write(record)
	return err == nil
}

func (l *link) ping() {
	now := l.now()
	l.pinged.Store(now)
	l.write(binary.BigEndian.AppendUint64([]byte{recordPing}, uint64(now)))
}

// pong smooths the round-trip time as TCP does (RFC 6298, section 2).
func (l *link) pong(b []byte) {
	if len(b) != 9 {
		return
	}
	sample := l.now() - int64(binary.BigEndian.Uint64(b[1:]))
	if sample <= 0 || sample > int64(lossTime) {
		return
	}
	if old := l.rtt.Load(); old != 0 {
		sample = old + (sample-old)/8
	}
	l.rtt.Store(sample)
}

// watch pings and decides when the Link is lost. Anything heard is a sign of life;
// a ping is sent when we have been silent, so that the peer hears of us, or when
// nothing was heard, so that the peer answers.
func (l *link) watch() {
	tick := time.NewTicker(pingTick)
	defer tick.Stop()
	l.ping()
	for {
		l.data.tick()
		select {
		case <-l.done:
			return
		case <-tick.C:
		}
		l.data.rekey(time.Now())
		now := l.now()
		quiet := max(now-l.heard.Load(), now-l.said.Load())
		switch sincePing := now - l.pinged.Load(); {
		case now-l.heard.Load() > int64(lossTime):
			l.fail(overlay.ErrLinkLost)
			return
		case sincePing >= int64(pingInterval) && quiet >= int64(pingInterval),
			sincePing >= int64(rttInterval):
			l.ping()
		}
	}
}

// Close tells the peer.
func (l *link) Close() error {
	if !l.closed.Swap(true) {
		l.fail(overlay.ErrClosed)
	}
	return nil
}

// fail ends the Link; the first error stays. When it returns, everything is freed.
func (l *link) fail(err error) {
	l.failOnce.Do(func() {
		l.err = err
		close(l.done)
		l.end()
		l.endTurn()
		if err == overlay.ErrClosed {
			for range closeRepeats { // one may be lost; DTLS's own close_notify follows
				l.writeDTLS([]byte{recordClose})
			}
		}
		_ = l.conn.Close()
		l.session.close()
		l.session.transport.forget(l)
	})
}
