package icedtls

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/pion/transport/v5/stdnet"

	"github.com/viasnet/vias/overlay"
)

const (
	acceptBacklog = 64
	// maxInbound are the sessions that others began and that are no Link yet. Who would be one more
	// gets no answer, and offers again soon.
	maxInbound    = 64
	maxRemembered = 4096
)

// Transport implements overlay.Transport.
type Transport struct {
	config      Config
	env         overlay.Env
	self        overlay.PeerID
	log         *slog.Logger
	socket      *socket
	signaler    overlay.Signaler
	signer      *signer
	certificate tls.Certificate
	net         *stdnet.Net // for agents, which would each list all interfaces and keep the list

	accepted chan *link
	outbox   chan outgoing
	turns    chan struct{} // one in it for each Dial that has its turn
	limits   limits
	// life ends with Close. It is a field since Dial, which others call, has to
	// end with it.
	life      context.Context
	end       context.CancelCauseFunc
	closeOnce sync.Once
	wg        sync.WaitGroup

	refused, wrongKey atomic.Uint64
	drops             *drops
	crew              *crew
	watch             *watch
	moves             moves

	tables
}

// tables are the sessions by what they are found by.
type tables struct {
	// mu is not held while anything is sent, waited for or closed.
	mu      sync.Mutex
	closed  bool
	links   map[*link]struct{}
	linked  map[sessionID]*link
	dials   map[overlay.PeerID]*dial
	calls   map[sessionID]*session // ours, waiting for an answer
	inbound map[overlay.PeerID]*session
	seen    remembered // offers that had their turn
}

func open(ctx context.Context, config Config, env overlay.Env) (*Transport, error) {
	t := &Transport{
		config: config, env: env, self: env.Identity.ID(), log: env.Logger,
		accepted: make(chan *link, acceptBacklog),
		outbox:   make(chan outgoing, 256),
		turns:    make(chan struct{}, maxDials),
		drops:    &drops{},
		watch:    newWatch(),
		limits:   newLimits(),
		tables: tables{
			links:   map[*link]struct{}{},
			linked:  map[sessionID]*link{},
			dials:   map[overlay.PeerID]*dial{},
			calls:   map[sessionID]*session{},
			inbound: map[overlay.PeerID]*session{},
			seen:    newRemembered(maxRemembered),
		},
	}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	if !config.claim.IsZero() {
		t.self = config.claim
	}
	certified := env.Identity
	if config.certify != nil {
		certified = config.certify
	}
	var err error
	if t.certificate, err = newCertificate(certified); err != nil {
		return nil, err
	}
	if t.signer, err = newSigner(env.Identity); err != nil {
		return nil, err
	}
	if t.net, err = stdnet.NewNet(); err != nil {
		return nil, err
	}
	if t.socket, err = openSocket(&t.config, t.drops); err != nil {
		return nil, err
	}
	if t.signaler, err = config.Signal(ctx, env.Identity); err != nil {
		_ = t.socket.udp.Close()
		return nil, err
	}
	t.life, t.end = context.WithCancelCause(context.Background())
	t.crew = newCrew(t.life, workers(config.Workers), t.wg.Go)
	t.wg.Go(t.socket.read)
	t.wg.Go(func() { t.watch.run(t.life) })
	t.wg.Go(func() { t.readSignals(t.life) })
	t.wg.Go(func() { t.writeSignals(t.life) })
	if t.socket.addr.Addr().IsUnspecified() { // one address comes and goes with its socket
		t.wg.Go(func() { t.watchMoves(t.life) })
	}
	return t, nil
}

// random is a connection ID; any value but one in use will do.
func (t *Transport) random() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint32(b[:])
}

// Accept returns the next Link that a peer made to us.
func (t *Transport) Accept(ctx context.Context) (overlay.Link, error) {
	if t.life.Err() != nil {
		return nil, &overlay.OpError{Op: "accept", Err: overlay.ErrClosed}
	}
	select {
	case l := <-t.accepted:
		return l, nil
	case <-t.life.Done():
		return nil, &overlay.OpError{Op: "accept", Err: overlay.ErrClosed}
	case <-ctx.Done():
		return nil, &overlay.OpError{Op: "accept", Err: context.Cause(ctx)}
	}
}

// Stats is a snapshot.
func (t *Transport) Stats() overlay.TransportStats {
	d, io := t.drops.snapshot(), t.socket.io.Stats()
	d.Unsent += io.Lost
	return overlay.TransportStats{
		Refused:  t.refused.Load(),
		WrongKey: t.wrongKey.Load(),
		Dropped:  d.Total(),
		Drops:    d,
		Socket: overlay.Socket{
			Sent: io.Sent, Sends: io.Sends, Received: io.Received, Receives: io.Receives,
			Segmenting: io.Segmenting, Coalescing: io.Coalescing,
		},
	}
}

// adopt starts a Link's goroutines, unless the Transport is closed.
func (t *Transport) adopt(l *link) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.links[l], t.linked[l.session.id] = struct{}{}, l
	t.wg.Go(l.run)
	t.watch.add(&l.watched)
	return true
}

func (t *Transport) forget(l *link) {
	t.watch.remove(&l.watched)
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.links, l)
	if t.linked[l.session.id] == l {
		delete(t.linked, l.session.id)
	}
}

// Close closes the Links, then what they stand on, and waits for every goroutine.
func (t *Transport) Close() error {
	t.closeOnce.Do(t.shut)
	return nil
}

// shut works from the top down: no new sessions, Links while the socket still
// carries their goodbye, then the socket.
func (t *Transport) shut() {
	t.mu.Lock()
	t.closed = true
	links := make([]*link, 0, len(t.links))
	for l := range t.links {
		links = append(links, l)
	}
	t.mu.Unlock()
	t.end(overlay.ErrClosed)
	var wg sync.WaitGroup
	for _, l := range links {
		wg.Go(func() { _ = l.Close() })
	}
	wg.Wait()
	_ = t.signaler.Close()
	_ = t.socket.udp.Close()
	t.wg.Wait()
}
