package icedtls

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/ice/v4"

	"github.com/viasnet/vias/overlay"
)

const (
	stunQueue = 64
	dtlsQueue = 1024
	// checkInterval paces ICE's checks until a pair works; with maxChecks a pair
	// is tried for 15 s, longer than any Dial.
	checkInterval = 100 * time.Millisecond
	maxChecks     = 150
	// consentInterval is how often ICE checks the selected pair afterwards.
	consentInterval = 2 * time.Second
	// flightInterval is when DTLS sends a flight again, without back-off: a
	// handshake has a few seconds in all, and is a few datagrams.
	flightInterval = 300 * time.Millisecond
	// handshakeMTU holds the handshake's datagrams on any path.
	handshakeMTU = 1200
	replayWindow = 1024
)

// session is one attempt at a Link and, when it succeeds, what the Link stands on:
// an ICE agent and a DTLS association.
type session struct {
	transport *Transport
	id        sessionID
	peer      overlay.PeerID
	dialler   bool
	told      bool // the offer has our candidates: the peer was admitted before it answered

	// Fixed by start; ufrag, cid and addrs belong to the socket's tables.
	agent   *ice.Agent
	ufrag   string
	pwd     string
	cid     uint32
	addrs   []netip.AddrPort
	offered []candidate

	stun    map[netip.Addr]*packetConn // by local address
	records *packetConn
	sources sources
	path    atomic.Pointer[overlay.Path]

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
	return &session{
		transport: t, id: id, peer: peer, dialler: dialler,
		stun:     map[netip.Addr]*packetConn{},
		sources:  sources{socket: t.socket, known: map[netip.Addr]netip.Addr{}},
		repeats:  newBucket(10, 20), // a flight is a few datagrams, every flightInterval
		answers:  make(chan *message, 1),
		impostor: make(chan struct{}),
		done:     make(chan struct{}),
	}
}

// start makes the agent and gathers candidates.
func (s *session) start(ctx context.Context) error {
	t := s.transport
	local, err := t.socket.localAddrs(&t.config)
	if err != nil {
		return err
	}
	if len(local) == 0 {
		return errors.New("no address to offer")
	}
	types := []ice.NetworkType{ice.NetworkTypeUDP4}
	if t.socket.addr.Addr().Is6() {
		types = append(types, ice.NetworkTypeUDP6)
	}
	s.agent, err = ice.NewAgentWithOptions(
		ice.WithNetworkTypes(types),
		ice.WithCandidateTypes([]ice.CandidateType{ice.CandidateTypeHost}),
		ice.WithMulticastDNSMode(ice.MulticastDNSModeDisabled),
		ice.WithCheckInterval(checkInterval),
		ice.WithMaxBindingRequests(maxChecks),
		ice.WithKeepaliveInterval(consentInterval),
		ice.WithDisconnectedTimeout(0), // liveness is the Link's own
		ice.WithFailedTimeout(0),
		ice.WithLoggerFactory(pionLog{log: t.log}),
	)
	if err != nil {
		return fmt.Errorf("ICE agent: %w", err)
	}
	if s.ufrag, s.pwd, err = s.agent.GetLocalUserCredentials(); err != nil {
		return fmt.Errorf("ICE agent: %w", err)
	}
	s.records = newPacketConn(t.socket.addr, dtlsQueue, t.socket.pool, &t.dropped, s.sendRecord)
	for _, a := range local {
		if err := s.addLocal(a); err != nil {
			return err
		}
	}
	t.socket.add(s, t.random)
	for _, a := range t.socket.mapped.get(ctx) {
		if usable(a.Addr(), t.config.IncludeLoopback) {
			s.offer(candidateReflexive, a, reflexivePriority)
		}
	}
	return s.agent.OnSelectedCandidatePairChange(s.pairSelected)
}

// reflexivePriority is RFC 8445, section 5.1.2.1, with type preference 100. The
// agent itself need not know of the candidate: its base is a host candidate.
const reflexivePriority = 100<<24 | 65535<<8 | 255

// addLocal gives the agent a host candidate.
func (s *session) addLocal(a netip.AddrPort) error {
	c, err := ice.NewCandidateHost(&ice.CandidateHostConfig{
		Network: "udp", Address: a.Addr().String(), Port: int(a.Port()), Component: ice.ComponentRTP,
	})
	if err != nil {
		return fmt.Errorf("candidate %s: %w", a, err)
	}
	t := s.transport
	conn := newPacketConn(a, stunQueue, t.socket.pool, &t.dropped, s.sendSTUN(a.Addr()))
	s.stun[a.Addr()] = conn
	if err := s.agent.AddVirtualCandidate(c, conn); err != nil {
		return fmt.Errorf("candidate %s: %w", a, err)
	}
	s.offer(candidateHost, a, c.Priority())
	return nil
}

func (s *session) offer(kind uint8, a netip.AddrPort, priority uint32) {
	if len(s.offered) < maxCandidates {
		s.offered = append(s.offered, candidate{Kind: kind, Addr: a.Addr().AsSlice(), Port: a.Port(), Priority: priority})
	}
}

// sendSTUN is what the candidate of a local address writes with. What the kernel
// would send from another address is not sent: that address has its own candidate.
func (s *session) sendSTUN(local netip.Addr) func([]byte, netip.AddrPort) (int, error) {
	return func(b []byte, to netip.AddrPort) (int, error) {
		to = unmap(to)
		if s.sources.of(to) != local {
			return len(b), nil
		}
		s.transport.socket.meet(s, to)
		return s.transport.socket.send(b, to)
	}
}

// sendRecord sends a DTLS record where ICE says; until ICE knows, it is lost.
func (s *session) sendRecord(b []byte, _ netip.AddrPort) (int, error) {
	p := s.path.Load()
	if p == nil {
		return len(b), nil
	}
	return s.transport.socket.send(b, p.Remote)
}

// putSTUN takes b over; it is called by the socket's reader.
func (s *session) putSTUN(b *buffer) bool {
	c := s.stun[s.sources.of(b.from)]
	if c == nil {
		return false
	}
	c.put(b)
	return true
}

// putDTLS takes b over; it is called by the socket's reader. false: b is not taken,
// since it has plaintext that could only do harm.
func (s *session) putDTLS(b *buffer) bool {
	if s.complete.Load() {
		switch plaintextIn(b.bytes()) {
		case plainBad:
			return false
		case plainRepeat: // pion answers with a flight, so a stranger must not ask often
			if !s.repeats.take() {
				return false
			}
		}
	}
	s.records.put(b)
	return true
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

// pairSelected is called by the agent whenever the path changes.
func (s *session) pairSelected(local, remote ice.Candidate) {
	ip, err := netip.ParseAddr(remote.Address())
	if err != nil {
		return
	}
	to := netip.AddrPortFrom(ip.Unmap(), uint16(remote.Port()))
	kind := overlay.PathHost
	for _, c := range []ice.Candidate{local, remote} {
		if c.Type() != ice.CandidateTypeHost {
			kind = overlay.PathReflexive
		}
	}
	s.path.Store(&overlay.Path{
		Kind:   kind,
		Local:  netip.AddrPortFrom(s.sources.of(to), s.transport.socket.addr.Port()),
		Remote: to,
		MTU:    datagramMTU(s.transport.config.UnderlayMTU, to.Addr()),
	})
}

// establish turns what the peer offered or answered into a Link.
func (s *session) establish(ctx context.Context, remote *message) (*link, error) {
	for _, c := range remoteCandidates(remote.Candidates, &s.transport.config) {
		if err := s.agent.AddRemoteCandidate(c); err != nil {
			return nil, fmt.Errorf("remote candidate: %w", err)
		}
	}
	connect := s.agent.Accept
	if s.dialler {
		connect = s.agent.Dial
	}
	if _, err := connect(ctx, remote.Ufrag, remote.Pwd); err != nil {
		return nil, fmt.Errorf("no pair of addresses works: %w", err)
	}
	pair, err := s.agent.GetSelectedCandidatePair()
	if err != nil || pair == nil {
		return nil, errors.New("no pair of addresses was selected")
	}
	s.pairSelected(pair.Local, pair.Remote)
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
		if s.agent != nil {
			_ = s.agent.GracefulClose()
		}
		if s.records != nil {
			_ = s.records.Close()
		}
		for _, c := range s.stun {
			_ = c.Close()
		}
	})
}
