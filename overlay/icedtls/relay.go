package icedtls

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/stun/v4"
	pionturn "github.com/pion/turn/v5"

	"github.com/viasnet/vias/overlay/icedtls/internal/udpio"
)

// Relay is a TURN server (RFC 8656), for peers between which no direct path works. It sees
// addresses, sizes and times, and nothing of what is sent.
type Relay struct {
	// URL is "turn:HOST:PORT" (UDP), "turn:HOST:PORT?transport=tcp" or "turns:HOST:PORT"
	// (TLS over TCP), as in RFC 7065. Required; without a port, 3478 and 5349.
	URL string
	// Username and Password are the credentials, if they are always the same.
	Username, Password string
	// Credentials, if set, is asked for others before each use, for example those that last
	// for a time only. It should take no longer than a second; it may be called by several
	// goroutines.
	Credentials func(ctx context.Context) (username, password string, err error)
	// TLS is for turns; nil = the system's authorities. HOST is the server's name, unless TLS
	// has one.
	TLS *tls.Config
}

// TimedCredentials are for Relay.Credentials where servers and nodes share a secret
// (coturn's use-auth-secret; draft-uberti-behave-turn-rest): each time new ones, for user,
// that last for so long.
func TimedCredentials(secret, user string, lasting time.Duration) func(context.Context) (username, password string, err error) {
	return func(context.Context) (string, string, error) {
		return pionturn.GenerateLongTermTURNRESTCredentials(secret, user, lasting)
	}
}

const (
	// relayOverhead is what TURN adds at most, with an IPv6 peer and before a channel is
	// bound (RFC 8656, section 11.5): header, XOR-PEER-ADDRESS, DATA, padding, FINGERPRINT.
	relayOverhead = 20 + 24 + 4 + 3 + 8
	// allocateTime bounds how long gathering waits for TURN servers.
	allocateTime = 1500 * time.Millisecond
	turnRTO      = 200 * time.Millisecond
	relayQueue   = 256 // records
	// relayWrite bounds one write to a server over TCP, which would hold up others.
	relayWrite = 500 * time.Millisecond
)

// relay is an allocation on a TURN server, whose address there is a candidate of ours.
type relay struct {
	transport *Transport
	priority  uint32 // of the candidate
	client    *pionturn.Client
	under     net.PacketConn // to the server
	conn      net.PacketConn // what peers send to the allocation
	addr      netip.AddrPort // of the allocation
	stun      *packetConn    // the agent's; set before read runs
	out       chan relayed
	done      chan struct{}
	running   sync.WaitGroup
	closeOnce sync.Once
}

// relayed is a record on its way out.
type relayed struct {
	b  *buffer
	to *net.UDPAddr
}

// parse is the server's scheme and transport.
func (r *Relay) parse() (*stun.URI, error) {
	u, err := stun.ParseURI(r.URL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("icedtls: Config.Relays: %q: %w", r.URL, err)
	case u.Scheme != stun.SchemeTypeTURN && u.Scheme != stun.SchemeTypeTURNS,
		u.Scheme == stun.SchemeTypeTURNS && u.Proto == stun.ProtoTypeUDP && strings.Contains(r.URL, "transport=udp"):
		return nil, fmt.Errorf("icedtls: Config.Relays: %q is neither turn: nor turns: over TCP", r.URL)
	case r.Credentials == nil && (r.Username == "" || r.Password == ""):
		return nil, fmt.Errorf("icedtls: Config.Relays: %q has no credentials", r.URL)
	}
	return u, nil
}

// Check allocates an address on the server, and gives it back: it tells whether the server
// answers, and takes the credentials.
func (r *Relay) Check(ctx context.Context) (netip.AddrPort, error) {
	x, err := r.allocate(ctx, pionLog{log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer x.close()
	return x.addr, nil
}

// allocateAll asks all servers; those that do not answer in time are left out.
func allocateAll(ctx context.Context, t *Transport) []*relay {
	ctx, cancel := context.WithTimeout(ctx, allocateTime)
	defer cancel()
	list := make([]*relay, len(t.config.Relays))
	var wg sync.WaitGroup
	for i := range t.config.Relays {
		wg.Go(func() {
			x, err := t.config.Relays[i].allocate(ctx, pionLog{log: t.log})
			if err != nil {
				t.log.Info("icedtls: relay not used", "url", t.config.Relays[i].URL, "err", err)
				return
			}
			x.transport, list[i] = t, x
		})
	}
	wg.Wait()
	out := list[:0]
	for _, x := range list {
		if x != nil {
			out = append(out, x)
		}
	}
	return out
}

// allocate makes an allocation; when it returns an error nothing is left.
func (r *Relay) allocate(ctx context.Context, log pionLog) (_ *relay, err error) {
	u, err := r.parse()
	if err != nil {
		return nil, err
	}
	user, password := r.Username, r.Password
	if r.Credentials != nil {
		if user, password, err = r.Credentials(ctx); err != nil {
			return nil, fmt.Errorf("relay credentials: %w", err)
		}
	}
	x := &relay{priority: relayPriority(u), out: make(chan relayed, relayQueue), done: make(chan struct{})}
	server, err := x.dial(ctx, u, r.TLS)
	if err != nil {
		return nil, fmt.Errorf("relay %s: %w", r.URL, err)
	}
	defer func() {
		if err != nil {
			x.close()
		}
	}()
	x.client, err = pionturn.NewClient(&pionturn.ClientConfig{
		TURNServerAddr: server, Conn: x.under, Username: user, Password: password, RTO: turnRTO,
		RequestedAddressFamily: pionturn.RequestedAddressFamilyIPv4, LoggerFactory: log,
	})
	if err != nil {
		return nil, fmt.Errorf("relay %s: %w", r.URL, err)
	}
	x.running.Go(x.listen)
	conn, err := x.client.AllocateWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("relay %s: allocate: %w", r.URL, err)
	}
	x.conn = conn
	a, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok {
		err = errors.New("relay: an allocation without an address")
		return nil, err
	}
	x.addr = unmap(a.AddrPort())
	return x, nil
}

// relayPriority is RFC 8445, section 5.1.2.1, with type preference 0: a server that we talk to
// over UDP first, then TCP, where a lost segment holds up what follows it, then TLS.
func relayPriority(u *stun.URI) uint32 {
	preference := uint32(65535)
	switch {
	case u.Scheme == stun.SchemeTypeTURNS:
		preference -= 2
	case u.Proto == stun.ProtoTypeTCP:
		preference--
	}
	return preference<<8 | 255
}

// dial makes the way to the server, which TURN calls by its address.
func (x *relay) dial(ctx context.Context, u *stun.URI, config *tls.Config) (server string, err error) {
	at := net.JoinHostPort(u.Host, fmt.Sprint(u.Port))
	var d net.Dialer
	if u.Proto == stun.ProtoTypeUDP && u.Scheme == stun.SchemeTypeTURN {
		c, err := d.DialContext(ctx, "udp", at) // sends nothing; it finds address and family
		if err != nil {
			return "", err
		}
		local, remote := c.LocalAddr().(*net.UDPAddr), c.RemoteAddr().String()
		_ = c.Close()
		under, err := net.ListenUDP("udp", &net.UDPAddr{IP: local.IP, Zone: local.Zone})
		if err != nil {
			return "", err
		}
		udpio.Buffers(under, socketBuffer)
		wholeOnly(under)
		x.under = under
		return remote, nil
	}
	c, err := d.DialContext(ctx, "tcp", at)
	if err != nil {
		return "", err
	}
	remote := c.RemoteAddr().String()
	if u.Scheme == stun.SchemeTypeTURNS {
		if config == nil {
			config = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		if config.ServerName == "" {
			config = config.Clone()
			config.ServerName = u.Host
		}
		s := tls.Client(c, config)
		if err := s.HandshakeContext(ctx); err != nil {
			_ = c.Close()
			return "", err
		}
		c = s
	}
	x.under = pionturn.NewSTUNConn(impatient{c})
	return remote, nil
}

// impatient is a stream to a server that may not keep its writers waiting.
type impatient struct{ net.Conn }

func (c impatient) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(relayWrite)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(b)
	if err != nil {
		_ = c.Close() // half a message may be on its way: nothing can follow it
	}
	return n, err
}

// addRelay gives the agent a relay candidate.
func (g *generation) addRelay(r *relay) error {
	if !usable(r.addr.Addr(), g.session.transport.config.IncludeLoopback) {
		return nil
	}
	c, err := ice.NewCandidateRelay(&ice.CandidateRelayConfig{
		Network: "udp", Address: r.addr.Addr().String(), Port: int(r.addr.Port()), Component: ice.ComponentRTP,
		Priority: r.priority, RelAddr: "0.0.0.0", RelayProtocol: "udp",
	})
	if err != nil {
		return fmt.Errorf("candidate %s: %w", r.addr, err)
	}
	t := g.session.transport
	r.stun = newPacketConn(r.addr, stunQueue, t.socket.pool, t.drops, func(b []byte, to netip.AddrPort) (int, error) {
		to = unmap(to)
		t.socket.meet(g, to) // our addresses may reach none of its family: the relay alone does
		return r.conn.WriteTo(b, net.UDPAddrFromAddrPort(to))
	})
	if err := g.agent.AddVirtualCandidate(c, r.stun); err != nil {
		return fmt.Errorf("candidate %s: %w", r.addr, err)
	}
	g.offer(candidateRelay, r.addr, r.priority)
	r.running.Go(r.read)
	r.running.Go(r.write)
	return nil
}

// is tells whether a candidate of the agent's is this one.
func (x *relay) is(c ice.Candidate) bool {
	return c.Address() == x.addr.Addr().String() && c.Port() == int(x.addr.Port())
}

// read is the goroutine that hands over what peers sent to the allocation: STUN to the
// agent, all else as if it had come to the socket.
func (x *relay) read() {
	s := x.transport.socket
	msg := new(stun.Message)
	for {
		b := s.pool.get()
		n, from, err := x.conn.ReadFrom(b.data)
		if err != nil {
			s.pool.put(b)
			return
		}
		b.n = n
		if a, ok := from.(*net.UDPAddr); ok {
			b.from = unmap(a.AddrPort())
		}
		if n > 0 && b.data[0] <= lastSTUN {
			x.stun.put(b)
			continue
		}
		if why := s.dispatch(b, msg); why != causeNone {
			s.drops.add(why)
			s.pool.put(b)
		}
	}
}

// listen is the goroutine that hears the server. (The client's own ends at the first datagram
// that it does not like.)
func (x *relay) listen() {
	b := make([]byte, maxDatagram)
	for {
		n, from, err := x.under.ReadFrom(b)
		if err != nil {
			return
		}
		if from.String() == x.client.TURNServerAddr().String() {
			_, _ = x.client.HandleInbound(b[:n], from)
		}
	}
}

// maxDatagram is as long as any is.
const maxDatagram = 65535

// send queues one record to a peer. It does not wait: the caller may hold up all Links.
func (x *relay) send(record []byte, to *net.UDPAddr) {
	b := x.transport.socket.pool.get()
	b.n = copy(b.data, record)
	select {
	case x.out <- relayed{b, to}:
	default:
		x.transport.drops.add(causeUnsent)
		b.home.put(b)
	}
}

// write is the goroutine that writes what was queued. The server may make it wait.
func (x *relay) write() {
	for {
		select {
		case <-x.done:
			return
		case r := <-x.out:
			if _, err := x.conn.WriteTo(r.b.bytes(), r.to); err != nil {
				x.transport.drops.add(causeUnsent)
			}
			r.b.home.put(r.b)
		}
	}
}

// close gives the allocation back.
func (x *relay) close() { x.closeOnce.Do(x.shut) }

func (x *relay) shut() {
	close(x.done)
	if x.stun != nil {
		_ = x.stun.Close()
	}
	if x.conn != nil {
		_ = x.conn.Close()
	}
	if x.client != nil {
		x.client.Close()
	}
	if x.under != nil {
		_ = x.under.Close()
	}
	x.running.Wait()
}
