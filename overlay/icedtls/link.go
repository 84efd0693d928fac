package icedtls

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/dtls/v3"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/icedtls/internal/record"
	"github.com/viasnet/vias/overlay/icedtls/internal/udpio"
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
	recordUrgent  // as recordData, of an urgent batch; in DTLS records only
	recordProbe   // about path MTUs: see pmtu.go
	recordReport
)

const pingLen = 1 + 8

const (
	closeRepeats = 3
	inboxDepth   = 1024
	inboxBytes   = 4 << 20 // in buffers that wait
	urgentDepth  = 128     // of inboxDepth, for urgent ones only
)

// SuperFrame is how long a TCP super-frame may be, as an IP packet, for all its segments, packets of
// mtu bytes with TCP's usual options, to leave in one send: a few more would take another. It is
// for tap.LinuxConfig.
func SuperFrame(mtu int) int {
	const (
		headers = 40 + 12 // IPv4, TCP, its timestamps
		reserve = 512     // what Linux takes off for headers, at most
	)
	records := udpio.MaxBytes / (mtu + tap.HeaderLen + dataHeadroom + record.TagLen)
	return min(max(records, 1)*max(mtu-headers, 0)+reserve, 1<<16)
}

// recordOverhead is what a datagram of ours gains on its way into UDP: record
// header, connection ID, explicit nonce, tag, inner content type (RFC 9146,
// section 5), and our type byte.
const recordOverhead = 13 + cidLength + 8 + 16 + 1 + 1

const (
	headerIPv4 = 20 + 8 // with UDP
	headerIPv6 = 40 + 8
)

// link implements overlay.Link.
type link struct {
	session *session
	conn    *dtls.Conn
	data    data
	mend    mender
	mtu     pathMTU
	inbox   queue
	waiting atomic.Int64 // bytes of buffers in inbox
	held    *buffer      // did not fit into the last batch; RecvBatch's own

	away, reading turn    // its turns to read the socket (see turn.go)
	reader        *reader // for those; RecvBatch's own

	pulse
	watched
	metPeer  bool        // it has its Link too; the watch's
	closed   atomic.Bool // by our user
	done     chan struct{}
	life     context.Context // ends with done, for what must be told by a context
	end      context.CancelFunc
	failOnce sync.Once
	err      error // set before done is closed

	in, out traffic
	drops   drops
}

func newLink(s *session, conn *dtls.Conn) (*link, error) {
	l := &link{
		session: s, conn: conn, pulse: pulse{start: time.Now(), first: s.dialler},
		inbox: newQueue(inboxDepth),
		done:  make(chan struct{}),
		drops: drops{all: s.transport.drops},
	}
	l.watched.look = l.look
	l.away, l.reading = turn{link: l}, turn{link: l, reading: true}
	l.life, l.end = context.WithCancel(context.Background())
	l.mend.init(l)
	l.mtu.init(l)
	if err := l.data.init(l); err != nil {
		l.end()
		_ = conn.Close()
		return nil, err
	}
	s.link.Store(l)
	return l, nil
}

// Peer is who was authenticated.
func (l *link) Peer() overlay.PeerID { return l.session.peer }

// Path is a snapshot.
func (l *link) Path() overlay.Path {
	r := l.session.path.Load()
	p := r.Path
	p.RTT, p.MTU = time.Duration(l.rtt.Load()), r.mtu()
	return p
}

// Stats is a snapshot.
func (l *link) Stats() overlay.LinkStats {
	s := overlay.LinkStats{
		Sent: l.out.snapshot(), Received: l.in.snapshot(), Drops: l.drops.snapshot(), Paths: l.session.paths.Load(),
		Shrunk: l.mtu.falls.Load(),
	}
	if k := l.data.use.Load(); k != nil {
		s.Epoch = uint32(k.epoch)
	}
	return s
}

// SendBatch sends each datagram as one record. Urgent ones go in DTLS records, which the
// peer tells from others before they wait in a queue.
func (l *link) SendBatch(b *tap.Batch) error {
	l.use()
	mtu, kind := l.session.path.Load().mtu(), recordUrgent
	if !b.Urgent() {
		kind = recordData
		if sent, err := l.data.send(b, mtu); sent || err != nil {
			return err
		}
	}
	for i := range b.Len() {
		select {
		case <-l.done:
			return l.final()
		default:
		}
		mem, off, n := b.Room(i)
		if n == 0 || n > mtu || off == 0 {
			l.drops.add(causeTooLong)
			continue
		}
		mem[off-1] = kind
		if _, err := l.conn.Write(mem[off-1 : off+n]); err != nil {
			return l.writeFailed(err)
		}
		note(&l.mtu.sent, n+recordOverhead)
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
			first = l.inbox.get()
		}
		if first != nil {
			l.take(b, first)
			continue
		}
		if l.readTurn(b) {
			continue
		}
		select {
		case <-l.inbox.ready:
		case <-l.done:
			if l.inbox.len() == 0 {
				return l.final()
			}
		}
	}
	return nil
}

// put takes b over, or drops it when nobody reads fast enough.
func (l *link) put(b *buffer) {
	if l.waiting.Add(int64(len(b.data))) <= inboxBytes && l.inbox.len() < inboxDepth-urgentDepth || b.urgent {
		if l.inbox.put(b) {
			l.wake()
			return
		}
	}
	l.waiting.Add(-int64(len(b.data)))
	l.drops.add(causeFull)
	b.home.put(b)
}

// take appends d and whatever else is there and fits.
func (l *link) take(b *tap.Batch, d *buffer) {
	for d != nil {
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
			l.drops.add(causeTooLong)
		}
		l.waiting.Add(-int64(len(d.data)))
		d.home.put(d)
		d = l.inbox.get()
	}
}

// run reads the association until its end.
func (l *link) run() {
	b := l.session.transport.socket.pool.get()
	for bad := 0; ; {
		n, err := l.conn.Read(b.data)
		if err != nil {
			if bad++; bad > 100 || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
				l.fail(overlay.ErrPeerClosed)
				return
			}
			l.drops.add(causeTruncated)
			continue
		}
		bad = 0
		l.in.add(1, n+recordOverhead-1) // whose type byte is in n
		note(&l.mtu.opened, n+recordOverhead-1)
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
	case recordData, recordUrgent:
		if b.n == 1 {
			break
		}
		b.urgent = b.data[0] == recordUrgent
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
	case recordProbe:
		l.mtu.probed(b.bytes())
	case recordReport:
		l.mtu.reported(b.bytes())
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
