package bypass

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/viasnet/vias/overlay"
)

// Member is one Network's share of a Host. All methods may be called by several
// goroutines; none but Attach, Detach, Inject and Leave blocks.
type Member struct {
	host   *Host
	loop   *loop
	cfg    MemberConfig
	policy atomic.Pointer[Policy] // holds nil for Never

	mu    sync.Mutex           // guards flows and inbox
	flows map[fiveTuple]*entry // the loop alone changes it, and may read it without mu
	inbox map[overlay.PeerID]*inbox

	// Owned by the loop.
	leaving chan struct{} // closed when the last flow has settled, after leaveAt
	leaveAt time.Time
	left    atomic.Bool   // Leave was called
	recheck atomic.Bool   // one waits
	gone    chan struct{} // closed when it is over
}

// Join makes a Network a member. The first member starts the host: it opens the
// datapath and clears away what an earlier run left. A switch that is away is no
// error; the host waits for it.
func (h *Host) Join(ctx context.Context, cfg MemberConfig) (*Member, error) {
	if cfg.Resolve == nil || cfg.Send == nil || cfg.Changed == nil || cfg.Self.IsZero() || cfg.MTU <= 0 {
		return nil, errors.New("bypass: a member needs Self, MTU, Resolve, Send and Changed")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.run == nil {
		run, err := h.start(ctx)
		if err != nil {
			return nil, err
		}
		h.run = run
	}
	h.used++
	m := &Member{host: h, loop: h.run, cfg: cfg, flows: make(map[fiveTuple]*entry), inbox: make(map[overlay.PeerID]*inbox), gone: make(chan struct{})}
	m.policy.Store(&cfg.Policy)
	m.loop.box.post(func() {
		m.loop.members[m], m.loop.ended = true, false
		m.loop.setBase(nil)
	})
	return m, nil
}

func (m *Member) policyNow() Policy { return *m.policy.Load() }

// LinkUp says that there is a new control session with peer; what was sent on an
// earlier one may be lost.
func (m *Member) LinkUp(peer overlay.PeerID) {
	m.post(func() { m.loop.linkUp(m, peer) })
}

// LinkDown says that the control session with peer ended. Working bypasses stay
// while their path is proven: a lost link is not a lost path.
func (m *Member) LinkDown(peer overlay.PeerID) {
	m.post(func() {
		for _, p := range m.loop.paths(m, peer) {
			m.loop.linkDown(p, time.Now())
		}
	})
}

// Forget drops a peer that was removed: its bypasses are taken down now.
func (m *Member) Forget(peer overlay.PeerID) {
	m.post(func() {
		l := m.loop
		for _, p := range l.paths(m, peer) {
			p.gone = true
			if p.proof.phase != proofNone && p.proof.phase != proofFailed {
				l.prove(p, func() []proofAction { return p.proof.fail(ReasonNoPeer, time.Now()) })
			}
			p.linked = false // the peer has been told
			l.dropGone(p)
		}
	})
}

// post queues a job of the loop's, unless the Member has left.
func (m *Member) post(job func()) {
	m.loop.box.post(func() {
		if m.loop.members[m] {
			job()
		}
	})
}

// inbox counts a peer's control messages that wait for the loop. It is the peer's
// alone: neither guests nor other peers can fill it.
type inbox struct {
	waiting int  // bytes, with perMessage for each
	lost    bool // one found no room
}

// maxInbox bounds what one peer can queue, in bytes: some 10,000 messages. What the
// two ends say while flows move is far below (pace.go); but flows leave as fast as the
// switch lets them.
const (
	maxInbox   = 2 << 20
	perMessage = 128
)

// Receive hands over a control message from peer. msg is the Member's. Of a peer that
// sends faster than messages are handled some are lost; what they said is put right
// afterwards.
func (m *Member) Receive(peer overlay.PeerID, msg []byte) {
	m.mu.Lock()
	in := m.inbox[peer]
	if in == nil {
		in = &inbox{}
		m.inbox[peer] = in
	}
	size := len(msg) + perMessage
	if in.waiting+size > maxInbox {
		in.lost = true
		m.mu.Unlock()
		return
	}
	in.waiting += size
	m.mu.Unlock()
	m.loop.box.post(func() {
		m.mu.Lock()
		in.waiting -= size
		again := in.lost && in.waiting == 0
		if again {
			in.lost = false
		}
		m.mu.Unlock()
		now := time.Now()
		m.loop.receive(m, peer, msg, now)
		for _, p := range m.loop.paths(m, peer) {
			if again {
				m.loop.askAlive(p, now)
				m.loop.announce(p, now)
			}
		}
	})
}

// SetPolicy replaces the policy; nil = Never. Live flows that it no longer allows
// leave the bypass now; those that it newly allows move when the Network asks again.
func (m *Member) SetPolicy(p Policy) {
	m.policy.Store(&p)
	m.post(func() { m.loop.policyChanged(m, time.Now()) })
}

func (l *loop) policyChanged(m *Member, now time.Time) {
	for _, e := range l.flowsOf(m) {
		v := Verdict{}
		if ends, ok := m.cfg.Resolve(e.flow()); ok {
			v = l.allows(m, e.flow(), ends, e.t.initiator || e.wanted)
		}
		switch {
		case !v.Bypass:
			e.wanted = false
			l.step(e, input{event: evLeave, reason: ReasonPolicy}, now)
			if e.t.phase == phaseOverlay {
				e.t.reason = ReasonPolicy
				l.publish(e, now)
			}
		case e.t.phase == phaseOverlay:
			e.retryAt, e.fails = 0, 0
		}
	}
	for _, p := range l.sortedPeers() {
		if p.member == m {
			l.kick(p, now)
		}
	}
}

// Attach makes a workload known to the switch and returns when it confirmed, or
// when ctx ends (the workload stays wanted then), or with ErrLeft when the Member
// leaves. Attaching the same Ofport again replaces it.
func (m *Member) Attach(ctx context.Context, w Workload) error {
	if m.left.Load() {
		return ErrLeft
	}
	done := make(chan struct{})
	m.post(func() {
		m.loop.base.workloads[w.Ofport] = ownedWorkload{w, m, &pace{}}
		m.loop.setBase(done)
		if w.speaks(IPv6) {
			m.loop.wake(m, time.Now())
		}
	})
	return m.confirmed(ctx, done)
}

// confirmed waits for the loop to close done.
func (m *Member) confirmed(ctx context.Context, done chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-m.gone:
		return ErrLeft
	case <-ctx.Done():
		return errors.Join(ErrSwitchDown, ctx.Err())
	}
}

// Detach takes down the workload's bypasses and forgets it; it returns as Attach does.
// Once it has returned nil no packet of an old flow comes out of the port: what is in
// flight is lost.
func (m *Member) Detach(ctx context.Context, ofport uint32) error {
	if m.left.Load() {
		return ErrLeft
	}
	done := make(chan struct{})
	m.post(func() {
		for _, e := range m.loop.flowsOf(m) {
			if e.t.phase != phaseOverlay && e.t.ends.Ofport == ofport {
				m.loop.step(e, input{event: evLeave, reason: ReasonDetached}, time.Now())
			}
		}
		if m.loop.attached(m, ofport) { // it may be another member's by now
			delete(m.loop.base.workloads, ofport)
		}
		m.loop.setBase(nil)
		m.loop.detaching = append(m.loop.detaching, detaching{m, ofport, done})
		m.loop.detached()
	})
	return m.confirmed(ctx, done)
}

// Recheck takes down bypasses whose endpoints Resolve now tells otherwise, or whose
// endpoints' new tags the policy does not allow.
func (m *Member) Recheck() {
	if m.recheck.Swap(true) {
		return // one that waits is enough, however often a peer announces
	}
	m.post(func() {
		m.recheck.Store(false)
		for _, e := range m.loop.flowsOf(m) {
			if e.t.phase == phaseOverlay {
				continue
			}
			ends, ok := m.cfg.Resolve(e.flow())
			switch {
			case !ok || ends.Peer != e.peer.id || ends.rules() != e.t.ends:
				m.loop.step(e, input{event: evLeave, reason: ReasonDetached}, time.Now())
			case ends.tags() != e.tags && !m.loop.allows(m, e.flow(), ends, e.t.initiator).Bypass:
				m.loop.step(e, input{event: evLeave, reason: ReasonPolicy}, time.Now())
			default:
				e.tags = ends.tags()
			}
		}
	})
}

// Request asks for a bypass of flow (Src is a local workload). The outcome comes by
// Changed; asking again while one is under way, or before RetryAt, changes nothing.
// Too many requests at once are dropped: ask again while the flow lives.
func (m *Member) Request(flow Flow, v Verdict) {
	m.loop.admit(m.loop.box, &m.loop.asked, func() { m.loop.request(m, flow, v, time.Now()) })
}

// Inject sends a held frame as if the workload at ofport had sent it, now that its
// flow is bypassed.
func (m *Member) Inject(ctx context.Context, ofport uint32, frame []byte) error {
	if m.left.Load() {
		return ErrLeft
	}
	return m.loop.dp.Inject(ctx, ofport, frame)
}

// Rules lists the rules in the switch, with counters.
func (m *Member) Rules(ctx context.Context) ([]RuleStat, error) {
	if m.left.Load() {
		return nil, ErrLeft
	}
	return m.loop.dp.Rules(ctx)
}

// PathTo tells why the path to a peer cannot carry bypasses of a family; ReasonNone: it
// can. remote is the peer's underlay address, as far as it is known.
func (m *Member) PathTo(ctx context.Context, peer overlay.PeerID, f Family) (reason Reason, remote netip.Addr) {
	type answer struct {
		reason Reason
		remote netip.Addr
	}
	got := make(chan answer, 1)
	m.post(func() {
		a := answer{reason: m.loop.home(f).why}
		if p := m.loop.peers[peerKey{m, peer, f}]; p != nil {
			a.reason, a.remote = m.loop.pathReason(p)
		} else if len(m.loop.paths(m, peer)) == 0 {
			a.reason = ReasonLinkDown
		} else if a.reason == ReasonNone {
			a.reason = ReasonDetached // no workload here has an address of the family
		}
		got <- a
	})
	select {
	case a := <-got:
		return a.reason, a.remote
	case <-m.gone:
		return ReasonShutdown, netip.Addr{}
	case <-ctx.Done():
		return ReasonProving, netip.Addr{}
	}
}

// Flows lists the flows that the host knows for this Network: those bypassed, on
// their way, and those that failed and wait.
func (m *Member) Flows() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Status, 0, len(m.flows))
	for _, e := range m.flows {
		if e.shown.since != 0 {
			out = append(out, m.loop.status(e))
		}
	}
	return out
}

// Status is the snapshot of one flow, seen from either side; false: unknown here,
// it is on the overlay.
func (m *Member) Status(f Flow) (Status, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.find(f)
	if e == nil || e.shown.since == 0 {
		return Status{}, false
	}
	return m.loop.status(e), true
}
