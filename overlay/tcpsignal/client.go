package tcpsignal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/viasnet/vias/overlay"
)

const (
	dialTimeout  = 5 * time.Second
	pingInterval = 15 * time.Second
	// hereInterval is how often addresses are looked at: whoever moves wants to say so now.
	hereInterval = 250 * time.Millisecond
	// silence is how long a server may be silent: three pings.
	silence      = 45 * time.Second
	backoffFirst = 100 * time.Millisecond
	backoffLast  = 2 * time.Second
	replacedWait = 10 * time.Second
	inboxDepth   = 256
)

var errReplaced = errors.New("another process registered this ID")

// signaler is a client. It implements overlay.Signaler.
type signaler struct {
	*codec
	addr  string
	id    *overlay.Identity
	inbox chan received
	life  context.Context // ends with Close
	end   context.CancelFunc
	wg    sync.WaitGroup

	mu      sync.Mutex
	conn    net.Conn      // registered; nil while there is none
	changed chan struct{} // closed and replaced when conn changes

	writeMu sync.Mutex // one frame at a time
}

type received struct {
	from overlay.PeerID
	msg  []byte
}

// Dial returns an opener of Signalers that use the server at addr, host:port. The
// opener does not wait for the server: a Signaler connects in the background and
// again whenever it loses its connection. Send waits for one, as long as its
// context lets it; Recv just goes on.
func Dial(addr string) overlay.SignalOpener {
	return func(ctx context.Context, id *overlay.Identity) (overlay.Signaler, error) {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return nil, fmt.Errorf("tcpsignal: server address: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("tcpsignal: open: %w", err)
		}
		c, err := newCodec()
		if err != nil {
			return nil, err
		}
		s := &signaler{
			codec: c, addr: addr, id: id,
			inbox:   make(chan received, inboxDepth),
			changed: make(chan struct{}),
		}
		s.life, s.end = context.WithCancel(context.Background())
		s.wg.Go(s.run)
		return s, nil
	}
}

// run keeps a connection until Close.
func (s *signaler) run() {
	wait := backoffFirst
	for s.life.Err() == nil {
		registered, err := s.connect()
		if registered {
			wait = backoffFirst
		}
		if errors.Is(err, errReplaced) {
			wait = replacedWait // two of us: do not fight
		}
		// Half of it by chance, lest all clients of a restarted server come at once.
		pause := wait/2 + rand.N(wait/2)
		wait = min(2*wait, backoffLast)
		if s.pause(pause) {
			wait = backoffFirst
		}
	}
}

// pause waits, or until this machine has other addresses: then it is true.
func (s *signaler) pause(d time.Duration) (moved bool) {
	end, look := time.NewTimer(d), time.NewTicker(hereInterval)
	defer end.Stop()
	defer look.Stop()
	before, _ := net.InterfaceAddrs()
	for {
		select {
		case <-s.life.Done():
			return false
		case <-end.C:
			return false
		case <-look.C:
			if now, err := net.InterfaceAddrs(); err == nil && fmt.Sprint(now) != fmt.Sprint(before) {
				return true
			}
		}
	}
}

// connect is one connection from its beginning to its end.
func (s *signaler) connect() (registered bool, err error) {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(s.life, "tcp", s.addr)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	defer context.AfterFunc(s.life, func() { _ = conn.Close() })()
	r := bufio.NewReader(conn)
	if err := s.register(conn, r); err != nil {
		return false, err
	}
	s.set(conn)
	defer s.set(nil)
	var pinger sync.WaitGroup
	defer pinger.Wait()
	stop := make(chan struct{})
	defer close(stop)
	pinger.Go(func() { s.ping(conn, stop) })
	return true, s.read(conn, r)
}

func (s *signaler) register(conn net.Conn, r *bufio.Reader) error {
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return err
	}
	challenge, err := s.readKind(r, kindChallenge)
	if err != nil {
		return err
	}
	h, err := hello(s.id, challenge.Data)
	if err != nil {
		return err
	}
	if err := s.codec.write(conn, h); err != nil {
		return err
	}
	if _, err := s.readKind(r, kindWelcome); err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

func (s *signaler) set(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = conn
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *signaler) read(conn net.Conn, r *bufio.Reader) error {
	for {
		if err := conn.SetReadDeadline(time.Now().Add(silence)); err != nil {
			return err
		}
		f, err := s.codec.read(r)
		if err != nil {
			return err
		}
		switch f.Kind {
		case kindMessage:
			select {
			case s.inbox <- received{overlay.PeerID(f.Peer), f.Data}:
			default: // nobody receives: lost, as a Signaler may
			}
		case kindPing:
			if err := s.write(conn, &frame{Kind: kindPong}); err != nil {
				return err
			}
		case kindPong:
		case kindReplaced:
			return errReplaced
		default:
			return errMalformed
		}
	}
}

func (s *signaler) ping(conn net.Conn, stop <-chan struct{}) {
	tick, look := time.NewTicker(pingInterval), time.NewTicker(hereInterval)
	defer tick.Stop()
	defer look.Stop()
	for {
		select {
		case <-stop:
			return
		case <-look.C:
			if !here(conn.LocalAddr(), conn.RemoteAddr()) {
				_ = conn.Close() // TCP would find out in minutes
				return
			}
		case <-tick.C:
			if s.write(conn, &frame{Kind: kindPing}) != nil {
				_ = conn.Close() // which ends read
				return
			}
		}
	}
}

// here tells whether the machine would still send from that end of a connection: its address
// may be gone, or the interface down that has it. Connecting a UDP socket sends nothing.
func here(local, remote net.Addr) bool {
	from, ok := local.(*net.TCPAddr)
	if !ok || from.IP.IsLoopback() {
		return true
	}
	c, err := net.Dial("udp", remote.String())
	if err != nil {
		return false
	}
	defer c.Close()
	now, ok := c.LocalAddr().(*net.UDPAddr)
	return !ok || now.IP.Equal(from.IP)
}

func (s *signaler) write(conn net.Conn, f *frame) error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if err := conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	return s.codec.write(conn, f)
}

// Send hands msg to the server, over the next connection if there is none now.
func (s *signaler) Send(ctx context.Context, to overlay.PeerID, msg []byte) error {
	if err := s.send(ctx, to, msg); err != nil {
		return &overlay.OpError{Op: "signal", Peer: to, Err: err}
	}
	return nil
}

func (s *signaler) send(ctx context.Context, to overlay.PeerID, msg []byte) error {
	if len(msg) > overlay.MaxSignal {
		return fmt.Errorf("message of %d bytes is longer than %d", len(msg), overlay.MaxSignal)
	}
	f := &frame{Kind: kindMessage, Peer: slices.Clone(to[:]), Data: msg}
	var failed error
	for {
		if s.life.Err() != nil {
			return overlay.ErrClosed
		}
		s.mu.Lock()
		conn, changed := s.conn, s.changed
		s.mu.Unlock()
		if conn != nil {
			if failed = s.write(conn, f); failed == nil {
				return nil
			}
			_ = conn.Close() // half a frame may be out
		}
		select {
		case <-changed:
		case <-s.life.Done():
			return overlay.ErrClosed
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("no connection to %s: %w", s.addr, context.Cause(ctx)), failed)
		}
	}
}

// Recv returns the next message, over however many connections.
func (s *signaler) Recv(ctx context.Context) (from overlay.PeerID, msg []byte, err error) {
	if s.life.Err() != nil {
		return from, nil, &overlay.OpError{Op: "signal", Err: overlay.ErrClosed}
	}
	select {
	case m := <-s.inbox:
		return m.from, m.msg, nil
	case <-s.life.Done():
		return from, nil, &overlay.OpError{Op: "signal", Err: overlay.ErrClosed}
	case <-ctx.Done():
		return from, nil, &overlay.OpError{Op: "signal", Err: context.Cause(ctx)}
	}
}

// Close ends the connection and waits for the goroutines. It is idempotent.
func (s *signaler) Close() error {
	s.end()
	s.wg.Wait()
	return nil
}
