package bypass_test

import (
	"context"
	"sync"
	"testing/synctest"
	"time"

	"github.com/viasnet/vias/bypass"
)

// heal ends all faults.
func (w *world) heal() {
	w.note("all is well again")
	w.healed = true
	w.opts.lose, w.opts.repeat, w.opts.linger, w.opts.stragglers = 0, 0, 0, false
	for _, f := range w.families {
		w.unblock(f)
	}
	for _, n := range w.nodes {
		if n.stalled {
			w.toggleStall(n)
		}
		if n.down {
			w.toggleDown(n)
		}
		n.failing = false
		n.sw.FailNext(0)
		n.sw.UnconfirmedNext(0, false)
	}
	for limit := 0; w.leaving() && limit < 150; limit++ {
		w.pass(500 * time.Millisecond)
		w.joinAgain()
	}
	for _, n := range w.nodes {
		if n.member == nil {
			n.born()
		}
		for i := range 2 {
			if n.away[i] {
				n.attach(i)
			}
		}
		w.setPolicy(n, true)
	}
	w.quiet = [3][2]bool{}
	w.setLink(true)
}

func (w *world) leaving() bool { return w.nodes[0].leaving != nil || w.nodes[1].leaving != nil }

// finish heals everything and sees whether all comes back, and all goes.
func (w *world) finish() {
	w.heal()
	w.pass(3 * time.Second) // what was under way when all was well again
	if !w.within(150*time.Second, w.allIn(bypass.Bypassed)) {
		w.notBack()
		return
	}
	w.mu.Lock()
	clear(w.native)
	w.mu.Unlock()
	w.pass(2 * time.Second)
	for _, f := range w.flows {
		if w.failed == "" && (w.native[f] == 0 || w.native[f.Reverse()] == 0) {
			w.fail("%v is said to be bypassed, and is not", f)
		}
	}
	w.withdraw()
	if !w.within(60*time.Second, w.allIn(bypass.OnOverlay)) {
		w.notBack()
		return
	}
	for _, n := range w.nodes {
		if live := n.seam.LivePorts(); live > 0 {
			w.fail("node %d: %d tuples are in use, by no flow", n.nr, live)
		}
	}
	w.leaveAll()
}

// withdraw takes all flows off the bypass: both ends do, or one, which has to tell the
// other over a link that loses a lot.
func (w *world) withdraw() {
	if w.rnd.IntN(2) == 0 {
		w.setPolicy(w.nodes[0], false)
		w.setPolicy(w.nodes[1], false)
		return
	}
	w.opts.lose = 0.5
	w.note("the link loses half of all messages")
	w.setPolicy(w.nodes[w.rnd.IntN(2)], false)
}

// within asks for all flows until ok, or d is over, or something else fails.
func (w *world) within(d time.Duration, ok func() bool) bool {
	for end := time.Now().Add(d); time.Now().Before(end); {
		if w.failed != "" || ok() {
			return true
		}
		for i := range w.flows {
			if w.nodes[0].allow {
				w.nodes[0].member.Request(w.flows[i], bypass.Verdict{Bypass: true})
			}
		}
		w.pass(500 * time.Millisecond)
	}
	return false
}

func (w *world) allIn(s bypass.State) func() bool {
	return func() bool {
		for _, n := range w.nodes {
			for _, f := range w.flows {
				if at, _ := n.member.Status(f); at.State != s {
					return false
				}
			}
		}
		return true
	}
}

func (w *world) notBack() {
	for _, n := range w.nodes {
		for _, f := range w.flows {
			at, _ := n.member.Status(f)
			w.note("node %d: %v is %v, %v", n.nr, f, at.State, at.Reason)
		}
	}
	w.fail("not all flows moved")
}

// leaveAll: nothing may be left then.
func (w *world) leaveAll() {
	var wg sync.WaitGroup
	for _, n := range w.nodes {
		m := n.member
		n.member = nil
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := m.Leave(ctx); err != nil {
				w.fail("leave: %v", err)
			}
		})
	}
	wg.Wait()
	for _, n := range w.nodes {
		_, guarded, _ := n.underlay.Guarded()
		if left := len(n.sw.Rules()) + len(n.sw.Leases()) + len(guarded); left > 0 {
			w.fail("node %d left %d things behind: %v", n.nr, left, n.sw.Rules())
		}
	}
}

// stop ends whatever runs.
func (w *world) stop() {
	for _, n := range w.nodes {
		n.sw.Resume()
		if n.leaving != nil {
			<-n.leaving
		} else if n.member != nil {
			n.host.Kill()
		}
	}
	synctest.Wait()
}
