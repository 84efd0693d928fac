package icedtls

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/ice/v4"

	"github.com/viasnet/vias/overlay"
)

const (
	stunQueue = 64
	// checkInterval paces ICE's checks until a pair works; with maxChecks a pair
	// is tried for 15 s, longer than any Dial.
	checkInterval = 100 * time.Millisecond
	maxChecks     = 150
	// restTime is when an agent whose path is in use is closed: it has nothing more to do. Consent
	// to send, and keeping translations of addresses alive, is the Link's (mend.go): its pings are
	// authenticated as well, and come more often. Until then a peer whose handshake takes longer
	// may repeat what it sends by the addresses that the agent knows. One that has answered a ping has
	// its Link, so from then on it is soonTime: agents are a good part of what a new Link takes.
	restTime = 15 * time.Second
	soonTime = time.Second
	// How long ICE looks for something better than a pair of that kind. What is better and
	// takes longer is found by mend.
	reflexiveWait = 200 * time.Millisecond
	peerWait      = 250 * time.Millisecond
	relayWait     = 300 * time.Millisecond
)

// generation is one ICE session of a session (RFC 8445, section 9: a restart makes the
// next): an agent, its candidates and its checks. The path that it found is in use until a
// later generation has one, so nothing is ever left before there is something to go to.
type generation struct {
	session *session
	number  uint32 // 0 for the first; both ends' are alike

	agent   *ice.Agent // nil when it rests
	ufrag   string
	pwd     string
	addrs   []netip.AddrPort // guarded by the socket's mu
	offered []candidate
	stun    map[netip.Addr]*packetConn // by local address
	relays  []*relay
	sources sources

	// Guarded by the session's mu: what closes it, once another is in use, what gives
	// back the relays that it does not use, and what closes the agent.
	timer, spare, idle *time.Timer
	met                bool // see session.met

	agentOnce sync.Once
	closeOnce sync.Once
}

// newGeneration makes an agent and gathers candidates; relays: those of TURN servers too. The session
// closes it from then on, and not before: whoever makes it has it alone until it is whole.
func (s *session) newGeneration(ctx context.Context, number uint32, relays bool) (*generation, error) {
	t := s.transport
	g := &generation{
		session: s, number: number,
		stun:    map[netip.Addr]*packetConn{},
		sources: sources{socket: t.socket, known: map[netip.Addr]netip.Addr{}},
	}
	err := g.gather(ctx, relays)
	if err == nil && !s.own(g) {
		err = overlay.ErrClosed
	}
	if err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

func (g *generation) gather(ctx context.Context, relays bool) error {
	t := g.session.transport
	local, err := t.socket.localAddrs(&t.config)
	if err != nil {
		return err
	}
	if len(local) == 0 {
		return errNoAddress
	}
	if err := g.newAgent(); err != nil {
		return fmt.Errorf("ICE agent: %w", err)
	}
	for _, a := range local {
		if err := g.addLocal(a); err != nil {
			return err
		}
	}
	t.socket.addGeneration(g)
	var wg sync.WaitGroup
	if relays {
		wg.Go(func() { g.relays = allocateAll(ctx, t) })
	}
	for _, a := range t.socket.mapped.get(ctx) {
		if usable(a.Addr(), t.config.IncludeLoopback) {
			g.offer(candidateReflexive, a, reflexivePriority)
		}
	}
	wg.Wait()
	for _, r := range g.relays {
		if err := g.addRelay(r); err != nil {
			return err
		}
	}
	return g.agent.OnSelectedCandidatePairChange(func(local, remote ice.Candidate) {
		g.session.selected(g, local, remote)
	})
}

// errNoAddress: the socket can be reached at no address now.
var errNoAddress = errors.New("no address to offer")

func (g *generation) newAgent() error {
	t := g.session.transport
	types := []ice.NetworkType{ice.NetworkTypeUDP4}
	if t.socket.addr.Addr().Is6() {
		types = append(types, ice.NetworkTypeUDP6)
	}
	var err error
	g.agent, err = ice.NewAgentWithOptions(
		ice.WithNetworkTypes(types),
		ice.WithCandidateTypes([]ice.CandidateType{ice.CandidateTypeHost, ice.CandidateTypeRelay}),
		ice.WithMulticastDNSMode(ice.MulticastDNSModeDisabled),
		ice.WithCheckInterval(checkInterval),
		ice.WithMaxBindingRequests(maxChecks),
		ice.WithKeepaliveInterval(0), // see restTime
		ice.WithSrflxAcceptanceMinWait(reflexiveWait),
		ice.WithPrflxAcceptanceMinWait(peerWait),
		ice.WithRelayAcceptanceMinWait(relayWait),
		ice.WithDisconnectedTimeout(0), // liveness is the Link's own
		ice.WithFailedTimeout(0),
		ice.WithLoggerFactory(pionLog{log: t.log}),
		ice.WithNet(t.net),
	)
	if err != nil {
		return err
	}
	g.ufrag, g.pwd, err = g.agent.GetLocalUserCredentials()
	return err
}

// reflexivePriority is RFC 8445, section 5.1.2.1, with type preference 100. The agent itself
// need not know of a reflexive candidate: its base is a host candidate.
const reflexivePriority = 100<<24 | 65535<<8 | 255

// addLocal gives the agent a host candidate.
func (g *generation) addLocal(a netip.AddrPort) error {
	c, err := ice.NewCandidateHost(&ice.CandidateHostConfig{
		Network: "udp", Address: a.Addr().String(), Port: int(a.Port()), Component: ice.ComponentRTP,
	})
	if err != nil {
		return fmt.Errorf("candidate %s: %w", a, err)
	}
	t := g.session.transport
	conn := newPacketConn(a, stunQueue, t.socket.pool, t.drops, g.sendSTUN(a.Addr()))
	g.stun[a.Addr()] = conn
	if err := g.agent.AddVirtualCandidate(c, conn); err != nil {
		return fmt.Errorf("candidate %s: %w", a, err)
	}
	g.offer(candidateHost, a, c.Priority())
	return nil
}

func (g *generation) offer(kind uint8, a netip.AddrPort, priority uint32) {
	if len(g.offered) < maxCandidates {
		g.offered = append(g.offered, candidate{Kind: kind, Addr: a.Addr().AsSlice(), Port: a.Port(), Priority: priority})
	}
}

// sendSTUN is what the candidate of a local address writes with. What the kernel
// would send from another address is not sent: that address has its own candidate.
func (g *generation) sendSTUN(local netip.Addr) func([]byte, netip.AddrPort) (int, error) {
	return func(b []byte, to netip.AddrPort) (int, error) {
		to = unmap(to)
		if g.sources.of(to) != local {
			return len(b), nil
		}
		g.session.transport.socket.meet(g, to)
		return g.session.transport.socket.send(b, to)
	}
}

// putSTUN takes b over; it is called by the socket's reader.
func (g *generation) putSTUN(b *buffer) bool {
	c := g.stun[g.sources.of(b.from)]
	if c == nil {
		return false
	}
	c.put(b)
	return true
}

// connect finds a path to what the peer offered or answered; the session's dialler
// controls (RFC 8445, section 6.1.1).
func (g *generation) connect(ctx context.Context, remote *message) error {
	for _, c := range remoteCandidates(remote.Candidates, &g.session.transport.config) {
		if err := g.agent.AddRemoteCandidate(c); err != nil {
			return fmt.Errorf("remote candidate: %w", err)
		}
	}
	connect := g.agent.Accept
	if g.session.dialler {
		connect = g.agent.Dial
	}
	if _, err := connect(ctx, remote.Ufrag, remote.Pwd); err != nil {
		return fmt.Errorf("no pair of addresses works: %w", err)
	}
	return nil
}

// route is the path that two candidates are.
func (g *generation) route(local, remote ice.Candidate) *route {
	ip, err := netip.ParseAddr(remote.Address())
	if err != nil {
		return nil
	}
	t := g.session.transport
	to := netip.AddrPortFrom(ip.Unmap(), uint16(remote.Port()))
	r := &route{Path: overlay.Path{
		Kind:   overlay.PathHost,
		Local:  netip.AddrPortFrom(g.sources.of(to), t.socket.addr.Port()),
		Remote: to,
	}}
	for _, c := range []ice.Candidate{local, remote} {
		switch {
		case c.Type() == ice.CandidateTypeRelay:
			r.Kind = overlay.PathRelay
		case c.Type() != ice.CandidateTypeHost && r.Kind != overlay.PathRelay:
			r.Kind = overlay.PathReflexive
		}
	}
	r.limit(&t.config)
	for _, x := range g.relays {
		if local.Type() == ice.CandidateTypeRelay && x.is(local) {
			r.useRelay(x)
		}
	}
	return r
}

// freeRelays gives back the relays that the path does not go by.
func (g *generation) freeRelays() {
	used := g.session.path.Load().relay
	for _, r := range g.relays {
		if r != used {
			r.close()
		}
	}
}

// rest closes the agent, and leaves the path that it found. A relay's agent stays, since its
// candidate holds the relay.
func (g *generation) rest() {
	if len(g.relays) > 0 {
		return
	}
	g.session.transport.socket.removeGeneration(g)
	g.closeAgent()
	g.agent = nil // which is some KB; close does not look at it again, and others did so before it was in use
	for _, c := range g.stun {
		_ = c.Close()
	}
}

func (g *generation) closeAgent() {
	g.agentOnce.Do(func() {
		if g.agent != nil {
			_ = g.agent.GracefulClose()
		}
	})
}

// close frees the generation. It may be called several times, by several goroutines.
func (g *generation) close() {
	g.closeOnce.Do(func() {
		g.session.disown(g)
		g.session.transport.socket.removeGeneration(g)
		g.closeAgent()
		for _, c := range g.stun {
			_ = c.Close()
		}
		for _, r := range g.relays {
			r.close()
		}
	})
}
