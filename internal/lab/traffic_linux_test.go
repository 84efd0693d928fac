package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// echoPort is where hosts echo datagrams.
const echoPort = 7409

// echoes is traffic of the hosts themselves: numbered datagrams from host 1 to host
// 2 and back, 50 a second.
type echoes struct {
	conn     *net.UDPConn
	stop     chan struct{}
	finished chan struct{}

	mu     sync.Mutex // guards what follows
	sent   uint64
	back   map[uint64]bool
	failed error
}

func (s *system) startEchoes() *echoes {
	s.t.Helper()
	at := netip.AddrPortFrom(s.hosts[1].Addr, echoPort)
	go reflect(udp(s.t, s.hosts[1].Namespace, at))
	e := &echoes{stop: make(chan struct{}), finished: make(chan struct{}), back: map[uint64]bool{},
		conn: udp(s.t, s.hosts[0].Namespace, netip.AddrPortFrom(s.hosts[0].Addr, echoPort))}
	go e.receive()
	go e.send(at)
	return e
}

// reflect sends back what it gets until c is closed.
func reflect(c *net.UDPConn) {
	b := make([]byte, 100)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = c.WriteToUDPAddrPort(b[:n], from)
		}
	}
}

func (e *echoes) send(to netip.AddrPort) {
	defer close(e.finished)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		e.mu.Lock()
		nr := e.sent
		e.sent++
		e.mu.Unlock()
		if _, err := e.conn.WriteToUDPAddrPort(binary.BigEndian.AppendUint64(nil, nr), to); err != nil {
			e.mu.Lock()
			e.failed = errors.Join(e.failed, err)
			e.mu.Unlock()
		}
		select {
		case <-tick.C:
		case <-e.stop:
			return
		}
	}
}

func (e *echoes) receive() {
	var b [8]byte
	for {
		n, _, err := e.conn.ReadFromUDPAddrPort(b[:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil && n == len(b) {
			e.mu.Lock()
			e.back[binary.BigEndian.Uint64(b[:])] = true
			e.mu.Unlock()
		}
	}
}

// end ends the traffic and waits for what is late.
func (e *echoes) end(ctx context.Context) *echoes {
	close(e.stop)
	<-e.finished
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	// Its error is that something is lost, which is the caller's to count.
	_ = poll(ctx, 10*time.Millisecond, func() (bool, error) {
		e.mu.Lock()
		defer e.mu.Unlock()
		return uint64(len(e.back)) == e.sent, nil
	})
	return e
}

// lost are the numbers that did not come back; it is called after end.
func (e *echoes) lost() (missing []uint64, sent uint64, failed error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for nr := range e.sent {
		if !e.back[nr] {
			missing = append(missing, nr)
		}
	}
	return missing, e.sent, e.failed
}

// longestGap is the most that were lost in a row; it is called after end.
func (e *echoes) longestGap() (most int, sent uint64) {
	missing, sent, _ := e.lost()
	row, last := 0, uint64(0)
	for _, nr := range missing {
		if row++; nr != last+1 {
			row = 1
		}
		most, last = max(most, row), nr
	}
	return most, sent
}

// markerSize is the length of what a guest says.
const markerSize = 32

type marker [markerSize]byte

// chat is one TCP connection between the first containers, on which the client says
// its marker about 100 times a second and the server repeats it. Each time is one
// segment each way.
type chat struct {
	client, server *net.TCPConn
	ended          chan struct{}
	failed         error // valid once ended is closed

	mu     sync.Mutex // guards what follows
	now    marker
	rounds uint64
	pause  bool
	idle   bool // it is pausing
}

// chatPort is the server's.
const chatPort = 5300

func (s *system) startChat(m marker) *chat {
	s.t.Helper()
	var ln *net.TCPListener
	at := &net.TCPAddr{IP: s.guest(2, 1).Addr.AsSlice(), Port: chatPort}
	inside(s.t, s.guest(2, 1).Namespace, func() (err error) {
		ln, err = net.ListenTCP("tcp4", at)
		return err
	})
	defer ln.Close()
	k := &chat{ended: make(chan struct{}), now: m}
	inside(s.t, s.guest(1, 1).Namespace, func() error {
		c, err := net.DialTimeout("tcp4", ln.Addr().String(), 5*time.Second)
		if err == nil {
			k.client = c.(*net.TCPConn)
		}
		return err
	})
	require.NoError(s.t, ln.SetDeadline(time.Now().Add(5*time.Second)))
	var err error
	k.server, err = ln.AcceptTCP()
	require.NoError(s.t, err)
	repeated := make(chan struct{})
	go func() {
		_, _ = io.Copy(onlyWriter{k.server}, k.server)
		close(repeated)
	}()
	go k.say()
	s.t.Cleanup(func() {
		_, _ = k.client.Close(), k.server.Close()
		<-k.ended
		<-repeated
	})
	return k
}

// onlyWriter hides ReadFrom, which would splice.
type onlyWriter struct{ io.Writer }

// from is the client's address.
func (k *chat) from() netip.AddrPort { return k.client.LocalAddr().(*net.TCPAddr).AddrPort() }

func (k *chat) say() {
	defer close(k.ended)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		k.mu.Lock()
		m, pause := k.now, k.pause
		k.idle = pause
		k.mu.Unlock()
		if pause {
			continue
		}
		if _, err := k.client.Write(m[:]); err != nil {
			k.failed = err
			return
		}
		var back marker
		if _, err := io.ReadFull(k.client, back[:]); err != nil {
			k.failed = err
			return
		}
		if back != m {
			k.failed = fmt.Errorf("said %x, and %x came back", m, back)
			return
		}
		k.mu.Lock()
		k.rounds++
		k.mu.Unlock()
	}
}

// said is how often the marker went there and back.
func (k *chat) said() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rounds
}

// unacked is how many bytes either end may have to send again.
func (k *chat) unacked() (int, error) {
	sum := 0
	for _, c := range []*net.TCPConn{k.client, k.server} {
		raw, err := c.SyscallConn()
		if err != nil {
			return 0, err
		}
		var n int
		var ioctl error
		if err := raw.Control(func(fd uintptr) { n, ioctl = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil {
			return 0, err
		}
		if ioctl != nil {
			return 0, ioctl
		}
		sum += n
	}
	return sum, nil
}

// change makes the guests say another marker. When it returns no segment with the old
// one can follow: all of them are acknowledged.
func (s *system) change(k *chat, m marker) {
	s.t.Helper()
	k.mu.Lock()
	k.pause, k.idle = true, false
	k.mu.Unlock()
	s.await(10*time.Second, "the guests pause", func() bool {
		s.requireChatting(k)
		n, err := k.unacked()
		require.NoError(s.t, err)
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.idle && n == 0
	})
	k.mu.Lock()
	k.now, k.pause = m, false
	k.mu.Unlock()
}

// awaitRounds waits until n more markers went there and back.
func (s *system) awaitRounds(limit time.Duration, k *chat, n uint64, where string) {
	s.t.Helper()
	from := k.said()
	s.await(limit, fmt.Sprintf("%d markers went there and back %s", n, where), func() bool {
		s.requireChatting(k)
		return k.said() >= from+n
	})
}

// requireChatting fails the test when the connection is broken.
func (s *system) requireChatting(k *chat) {
	s.t.Helper()
	select {
	case <-k.ended:
		require.NoError(s.t, k.failed, "the guests' connection")
	default:
	}
}

// noisePort is where guests shout.
const noisePort = 7410

// noise is what the first guest of host 2 says to everybody, and to the provider's
// gateway, whose address and MAC it knows: 100 frames of each a second. near and far
// count what guests of its own host and of host 1 hear, so that the noise is known to
// be there; the far one hears it over the overlay.
type noise struct{ near, far atomic.Uint64 }

func (s *system) startNoise() *noise {
	s.t.Helper()
	from := s.guest(2, 1)
	require.NoError(s.t, s.ips(s.t.Context(), from.Namespace,
		fmt.Sprintf("route add %s dev eth0", gateway()),
		fmt.Sprintf("neigh add %s lladdr %s dev eth0", gateway(), gatewayMAC)))
	n := &noise{}
	all := netip.AddrPortFrom(netip.IPv4Unspecified(), noisePort)
	go count(udp(s.t, s.guest(2, 2).Namespace, all), &n.near)
	go count(udp(s.t, s.guest(1, 2).Namespace, all), &n.far)
	go shout(s.t.Context(), udp(s.t, from.Namespace, netip.AddrPortFrom(from.Addr, noisePort)))
	return n
}

// count counts datagrams until c is closed.
func count(c *net.UDPConn, heard *atomic.Uint64) {
	var b [100]byte
	for {
		if _, err := c.Read(b[:]); errors.Is(err, net.ErrClosed) {
			return
		} else if err == nil {
			heard.Add(1)
		}
	}
}

// shout ends with the test.
func shout(ctx context.Context, c *net.UDPConn) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	all := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 77, 0, 255}), noisePort)
	for {
		select {
		case <-tick.C:
			_, _ = c.WriteToUDPAddrPort([]byte("noise"), all) // heard says whether it works
			_, _ = c.WriteToUDPAddrPort([]byte("noise"), netip.AddrPortFrom(gateway(), noisePort))
		case <-ctx.Done():
			return
		}
	}
}

// awaitNoise waits until both hear more.
func (s *system) awaitNoise(limit time.Duration, n *noise) {
	s.t.Helper()
	near, far := n.near.Load(), n.far.Load()
	s.await(limit, "guests hear a guest's broadcasts", func() bool {
		return n.near.Load() >= near+5 && n.far.Load() >= far+5
	})
}
