package icedtls

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/ice/v4"

	"github.com/viasnet/vias/overlay"
)

const (
	dtlsQueue = 256
	// flightInterval is when DTLS sends a flight again, without back-off: a
	// handshake has a few seconds in all, and is a few datagrams.
	flightInterval = 300 * time.Millisecond
	// handshakeMTU holds the handshake's datagrams on any path.
	handshakeMTU = 1200
	replayWindow = 1024
	// lingerTime is how long a path stays open after another one is in use: records of the
	// peer's are on it, and it may be the last to change over.
	lingerTime = 2 * time.Second
)

// session is one attempt at a Link and, when it succeeds, what the Link stands on:
// a DTLS association, and the generation of ICE whose path it uses.
type session struct {
	transport *Transport
	id        sessionID
	peer      overlay.PeerID
	dialler   bool
	cid       uint32 // fixed by start
	told      bool   // the offer has our candidates: the peer was admitted before it answered

	records *packetConn
	path    atomic.Pointer[route]
	paths   atomic.Uint64 // that there were

	mu          sync.Mutex // guards what follows
	closed      bool
	current     *generation              // whose path is in use; nil = none yet
	generations map[*generation]struct{} // all that are open

	link      atomic.Pointer[link] // once there is one
	complete  atomic.Bool          // the DTLS handshake is: plaintext is suspect
	repeats   *bucket              // repeated flights that we answer then
	wrongKey  atomic.Bool          // DTLS showed another key
	answers   chan *message        // to the dialler; room for one
	impostor  chan struct{}        // closed when somebody else answered
	impostors sync.Once
	done      chan struct{} // inbound: closed after the outcome was handed on
	cancel    context.CancelCauseFunc
	reply     atomic.Pointer[[]byte] // inbound: the answer, to send again
	closeOnce sync.Once
}

func (t *Transport) newSession(id sessionID, peer overlay.PeerID, dialler bool) *session {
	s := &session{
		transport: t, id: id, peer: peer, dialler: dialler,
		generations: map[*generation]struct{}{},
		repeats:     newBucket(10, 20), // a flight is a few datagrams, every flightInterval
		answers:     make(chan *message, 1),
		impostor:    make(chan struct{}),
		done:        make(chan struct{}),
	}
	s.records = newPacketConn(t.socket.addr, dtlsQueue, t.socket.pool, t.drops, s.sendRecord)
	return s
}

// start makes the session known to the socket, and the first generation.
func (s *session) start(ctx context.Context) (*generation, error) {
	s.transport.socket.add(s, s.transport.random)
	return s.newGeneration(ctx, 0, true)
}

// own notes a generation that is to be closed with the session; false: it is closed.
func (s *session) own(g *generation) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.generations[g] = struct{}{}
	}
	return !s.closed
}

func (s *session) disown(g *generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.generations, g)
}

// use changes over to g, which has found a path; the one before stays for lingerTime.
func (s *session) use(g *generation) error {
	pair, err := g.agent.GetSelectedCandidatePair()
	if err != nil || pair == nil {
		return errors.New("no pair of addresses was selected")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch old := s.current; {
	case s.closed:
		return overlay.ErrClosed
	case old != nil && old.number > g.number:
		return errOutrun
	case old != nil && old != g:
		old.timer = time.AfterFunc(lingerTime, old.close)
	}
	s.current = g
	s.goLocked(g, pair.Local, pair.Remote)
	g.idle = time.AfterFunc(restTime, g.rest)
	if len(g.relays) > 0 {
		g.spare = time.AfterFunc(lingerTime, g.freeRelays)
	}
	return nil
}

// met is when the peer has its Link: the first agent has nothing more to do soon.
func (s *session) met() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.current; g != nil && g.number == 0 && !g.met {
		g.met = true
		if g.idle.Stop() {
			g.idle.Reset(soonTime)
		}
	}
}

// errOutrun: a later generation has a path already.
var errOutrun = errors.New("a later path is in use")

// selected is called by an agent whenever its pair changes.
func (s *session) selected(g *generation, local, remote ice.Candidate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == g {
		s.goLocked(g, local, remote)
	}
}

func (s *session) goLocked(g *generation, local, remote ice.Candidate) {
	r := g.route(local, remote)
	if r == nil {
		return
	}
	old := s.path.Load()
	r.resume(old)
	if s.path.Store(r); old == nil || old.Path != r.Path || old.relay != r.relay {
		s.paths.Add(1)
	}
}

// sendRecord sends a DTLS record where ICE says; until ICE knows, it is lost.
func (s *session) sendRecord(b []byte, _ netip.AddrPort) (int, error) {
	p := s.path.Load()
	if p == nil {
		return len(b), nil
	}
	if l := s.link.Load(); l != nil {
		l.out.add(1, len(b))
	}
	return p.send(s.transport.socket, b)
}

// putDTLS takes b over; it is called by the socket's reader. Else it says why not: s is nil,
// or b has plaintext that could only do harm.
func (s *session) putDTLS(b *buffer) cause {
	switch {
	case s == nil:
		return causeUnknown
	case s.complete.Load():
		switch plaintextIn(b.bytes()) {
		case plainBad:
			return causePlaintext
		case plainRepeat: // pion answers with a flight, so a stranger must not ask often
			if !s.repeats.take() {
				return causePlaintext
			}
		}
	}
	s.records.put(b)
	return causeNone
}

// putData takes b, data records, over; it is called by the socket's reader. false: there is
// no Link yet, or any more.
func (s *session) putData(b *buffer) bool {
	l := s.link.Load()
	switch {
	case l == nil:
		return false
	case b.n <= smallRecord:
		l.data.receiveSmall(b)
	default:
		l.put(b)
	}
	return true
}

// establish turns what the peer offered or answered into a Link.
func (s *session) establish(ctx context.Context, g *generation, remote *message) (*link, error) {
	if err := g.connect(ctx, remote); err != nil {
		return nil, err
	}
	if err := s.use(g); err != nil {
		return nil, err
	}
	conn, err := s.newDTLS(s.records, dtls.WithMTU(handshakeMTU), dtls.WithConnectionIDGenerator(s.connectionID))
	if err != nil {
		return nil, fmt.Errorf("DTLS: %w", err)
	}
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		if s.wrongKey.Load() {
			return nil, overlay.ErrWrongPeer
		}
		return nil, fmt.Errorf("DTLS handshake: %w", err)
	}
	s.complete.Store(true)
	return newLink(s, conn)
}

// newDTLS makes an association over records, in which the dialler is the client.
func (s *session) newDTLS(records *packetConn, more ...dtls.Option) (*dtls.Conn, error) {
	common := append([]dtls.Option{
		dtls.WithCertificates(s.transport.certificate),
		dtls.WithCipherSuites(dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
		dtls.WithExtendedMasterSecret(dtls.RequireExtendedMasterSecret),
		dtls.WithInsecureSkipVerify(true), // no authority: verifyKey is the check
		dtls.WithVerifyConnection(s.verifyKey),
		dtls.WithFlightInterval(flightInterval),
		dtls.WithDisableRetransmitBackoff(true),
		dtls.WithReplayProtectionWindow(replayWindow),
		dtls.WithLoggerFactory(pionLog{log: s.transport.log}),
	}, more...)
	if s.dialler {
		opts := make([]dtls.ClientOption, len(common))
		for i, o := range common {
			opts[i] = o
		}
		return dtls.ClientWithOptions(records, records.local, opts...)
	}
	opts := []dtls.ServerOption{
		dtls.WithClientAuth(dtls.RequireAnyClientCert),
		dtls.WithInsecureSkipVerifyHello(true), // ICE has verified the address
	}
	for _, o := range common {
		opts = append(opts, o)
	}
	return dtls.ServerWithOptions(records, records.local, opts...)
}

func (s *session) connectionID() []byte { return binary.BigEndian.AppendUint32(nil, s.cid) }

// verifyKey is called by both ends' handshakes when the other end has proved to
// hold the key of its certificate.
func (s *session) verifyKey(state *dtls.State) error {
	if len(state.PeerCertificates) > 0 {
		spki, err := certificateKey(state.PeerCertificates[0])
		if err == nil && overlay.KeyID(spki) == s.peer {
			return nil
		}
	}
	s.wrongKey.Store(true)
	return overlay.ErrWrongPeer
}

// close frees the session. It may be called several times, by several goroutines.
func (s *session) close() {
	s.closeOnce.Do(func() {
		s.transport.socket.remove(s)
		s.mu.Lock()
		s.closed = true
		list := slices.Collect(maps.Keys(s.generations))
		for _, g := range list {
			for _, timer := range []*time.Timer{g.timer, g.spare, g.idle} {
				if timer != nil {
					timer.Stop()
				}
			}
		}
		s.mu.Unlock()
		for _, g := range list {
			g.close()
		}
		_ = s.records.Close()
	})
}
