package bypass

import (
	"slices"
	"time"

	"github.com/viasnet/vias/overlay"
)

// peer is another node of one Network, as the loop knows it, and its path of one family
// (family.go).
type peer struct {
	member  *Member
	id      overlay.PeerID
	family  Family
	number  uint32 // of its leases
	invited bool   // an IPv6 path is to be proven though no workload of ours is known to need it
	linked  bool   // there is a control session
	gone    bool   // removed: dropped with its last flow, unless it links again
	epoch   uint64 // its run; 0 = not known
	proof   proof
	timer   time.Time // when the proof is due next, as last put into the timers
	kicked  time.Time // when it is kicked next, as last put into the timers

	// What its flows use: the addresses of the proof under which they began.
	pair     AddrPair
	hop      uint32
	flows    map[*entry]struct{}
	txns     map[uint64]*entry // by their IDs, while they run
	lastPair *AddrPair         // as last shared by what is shown of flows
	queue    moves             // wanted flows that wait for others to have moved
	live     map[Proto]int     // flows that have, or may have, rules
	leased   bool              // leases were ever set
	gates    map[Proto]gate
	guarded  AddrPair // of the last round that got so far
	looking  bool     // its address is being looked up
	eager    bool     // flows wait for the path to be seen to work again
	next     *message // what it said meanwhile

	health                       peerHealth
	rounds, told, heeded, logged pace // what it made us do

	// Which transactions are alive (resync.go).
	unsaid []uint64  // active ones that are still to be announced
	asked  time.Time // when we last asked for the peer's
}

func (l *loop) peer(m *Member, id overlay.PeerID, f Family) *peer {
	k := peerKey{m, id, f}
	p := l.peers[k]
	if p == nil {
		l.base.lastPeer++
		p = &peer{member: m, id: id, family: f, number: l.base.lastPeer, live: make(map[Proto]int), gates: make(map[Proto]gate), flows: make(map[*entry]struct{}), txns: make(map[uint64]*entry)}
		p.proof = proof{cfg: proofConfig{
			self: m.cfg.Self, peer: id, network: m.cfg.Network, epoch: l.epoch,
			trust: &l.cfg.Trust, lease: l.cfg.Lease, mtu: m.cfg.MTU, ports: l.ports, ruleID: l.ruleID, draw: l.draw,
			taken: func(port uint16) bool { return l.listens(p, port) },
		}}
		if o := l.other(p); o != nil {
			p.linked, p.gone, p.epoch = o.linked, o.gone, o.epoch
		}
		l.peers[k] = p
	}
	return p
}

// listens tells whether another peer than p is probed at port, or was just now.
func (l *loop) listens(p *peer, port uint16) bool {
	for _, q := range l.peers {
		if q != p && slices.ContainsFunc(q.proof.installed, func(r Rule) bool { return r.Local.Port() == port }) {
			return true
		}
	}
	return false
}

// busy tells whether flows depend on the path.
func (p *peer) busy() bool {
	for _, n := range p.live {
		if n > 0 {
			return true
		}
	}
	return false
}

// unbinding tells whether outbound rules are on their way out.
func (p *peer) unbinding() bool {
	for e := range p.flows {
		if e.t.phase == phaseUnbinding {
			return true
		}
	}
	return false
}

// guard is the pair between which packets to reserved ports may be in flight. It is
// guarded as long as the peer is known: late probes are no business of the host's
// stack either.
func (p *peer) guard() (AddrPair, bool) {
	if p.proof.remote.IsValid() && p.proof.local.IsValid() && !p.busy() {
		p.guarded = AddrPair{p.proof.local, p.proof.remote}
	}
	return p.guarded, p.guarded.Remote.IsValid()
}

func (l *loop) linkUp(m *Member, id overlay.PeerID) {
	now := time.Now()
	for _, f := range families {
		if l.wants(m, f) || l.peers[peerKey{m, id, f}] != nil {
			l.pathUp(l.peer(m, id, f), now)
		}
	}
}

// pathUp: there is a new link to the peer.
func (l *loop) pathUp(p *peer, now time.Time) {
	p.linked, p.gone, p.unsaid, p.asked, p.invited = true, false, nil, time.Time{}, false
	for _, e := range sorted(p.flows) {
		l.step(e, input{event: evLinkUp}, now)
	}
	p.proof.again(now)
	l.announce(p, now)
	l.kick(p, now)
}

// linkDown: flows that are leaving can no longer be told about.
func (l *loop) linkDown(p *peer, now time.Time) {
	p.linked, p.unsaid = false, nil
	for e := range p.flows {
		if e.t.untold() {
			l.sever(p, ReasonLinkDown, now)
			return
		}
	}
}

// known tells whether p is still a peer.
func (l *loop) known(p *peer) bool { return l.peers[p.key()] == p }

// leases are what the peer's rules hang on. Without a fresh proof nothing goes out;
// what the peer may still send comes in.
func (l *loop) leases(p *peer) []Lease {
	var out []Lease
	for _, proto := range []Proto{TCP, UDP} {
		if p.live[proto] == 0 {
			continue
		}
		p.leased = true
		ls := Lease{Peer: p.number, Proto: proto, Local: p.pair.Local, Remote: p.pair.Remote, Inbound: l.cfg.Lease}
		if p.proof.fresh() {
			ls.Outbound = outboundLease(l.cfg.Lease)
		}
		out = append(out, ls)
	}
	return out
}

// gate is until when, at least, a peer's gates of one protocol are open, by our clock.
type gate struct{ out, in time.Time }

// A peer's outbound gate must have run out before our inbound one does. It renews it
// while we answer its pings, so we stop that (overdue) as long before our inbound gate
// runs out as it takes the peer to notice, and its outbound gate to run out.

// outboundLease is how long an outbound gate stays open without renewal.
func outboundLease(lease time.Duration) time.Duration {
	return (lease * 2 / 5).Truncate(time.Second)
}

// renewEvery is how often leases are renewed.
func renewEvery(lease time.Duration) time.Duration { return lease / 6 }

// overdue tells whether the switch has not confirmed the peer's inbound gates for so
// long that the peer must not be let go on.
func (l *loop) overdue(p *peer, now time.Time) bool {
	lease := l.longestLease(p)
	need := outboundLease(lease) + proofStale + proofPing + renewEvery(l.cfg.Lease)
	for proto, g := range p.gates {
		if p.live[proto] > 0 && g.in.Sub(now) < need {
			return true
		}
	}
	return false
}

// longestLease is that of the two ends.
func (l *loop) longestLease(p *peer) time.Duration { return max(l.cfg.Lease, p.proof.peerLease) }

// renewPeer renews leases and Listen rules: a constant number of rules.
func (l *loop) renewPeer(p *peer, now time.Time) {
	if p.proof.fresh() && l.overdue(p, now) {
		l.prove(p, func() []proofAction { return p.proof.fail(ReasonSwitchDown, now) })
	}
	c := Change{Leases: l.leases(p)}
	if p.proof.fresh() {
		c.Add = p.proof.listenRules()
	}
	if len(c.Leases)+len(c.Add) > 0 {
		l.enqueue(c, l.leased(p, c, now))
	}
}

// leased notes, when c is confirmed, how long its gates stay open.
func (l *loop) leased(p *peer, c Change, sent time.Time) func(error) {
	until := func(d time.Duration) (t time.Time) {
		if d > 0 {
			t = sent.Add(d)
		}
		return t
	}
	return func(err error) {
		for _, e := range c.Leases {
			if p.live[e.Proto] == 0 {
				continue // its last flow went meanwhile
			}
			g, was := gate{until(e.Outbound), until(e.Inbound)}, p.gates[e.Proto]
			switch {
			case err == nil:
				p.gates[e.Proto] = g
			case unsure(err):
				p.gates[e.Proto] = gate{earlier(g.out, was.out), earlier(g.in, was.in)}
			}
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// gated tells whether the peer's gates stay open for long enough to add a flow without
// renewing them.
func (l *loop) gated(p *peer, proto Proto, now time.Time) bool {
	g, out := p.gates[proto], outboundLease(l.cfg.Lease)
	return g.out.Sub(now) >= out/2 && g.in.Sub(now) >= l.cfg.Lease-out/2
}

// reset: the peer runs anew, and knows nothing of what was.
func (l *loop) reset(p *peer, epoch uint64, now time.Time) {
	if p.epoch != 0 {
		if p.logged.allow(now, logEvery, logBurst) {
			l.log.Info("bypass: peer restarted", "peer", p.id.Short())
		}
		for _, e := range sorted(p.flows) {
			l.step(e, input{event: evPeerReset}, now)
		}
		if p.proof.phase != proofNone {
			l.prove(p, func() []proofAction { return p.proof.failQuietly(ReasonPeerRestarted, now) })
			p.proof.again(now)
		}
	}
	p.epoch = epoch
	l.kick(p, now)
}

// dropGone drops a removed peer that has no flows any more.
func (l *loop) dropGone(p *peer) {
	if p.gone && !p.busy() && l.known(p) {
		l.drop(p)
	}
}

// drop forgets a peer that has no flows left.
func (l *loop) drop(p *peer) {
	if p.proof.phase != proofNone && p.proof.phase != proofFailed {
		l.proofDo(p, p.proof.fail(ReasonNoPeer, time.Now()))
	}
	l.unlisten(p)
	if p.leased {
		l.endLeases(p)
	}
	if p.guarded.Remote.IsValid() {
		l.base.late[p.guarded] = time.Now().Add(l.cfg.Lease)
	}
	delete(l.peers, p.key())
	l.setBase(nil)
}

// endLeases closes p's gates. Other peers between the same two addresses, of other
// Networks, come in by the same gates: they open them again in the same change.
func (l *loop) endLeases(p *peer) {
	var c Change
	for _, proto := range []Proto{TCP, UDP} {
		c.Leases = append(c.Leases, Lease{Peer: p.number, Proto: proto, Local: p.pair.Local, Remote: p.pair.Remote})
	}
	notes, now := []func(error){}, time.Now()
	for _, q := range l.sortedPeers() {
		if q != p && q.pair == p.pair && q.busy() {
			theirs := l.leases(q)
			c.Leases = append(c.Leases, theirs...)
			notes = append(notes, l.leased(q, Change{Leases: theirs}, now))
		}
	}
	l.enqueue(c, func(err error) { // if it failed they end by themselves
		for _, note := range notes {
			note(err)
		}
	})
}
