package bypass

import (
	"context"
	"errors"
	"time"
)

// Leave takes down all of the Network's bypasses, telling the peers, and returns
// when nothing of them is left in the switch. When ctx ends first, because a peer does
// not answer, it clears the switch and the host's guard all the same, which takes up to
// lastChange more, and returns ctx's error; what a switch that is away keeps then ends
// with its leases. So does the switch's guard against such a peer, whose own rules may send
// for a lease. The last member to leave stops the host. Links must stay up until it returns.
func (m *Member) Leave(ctx context.Context) error {
	if m.left.Swap(true) {
		return ErrLeft
	}
	l, settled := m.loop, make(chan struct{})
	l.box.post(func() { l.leave(m, settled, time.Now()) })
	err := wait(ctx, settled)
	base, guard := make(chan struct{}), make(chan struct{})
	l.box.post(func() { l.remove(m, base, guard) })
	if wait(ctx, base) != nil || wait(ctx, guard) != nil {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastChange)
		err = errors.Join(err, wait(last, base), wait(last, guard))
		cancel()
	}
	close(m.gone)
	m.host.mu.Lock()
	defer m.host.mu.Unlock()
	if m.host.used--; m.host.used == 0 {
		m.host.run = nil
		err = errors.Join(err, l.stop())
	}
	return err
}

// lastChange is how long Leave waits for switch and host when its context has ended.
const lastChange = 2 * time.Second

func wait(ctx context.Context, done chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leave ends the Network's proofs, which closes its gates on both sides, and then
// its flows. What the peers had in flight gets its time to arrive where it is guarded.
func (l *loop) leave(m *Member, settled chan struct{}, now time.Time) {
	m.leaving, m.leaveAt = settled, now
	for _, p := range l.sortedPeers() {
		if p.member == m && p.guarded.Remote.IsValid() {
			m.leaveAt = now.Add(l.cfg.Drain)
			l.prove(p, func() []proofAction { return p.proof.fail(ReasonShutdown, now) })
		}
	}
	for _, e := range l.flowsOf(m) {
		e.wanted = false
		l.step(e, input{event: evLeave, reason: ReasonShutdown}, now)
	}
	l.timers.add(m.leaveAt, m.settled)
}

// settled (in the loop) tells Leave when no flow of ours has rules any more.
func (m *Member) settled() {
	if m.leaving == nil || time.Now().Before(m.leaveAt) {
		return
	}
	for _, p := range m.loop.peers {
		if p.member == m && p.busy() {
			return
		}
	}
	close(m.leaving)
	m.leaving = nil
}

// remove forgets a member, settled or not; base is closed when the switch has nothing
// of it, guard when the host's guard was told.
func (l *loop) remove(m *Member, base, guard chan struct{}) {
	delete(l.members, m)
	for _, p := range l.sortedPeers() {
		if p.member == m && p.busy() && p.guarded.Remote.IsValid() { // it has not said that it sends no more
			l.base.owing[p.guarded] = time.Now().Add(l.cfg.Lease)
		}
	}
	for _, e := range l.flowsOf(m) {
		l.abandon(e, time.Now())
		l.forget(e)
	}
	for _, p := range l.sortedPeers() {
		if p.member == m {
			l.drop(p)
		}
	}
	for ofport, w := range l.base.workloads {
		if w.member == m {
			delete(l.base.workloads, ofport)
		}
	}
	if len(l.members) == 0 {
		clear(l.base.hops)
		l.base.late, l.ended = l.base.owing, true
	}
	if l.up {
		l.setBase(base)
	} else {
		l.setBase(nil)
		close(base)
	}
	l.flushBase()
	l.guardStands(func(error) { close(guard) })
}

// abandon ends a flow in the middle of things: its rules go with its peer's leases.
func (l *loop) abandon(e *entry, now time.Time) {
	if e.t.phase == phaseOverlay {
		return
	}
	if e.t.tuple.dp != 0 {
		l.ports.free(e.t.tuple.tuple(), now.Add(max(l.cfg.Quarantine, l.longestLease(e.peer))))
	}
	e.peer.live[e.id.proto]--
	delete(l.byRule, e.t.rule)
	delete(e.peer.txns, e.t.id)
	rising := e.t.rising()
	e.t = e.t.gone()
	l.moved(e.peer, rising, false)
}
