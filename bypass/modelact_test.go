package bypass_test

import (
	"context"
	"net/netip"
	"testing/synctest"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/tap"
)

// act does one thing that a schedule may do.
func (w *world) act() {
	n := w.nodes[w.rnd.IntN(2)]
	w.joinAgain()
	soft := []func(*modelNode){w.togglePolicy, w.togglePolicy, w.toggleLink, w.toggleLink,
		w.newSession, w.toggleStall, w.toggleFailing, w.toggleDown, w.unconfirmed, w.moveHop, w.toggleQuiet, w.toggleQuiet, w.leave, w.recheck, w.spell, w.stuck}
	hard := []func(*modelNode){w.toggleBlock, w.toggleBlock, w.restartSwitch, w.forgetRule, w.killOrRevive, w.killOrRevive, w.crash, w.rebirth, w.detachOrAttach}
	i := w.rnd.IntN(len(soft) + len(hard))
	if w.bug == "takes a dead run's tuples" && w.rnd.IntN(3) == 0 {
		w.crash(n) // it takes many: both ends must forget, and draw a tuple that still leads somewhere
		return
	}
	switch {
	case i < len(soft):
		soft[i](n)
	case w.opts.faults:
		hard[i-len(soft)](n)
	}
	w.settle()
	w.check()
}

func (w *world) request(n *modelNode) {
	i := w.rnd.IntN(len(w.flows))
	if n.member == nil || w.healed {
		return
	}
	f := w.flows[i]
	if n.nr == 1 {
		f = f.Reverse()
	}
	n.member.Request(f, bypass.Verdict{Bypass: true, Idle: 3 * time.Second})
}

func (w *world) togglePolicy(n *modelNode) { w.setPolicy(n, !n.allow) }

func (w *world) setPolicy(n *modelNode, allow bool) {
	n.mu.Lock()
	n.allow = allow
	n.mu.Unlock()
	w.note("node %d allows: %v", n.nr, allow)
	if n.member != nil {
		n.member.SetPolicy(n.policy())
	}
}

func (w *world) toggleLink(n *modelNode) {
	up := !n.linked && !n.peer().linked
	w.note("link up: %v", up)
	w.setLink(up)
}

func (w *world) newSession(*modelNode) {
	w.note("a new session")
	w.setLink(true)
}

func (w *world) toggleStall(n *modelNode) {
	n.stalled = !n.stalled
	w.note("switch %d stalled: %v", n.nr, n.stalled)
	if n.stalled {
		n.sw.Stall()
		return
	}
	n.unstalled = time.Now()
	n.sw.Resume()
	w.resumedLate(n)
}

// resumedLate: what a dead run had asked a stalled switch for is done only now.
func (w *world) resumedLate(n *modelNode) {
	if len(n.dead) > 0 {
		for _, m := range w.nodes {
			w.trouble.excuse(m, modelOut+modelNotice)
		}
	}
}

func (w *world) toggleFailing(n *modelNode) {
	n.failing = !n.failing
	times := 0
	if n.failing {
		times = 1 + w.rnd.IntN(3)*w.rnd.IntN(20)
	}
	w.note("switch %d refuses the next %d", n.nr, times)
	n.sw.FailNext(times)
	n.impaired = time.Now()
}

func (w *world) unconfirmed(n *modelNode) {
	times, made := 1+w.rnd.IntN(3), w.rnd.IntN(2) == 0
	w.note("switch %d does not confirm the next %d, made: %v", n.nr, times, made)
	n.sw.UnconfirmedNext(times, made)
	n.impaired = time.Now()
}

func (w *world) toggleDown(n *modelNode) {
	n.down = !n.down
	w.note("switch %d away: %v", n.nr, n.down)
	if n.down {
		n.sw.Down()
	} else {
		n.sw.Up(false)
	}
}

// spell is a while in which the link loses half of all messages, and nothing else
// happens: whatever waits for one must end by itself.
func (w *world) spell(*modelNode) {
	if w.spelled {
		return // once is enough, it takes long
	}
	w.spelled = true
	lose := w.opts.lose
	w.opts.lose = 0.5
	w.note("the link loses half of all messages")
	w.request(w.nodes[0])
	w.request(w.nodes[1])
	w.pass(modelLease + 5*time.Second)
	w.opts.lose = lose
}

// stuck withdraws a node's consent while its switch takes nothing.
func (w *world) stuck(n *modelNode) {
	if n.member == nil || n.leaving != nil || n.stalled || n.down || !n.allow {
		return
	}
	w.request(n)
	w.request(n.peer())
	w.pass(600 * time.Millisecond)
	w.toggleStall(n)
	w.setPolicy(n, false)
	w.pass(4 * time.Second)
	w.toggleStall(n)
	w.setPolicy(n, true)
}

// moveHop gives the peer's side of the wire another MAC.
func (w *world) moveHop(n *modelNode) {
	f := w.families[w.rnd.IntN(len(w.families))]
	r, err := n.underlay.Route(context.Background(), n.peer().addrs[f])
	if err != nil {
		return
	}
	w.hop++
	r.NextHop = tap.MAC{2, 0, 0, 9, 0, byte(w.hop)}
	w.note("next hop of node %d over %v is %v", n.nr, f, r.NextHop)
	n.underlay.SetRoute(n.peer().addrs[f], r)
}

func (w *world) toggleQuiet(*modelNode) {
	i, dir := w.rnd.IntN(len(w.flows)), w.rnd.IntN(2)
	w.quiet[i][dir] = !w.quiet[i][dir]
	w.note("flow %d, from node %d, is quiet: %v", i, dir, w.quiet[i][dir])
}

func (w *world) recheck(n *modelNode) {
	if n.member != nil {
		n.member.Recheck()
	}
}

// leave has a node leave in good order; it joins again when it is done.
func (w *world) leave(n *modelNode) {
	if n.member == nil || n.leaving != nil {
		return
	}
	w.note("node %d leaves", n.nr)
	n.leaving = make(chan struct{})
	m, done := n.member, n.leaving
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := m.Leave(ctx); err != nil {
			w.note("node %d left: %v", n.nr, err)
		}
		close(done)
	}()
}

// joinAgain starts the next run of nodes that have left.
func (w *world) joinAgain() {
	for _, n := range w.nodes {
		if n.leaving == nil {
			continue
		}
		select {
		case <-n.leaving:
			w.note("node %d has left and joins again", n.nr)
			n.leaving = nil
			n.born()
			w.setLink(n.linked || n.peer().linked)
		default:
		}
	}
}

// toggleBlock blocks what comes from n, of one family: the other's path goes on.
func (w *world) toggleBlock(n *modelNode) {
	f := w.families[w.rnd.IntN(len(w.families))]
	if _, blocked := w.blocks[f]; blocked {
		w.unblock(f)
		return
	}
	b := block{n.addrs[f], []bypass.Proto{0, bypass.TCP, bypass.UDP}[w.rnd.IntN(3)]}
	w.blocks[f] = b
	w.note("the wire loses %v over %v from node %d", b.proto, f, n.nr)
	w.wire.Block(b.from, netip.Addr{}, b.proto)
	for _, m := range w.nodes {
		w.trouble.excuseSome(m, modelNotice, f)
	}
}

func (w *world) unblock(f bypass.Family) {
	if b, blocked := w.blocks[f]; blocked {
		w.note("the wire passes %v", f)
		w.wire.Unblock(b.from, netip.Addr{}, b.proto)
		delete(w.blocks, f)
	}
}

// restartSwitch loses everything in a switch.
func (w *world) restartSwitch(n *modelNode) {
	w.note("switch %d restarts", n.nr)
	if n.stalled {
		w.toggleStall(n)
	}
	n.sw.Down()
	n.sw.Up(true)
	n.down, n.impaired = false, time.Now()
	w.trouble.excuse(n.peer(), modelNotice)
	if n.member == nil { // neither switch nor host has a guard
		w.trouble.bare[n.nr] = time.Now().Add(modelOut + modelNotice)
	}
}

// forgetRule is somebody else deleting a rule.
func (w *world) forgetRule(n *modelNode) {
	rules := n.sw.Rules()
	if len(rules) == 0 {
		return
	}
	r := rules[w.rnd.IntN(len(rules))]
	w.note("somebody deletes %v rule %d from switch %d", r.Rule.Direction, r.Rule.ID, n.nr)
	n.sw.Forget(r.Epoch, r.Rule.Direction, r.Rule.ID)
	if r.Rule.Direction == bypass.Inbound {
		w.trouble.excuse(n.peer(), modelNotice)
	}
}

func (w *world) killOrRevive(n *modelNode) {
	if n.leaving != nil {
		return
	}
	if n.member == nil {
		w.note("node %d starts again", n.nr)
		n.born()
		if w.rnd.IntN(3) > 0 {
			w.setLink(true)
		}
		return
	}
	w.note("node %d is killed", n.nr)
	n.kill()
	for _, m := range w.nodes {
		w.trouble.excuse(m, modelNotice)
	}
	w.trouble.excuse(n, modelOut+time.Second)
}

// crash kills both nodes and starts them again.
func (w *world) crash(*modelNode) {
	for _, n := range w.nodes {
		if n.member != nil {
			w.killOrRevive(n)
		}
	}
	w.pass(time.Duration(w.rnd.IntN(1000)) * time.Millisecond)
	for _, n := range w.nodes {
		if n.member == nil {
			w.killOrRevive(n)
		}
	}
	w.setLink(true)
}

// rebirth kills a node and starts it again at once, while a flow of the other one is
// being set up.
func (w *world) rebirth(n *modelNode) {
	if n.member == nil || n.leaving != nil || n.peer().member == nil || n.peer().leaving != nil {
		return
	}
	for range 3 {
		w.request(n.peer())
	}
	w.pass(time.Duration(w.rnd.IntN(800)) * time.Millisecond)
	if n.peer().stalled != (w.rnd.IntN(2) == 0) {
		w.toggleStall(n.peer())
	}
	w.request(n.peer())
	w.killOrRevive(n)
	w.killOrRevive(n)
	w.setLink(true)
}

// kill ends a node at once; the host's guard goes with it.
func (n *modelNode) kill() {
	w := n.w
	n.mu.Lock()
	n.linked, n.out = false, nil
	n.mu.Unlock()
	synctest.Wait()
	n.host.Kill()
	n.dead = append(n.dead, deadRun{n.seam.Epoch(), time.Now()})
	n.member = nil
	w.pipes[n.nr].queue, w.pipes[1-n.nr].queue = nil, nil
	_ = n.underlay.Guard(context.Background(), bypass.PortRange{}, nil) // the model's never fails
	if !n.impaired.IsZero() && time.Since(n.impaired) < modelLease {
		w.trouble.bare[n.nr] = time.Now().Add(2 * (modelOut + modelNotice)) // its switch may have none
	}
	if w.rnd.IntN(2) == 0 {
		w.setLink(false)
	}
}

func (w *world) detachOrAttach(n *modelNode) {
	if n.member == nil || n.leaving != nil {
		return
	}
	i := w.rnd.IntN(2)
	w.note("node %d: workload %d attached: %v", n.nr, i, n.away[i])
	if n.away[i] {
		n.attach(i)
		return
	}
	n.mu.Lock()
	n.away[i] = true
	n.mu.Unlock()
	done, cancel := context.WithCancel(context.Background())
	cancel()
	_ = n.member.Detach(done, n.ofport(i))
	w.trouble.excuse(n.peer(), modelNotice)
}
