package bypass

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/viasnet/vias/overlay"
)

// A proof shows that two hosts reach each other's underlay addresses directly:
// untranslated, over few enough routers, fast enough, at full size, over UDP and
// over TCP (a real handshake), in both directions, each on fresh ports. It does not
// show that the path is private: that is what Trust is for.
//
//	lower PeerID                             higher PeerID
//	asked ──── Challenge ──────────────────► (checks trust and route, listens)
//	  ◄─────────────────────── Response ──── listening
//	(checks, listens) ──── Ready ──────────► probing
//	probing  ◄═══ probes on the path ══════► probing
//	  ◄──────────────────────── Result ────► fresh
//
// Every end is prober of one half (from its port 0 to the peer's port 1) and
// answers the other. While fresh, both keep pinging on the same ports; when either
// protocol falls silent the proof has failed. A failed proof is tried again with
// back-off.
type proof struct {
	cfg   proofConfig
	phase proofPhase
	round uint64

	nonce         []byte        // ours
	peerLease     time.Duration // of the peer's host
	key           probeKey
	local, remote netip.Addr
	route         Route
	mine, theirs  []uint16
	listen        [4]uint32 // rule IDs, the same in every round
	installed     []Rule    // Listen rules that may be in the switch

	half   [2]half // our probes, by proto: UDP, TCP
	peer   bool    // the peer's Result was good
	heard  bool    // a probe of the peer's own came by the path
	reset  bool    // a host's stack, somebody's, answered our SYN
	seen   Reason  // what the peer's probes showed to be wrong
	mtu    int     // proven
	tries  int     // failed rounds in a row
	reason Reason
	since  time.Time

	deadline time.Time // of the round; or, failed, when to try again
	nextPing time.Time
	pinged   bool      // at the last tick
	measures int       // full-size probes, and a look at what came of them, that are due (icmp.go)
	measured time.Time // when the last of them were over
	slow     time.Time // first ping that took too long, with no better one since; zero = none
}

// half is the progress of our probes over one protocol.
type half struct {
	proto    Proto
	sent     int          // SYNs and requests, by the clock
	n        uint32       // of the last request
	sentAt   [8]time.Time // of the last requests, by n
	ok       bool
	size     int // longest answered request: what the path takes
	rtt      time.Duration
	waiting  time.Time     // first ping without an answer since; zero = none
	answered time.Time     // when the last answer came
	starved  time.Duration // of waiting, in which we did not look
	seq, num uint32        // TCP: next to send, next expected
	open     bool          // TCP: SYN-ACK seen
	full     int           // requests of full size sent
	next     time.Time     // next (re)transmission
}

type proofConfig struct {
	self, peer overlay.PeerID
	network    string
	epoch      uint64
	trust      *Trust
	lease      time.Duration
	mtu        int // that the path must take
	ports      *ports
	taken      func(port uint16) bool // another proof listens there
	ruleID     func() uint32
	draw       func() uint64
}

type proofPhase uint8

const (
	proofNone      proofPhase = iota // nothing is known; nobody asked
	proofAsked                       // lower: Challenge sent
	proofListening                   // Listen rules are being set, or Ready is awaited
	proofProbing
	proofFresh
	proofFailed
)

func (p proofPhase) String() string {
	return [...]string{"none", "asked", "listening", "probing", "fresh", "failed"}[p]
}

// Times of a proof.
const (
	proofRound    = 3 * time.Second        // for one round, all in all
	proofResend   = 150 * time.Millisecond // between two probes
	proofProbes   = 6                      // probes a half
	proofFull     = 3                      // full size, of those that are not SYNs; then small ones
	proofPing     = 250 * time.Millisecond // while bypasses depend on it, or one is unanswered
	proofIdlePing = 5 * time.Second        // otherwise
	// proofStale is how long pings may go unanswered. A guest's TCP sends again about
	// 0.2, 0.6, 1.4 and 3 s after its path broke: by the third time it must be on the
	// overlay, for traffic to flow again within 3 s.
	proofStale = time.Second
	// proofExcuse is how much longer, while this process is too busy to look.
	proofExcuse = 3 * time.Second
	// proofSlow is how long all answers may be late. Load makes single ones late.
	proofSlow     = 2500 * time.Millisecond
	proofRecent   = time.Second // an answer so old still allows a bypass to begin
	proofRetryMin = time.Second
	proofRetryMax = 15 * time.Second
	proofPingSize = 96
	// proofRetryFamily is for a path of which one end has no address: it says so when it
	// has one.
	proofRetryFamily = time.Minute
)

// proofAction is what a proof wants done: tell, emit or apply.
type proofAction interface{ isProofAction() }

type (
	tell  struct{ message message } // over the link
	emit  struct{ frame []byte }    // out of the uplink
	apply struct{ change Change }   // of the Listen rules
)

func (tell) isProofAction()  {}
func (emit) isProofAction()  {}
func (apply) isProofAction() {}

func (p *proof) lower() bool { return p.cfg.self.Compare(p.cfg.peer) < 0 }

// fresh tells whether bypasses may depend on the path.
func (p *proof) fresh() bool { return p.phase == proofFresh }

// ask starts a round from the lower end.
func (p *proof) ask(local netip.Addr, mtu int, now time.Time) []proofAction {
	p.begin(p.cfg.draw(), now)
	p.phase, p.local = proofAsked, local
	return []proofAction{tell{message{Kind: msgChallenge, ID: p.round, Epoch: p.cfg.epoch, Nonce: p.nonce,
		Addr: local, Domain: p.cfg.trust.Domain, MTU: mtu, Lease: int(p.cfg.lease / time.Second)}}}
}

func (p *proof) begin(round uint64, now time.Time) {
	phase := p.phase
	*p = proof{cfg: p.cfg, tries: p.tries, listen: p.listen, installed: p.installed, reason: p.reason, peerLease: p.peerLease,
		round: round, since: now, deadline: now.Add(proofRound)}
	if phase != proofFailed {
		p.reason = ReasonProving
	}
	p.nonce = make([]byte, 32)
	_, _ = rand.Read(p.nonce) // never fails (crypto/rand)
	p.half = [2]half{{proto: UDP}, {proto: TCP}}
}

// challenged answers a Challenge (higher end) whose sender's address we reach by route.
func (p *proof) challenged(m message, route Route, now time.Time) []proofAction {
	p.begin(m.ID, now)
	if r := p.accept(m, route); r != ReasonNone {
		return p.fail(r, now)
	}
	return p.listenNow()
}

// responded goes on with a Response (lower end).
func (p *proof) responded(m message, route Route, now time.Time) []proofAction {
	if p.phase != proofAsked || m.ID != p.round {
		return nil
	}
	if r := p.accept(m, route); r != ReasonNone {
		return p.fail(r, now)
	}
	if !p.probePorts(m.Ports) {
		return p.fail(ReasonPortRange, now)
	}
	p.theirs = m.Ports
	return p.listenNow()
}

// accept checks what the peer says of itself, and derives the key.
func (p *proof) accept(m message, route Route) Reason {
	if m.Domain != p.cfg.trust.Domain {
		return ReasonDomain
	}
	if r := p.cfg.trust.check(m.Addr, route); r != ReasonNone {
		return r
	}
	if p.local.IsValid() && p.local != route.Local || FamilyOf(route.Local) != FamilyOf(m.Addr) {
		return ReasonNoRoute // the way back is not from the address that we offered
	}
	p.local, p.remote, p.route = route.Local, m.Addr, route
	p.peerLease = time.Duration(m.Lease) * time.Second
	p.mtu = min(route.MTU, m.MTU)
	p.mine = p.cfg.ports.probe(2, p.cfg.taken)
	us := proofEnd{p.cfg.self, p.cfg.epoch, p.local, p.nonce}
	them := proofEnd{p.cfg.peer, m.Epoch, m.Addr, m.Nonce}
	if !p.lower() {
		us, them = them, us
	}
	k, err := newProbeKey(us, them, p.cfg.network, m.Domain)
	if err != nil || subtle.ConstantTimeCompare(m.Nonce, p.nonce) == 1 {
		return ReasonPeerFailed
	}
	p.key = k
	return ReasonNone
}

// listenNow replaces an earlier round's Listen rules, if there are any: their IDs
// are the same.
func (p *proof) listenNow() []proofAction {
	p.phase, p.installed = proofListening, p.listenRules()
	return []proofAction{apply{Change{Add: p.installed}}}
}

// anybody may have sent a probe to an address: its MAC tells who did.
func anybody(to netip.Addr) netip.AddrPort {
	if FamilyOf(to) == IPv6 {
		return netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
}

// listenRules bring the peer's probes, and answers to ours, up to us.
func (p *proof) listenRules() []Rule {
	rules := make([]Rule, 0, len(p.listen))
	for i := range p.listen {
		if p.listen[i] == 0 {
			p.listen[i] = p.cfg.ruleID()
		}
		rules = append(rules, Rule{ID: p.listen[i], Direction: Listen, Flow: Flow{Proto: []Proto{UDP, TCP}[i%2]},
			Local: netip.AddrPortFrom(p.local, p.mine[i/2]), Remote: anybody(p.local), Hard: p.cfg.lease})
	}
	return rules
}

// listens: the Listen rules are in the switch.
func (p *proof) listens(now time.Time) []proofAction {
	if p.phase != proofListening {
		return nil
	}
	if p.lower() {
		p.phase = proofProbing
		return append([]proofAction{tell{message{Kind: msgReady, ID: p.round, Ports: p.mine}}}, p.tick(now, false)...)
	}
	return []proofAction{tell{message{Kind: msgResponse, ID: p.round, Epoch: p.cfg.epoch, Nonce: p.nonce, Addr: p.local,
		Ports: p.mine, Domain: p.cfg.trust.Domain, MTU: p.route.MTU, Lease: int(p.cfg.lease / time.Second)}}}
}

// readied: the lower end listens too (higher end).
func (p *proof) readied(m message, now time.Time) []proofAction {
	if p.phase != proofListening || p.lower() || m.ID != p.round {
		return nil
	}
	if !p.probePorts(m.Ports) {
		return p.fail(ReasonPortRange, now)
	}
	p.theirs, p.phase = m.Ports, proofProbing
	return p.tick(now, false)
}

// probePorts: we probe no port at a peer's word that is not set aside for it.
func (p *proof) probePorts(ports []uint16) bool {
	return len(ports) == 2 && ports[0] != ports[1] && p.cfg.ports.probePort(ports[0]) && p.cfg.ports.probePort(ports[1])
}

// resulted takes the peer's findings.
func (p *proof) resulted(m message, now time.Time) []proofAction {
	if m.ID != p.round || p.phase != proofProbing {
		return nil
	}
	if m.Reason != ReasonNone {
		return p.failQuietly(m.Reason, now)
	}
	p.mtu = min(p.mtu, max(m.MTU, 0))
	p.peer = true
	return p.conclude(now)
}

// refused: the peer will not go on with the round; or, while we know of none, with any.
func (p *proof) refused(m message, now time.Time) []proofAction {
	if m.ID != p.round && p.phase != proofNone && p.phase != proofFailed {
		return nil
	}
	if p.phase == proofFailed && m.ID == p.round { // it failed at both ends, and was counted
		p.reason = refusal(m.Reason)
		return nil
	}
	return p.failQuietly(refusal(m.Reason), now)
}

// conclude makes the proof fresh when both ends' halves are good. A path that is too
// narrow, or that just lost what was of full size, is tried again.
func (p *proof) conclude(now time.Time) []proofAction {
	switch {
	case p.phase != proofProbing || !p.peer || !p.half[0].ok || !p.half[1].ok:
		return nil
	case p.mtu < p.cfg.mtu:
		return p.fail(ReasonMTU, now)
	}
	p.phase, p.reason, p.tries, p.since = proofFresh, ReasonNone, 0, now
	p.deadline, p.nextPing = time.Time{}, now.Add(proofPing)
	return nil
}

// fail ends the round and tells the peer why.
func (p *proof) fail(r Reason, now time.Time) []proofAction {
	return append(p.failQuietly(r, now), tell{message{Kind: msgRefuse, ID: p.round, Reason: r}})
}

// restart ends the round for another one. The lower end's Challenge says so; the higher
// one must tell the peer, who would take its own proof for fresh until pings go
// unanswered, and they may have become seldom.
func (p *proof) restart(r Reason, now time.Time) []proofAction {
	if p.lower() {
		return p.failQuietly(r, now)
	}
	return p.fail(r, now)
}

// failQuietly ends the round without a word. The Listen rules stay for a drain, for
// probes in flight: they must not meet the host's stack. See unlisten.
func (p *proof) failQuietly(r Reason, now time.Time) []proofAction {
	if r == ReasonNone {
		r = ReasonPeerFailed
	}
	retry := min(proofRetryMin<<min(p.tries, 10), proofRetryMax)
	if r == ReasonFamily {
		retry = proofRetryFamily
	}
	if r == ReasonProving {
		retry = proofRetryMin // nothing is wrong with the path: the next round is waited for
	} else {
		p.tries++
	}
	p.phase, p.reason, p.since = proofFailed, r, now
	p.deadline = now.Add(retry)
	return nil
}

// again: there is a reason to look anew, at once and with short pauses.
func (p *proof) again(now time.Time) {
	if p.phase == proofFailed {
		p.deadline, p.tries = now, 0
	}
}

// due is when tick wants to be called next; zero = never.
func (p *proof) due() time.Time {
	switch p.phase {
	case proofAsked, proofListening:
		return p.deadline
	case proofProbing:
		t := p.deadline
		for i := range p.half {
			if h := &p.half[i]; !h.ok && h.next.Before(t) {
				t = h.next
			}
		}
		return t
	case proofFresh:
		return p.nextPing
	}
	return time.Time{}
}

func randomUint64() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return binary.BigEndian.Uint64(b[:])
}
