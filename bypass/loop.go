package bypass

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/viasnet/vias/overlay"
)

// loop is a running Host. One goroutine owns all of its state: everything happens
// in jobs posted to its mailbox. Calls that block are made by five workers: change
// (the switch's tables, in order; see change.go), inject (frames), look (routes),
// guard (the host's) and health.worker (counters).
type loop struct {
	clock  // of its moments
	cfg    HostConfig
	limits limits
	log    *slog.Logger
	codec  *codec
	epoch  uint64
	dp     Datapath

	box, probes         *mailbox // probes come first
	change              *queue[pending]
	inject, look, guard *worker
	asked, heard        atomic.Int32 // jobs that wait: from the packet path, from the network
	cancel              context.CancelFunc
	wg                  sync.WaitGroup
	draw                func() uint64                                    // chance
	next                func(txn, input, moment, limits) (txn, []action) // step

	timers  timers
	ports   *ports
	members map[*Member]bool
	peers   map[peerKey]*peer
	tracked int // flows, of all members
	byRule  map[uint32]*entry
	lastID  uint32 // of rules
	serial  uint64 // of entries
	changes int    // that wait for the switch
	up      bool   // the switch is connected
	cleared bool   // what earlier runs left is known: its tuples rest
	ended   bool   // the last member has left: nothing is to stay in the switch
	lost    bool   // rules of ours vanished: restore is due
	old     []RuleStat
	base    baseState

	health    healthState
	icmp      icmpPaces
	detaching []detaching // Detach calls that wait
	releasing bool        // a job will look at them
	homes     [2]home     // by family; see home
	hopsAsked map[netip.Addr]hopAsked
}

type peerKey struct {
	member *Member
	id     overlay.PeerID
	family Family
}

// start opens the datapath and runs a loop.
func (h *Host) start(ctx context.Context) (*loop, error) {
	c, err := newCodec()
	if err != nil {
		return nil, err
	}
	dp, err := h.cfg.Datapath(ctx)
	if err != nil {
		return nil, err
	}
	l := newLoop(h.cfg, c, dp)
	if h.tweak != nil {
		h.tweak(l)
	}
	run, cancel := context.WithCancel(context.Background()) // several Networks share it: it ends with the last
	l.cancel = cancel
	for _, f := range []func(context.Context){l.run, l.makeChanges, l.watchDatapath, l.watchUnderlay} {
		l.wg.Go(func() { f(run) })
	}
	for _, w := range l.workers() {
		l.wg.Go(func() { work(run, w) })
	}
	return l, nil
}

// newLoop makes a loop in which nothing runs yet.
func newLoop(cfg HostConfig, c *codec, dp Datapath) *loop {
	begun := clock{time.Now()}
	l := &loop{
		clock: begun, timers: timers{clock: begun},
		cfg: cfg, log: cfg.Logger, codec: c, dp: dp, draw: randomUint64, next: step, epoch: randomUint64(),
		limits: limits{answer: 2 * time.Second, prompt: 200 * time.Millisecond, retry: time.Second, unsure: 3 * time.Second, drain: cfg.Drain},
		box:    newMailbox(), probes: newMailbox(), change: newQueue[pending](), inject: newWorker(), look: newWorker(), guard: newWorker(),
		ports:   newPorts(cfg.Ports, randomUint64),
		members: make(map[*Member]bool), peers: make(map[peerKey]*peer),
		byRule: make(map[uint32]*entry),
	}
	l.base.init()
	l.health = healthState{worker: newWorker(), lag: healthLag}
	l.box.post(l.begin)
	return l
}

func (l *loop) workers() []*worker { return []*worker{l.inject, l.look, l.guard, l.health.worker} }

// stop ends all goroutines and closes the datapath.
func (l *loop) stop() error {
	l.cancel()
	l.wg.Wait()
	l.box.close()
	l.probes.close()
	l.change.close()
	for _, w := range l.workers() {
		w.close()
	}
	return l.dp.Close()
}

// run is the loop itself.
func (l *loop) run(ctx context.Context) {
	alarm := time.NewTimer(time.Hour)
	defer alarm.Stop()
	for {
		alarm.Reset(l.turn())
		select {
		case <-ctx.Done():
			return
		case <-l.box.wake:
		case <-l.probes.wake:
		case <-alarm.C:
		}
	}
}

// turn does what waits and what is due, and tells when it is to be called again at
// the latest.
func (l *loop) turn() time.Duration {
	for i, job := range l.box.take() {
		l.hasten(i)
		job()
	}
	l.hasten(0)
	if at, ok := l.timers.next(); ok {
		return max(1, time.Until(at)) // not 0: see timeTo in dial.go of package vias
	}
	return time.Hour
}

// hasten does what must not wait behind thousands of jobs: probes, and, each so many
// jobs, what is due. A path is lost when its probes are late.
func (l *loop) hasten(i int) {
	for _, probe := range l.probes.take() {
		probe()
	}
	if i%64 > 0 {
		return
	}
	for _, t := range l.timers.due(time.Now()) {
		if t.flow != nil {
			l.timeout(t.flow, t.at)
		} else {
			t.f()
		}
	}
}

func (l *loop) watchDatapath(ctx context.Context) {
	var orphan time.Time // when the last one was looked at
	var icmp pace
	err := l.dp.Watch(ctx, func(e Event) {
		if p, packet := e.(PacketIn); packet {
			switch now := time.Now(); {
			case p.Kind == PacketGuard, p.Kind == PacketOrphan && now.Sub(orphan) < orphanEvery,
				p.Kind == PacketError && !icmp.allow(now, icmpLookEvery, icmpLookBurst):
				return // dropped here, which is what matters
			case p.Kind == PacketOrphan:
				orphan = now
			}
			box := l.box
			if p.Kind == PacketProbe {
				box = l.probes
			}
			l.admit(box, &l.heard, func() { l.onDatapath(e) })
			return
		}
		l.box.post(func() { l.onDatapath(e) })
	})
	if err != nil && ctx.Err() == nil {
		l.log.Error("bypass: datapath gone; flows stay on the overlay", "err", err)
		l.box.post(func() { l.up = false })
	}
}

func (l *loop) watchUnderlay(ctx context.Context) {
	for ctx.Err() == nil {
		err := l.cfg.Underlay.Watch(ctx, func() { l.admit(l.box, &l.heard, l.underlayChanged) })
		if ctx.Err() != nil {
			return
		}
		l.log.Warn("bypass: underlay watch ended, watching again", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// begin runs first: what address do we offer, and what keeps time.
func (l *loop) begin() {
	l.underlayChanged()
	l.timers.add(time.Now().Add(renewEvery(l.cfg.Lease)), l.renew)
}

// renew keeps alive what is wanted, and forgets what is not, several times a lease.
func (l *loop) renew() {
	now := time.Now()
	l.timers.add(now.Add(renewEvery(l.cfg.Lease)), l.renew)
	l.ports.sweep(now)
	l.setBase(nil)
	for _, p := range l.sortedPeers() {
		l.renewPeer(p, now)
	}
	lapse, old := l.at(now.Add(-lapseAfter)), l.at(now.Add(-forgetAfter))
	for m := range l.members {
		for _, e := range m.flows {
			e.wanted = e.wanted && e.askedAt > lapse
			if e.t.phase == phaseOverlay && !e.wanted && e.changed < old && e.retryAt <= l.at(now) {
				l.forget(e)
			}
		}
	}
}

func (l *loop) ruleID() uint32 {
	for {
		l.lastID = (l.lastID + 1) & 0x0fffffff
		if l.lastID != 0 && l.byRule[l.lastID] == nil {
			return l.lastID
		}
	}
}

// send puts a message on the peer's control session.
func (l *loop) send(p *peer, m message) bool {
	if !p.linked {
		return false
	}
	m.Epoch, m.PeerEpoch = l.epoch, p.epoch
	if p.family != IPv4 {
		m.Family = p.family
	}
	b, err := l.codec.encode(m)
	if err != nil {
		l.log.Error("bypass: message not sent", "kind", m.Kind.String(), "err", err)
		return false
	}
	return p.member.cfg.Send(p.id, b)
}

// emit sends a frame out of the uplink.
func (l *loop) emit(frame []byte) {
	l.inject.post(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		// A probe that is not sent is a probe that is lost: the round sees to it.
		_ = l.dp.Inject(ctx, 0, frame)
	})
}

func (l *loop) onDatapath(e Event) {
	now := time.Now()
	switch e := e.(type) {
	case DatapathUp:
		l.switchUp(e.Fresh, now)
	case DatapathDown:
		l.up = false
		l.log.Warn("bypass: switch connection lost", "err", e.Err)
	case RuleIdle:
		if f := l.byRule[e.ID]; f != nil {
			l.step(f, input{event: evIdle, closes: f.peer.linked && !f.hears(l.at(now))}, now)
		}
	case RuleLost:
		if f := l.byRule[e.ID]; f != nil {
			l.log.Warn("bypass: a rule of ours is gone: its leases ran out, or somebody else deleted it", "flow", f.flow().String(), "direction", e.Direction.String())
			l.step(f, input{event: evLeave, reason: ReasonFlowLost}, now)
		}
		l.restore(now)
	case PacketIn:
		l.packetIn(e, now)
	case PortsChanged:
		l.setBase(nil)
	}
}

// switchUp: the switch is connected, perhaps another one than before.
func (l *loop) switchUp(fresh bool, now time.Time) {
	first := !l.up && l.old == nil
	l.up = true
	l.setBase(nil)
	if first {
		l.old = []RuleStat{}
		l.change.post(pending{call: l.listOld})
	}
	if !fresh || first {
		for _, p := range l.sortedPeers() {
			l.kick(p, now)
		}
		return
	}
	l.log.Warn("bypass: the switch has restarted; flows go back to the overlay and start again")
	for _, e := range l.allFlows() {
		l.step(e, input{event: evLeave, reason: ReasonFlowLost}, now)
	}
	for _, p := range l.sortedPeers() {
		clear(p.gates)
		if p.proof.phase != proofNone {
			l.proofDo(p, p.proof.restart(ReasonSwitchDown, now))
			p.proof.again(now)
		}
		l.kick(p, now)
	}
}
