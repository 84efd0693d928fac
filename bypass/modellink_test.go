package bypass_test

import (
	"testing/synctest"
	"time"
)

// collect moves what the nodes said into the pipes, where messages are lost, repeated
// and kept for a while.
func (w *world) collect() {
	now := time.Now()
	for i, n := range w.nodes {
		n.mu.Lock()
		out := n.out
		n.out = nil
		n.mu.Unlock()
		for _, msg := range out {
			copies := 1
			if w.rnd.Float64() < w.opts.lose {
				copies = 0
			} else if w.rnd.Float64() < w.opts.repeat {
				copies = 2
			}
			for range copies {
				due := now
				if w.rnd.Float64() < w.opts.linger {
					due = now.Add(time.Duration(w.rnd.IntN(900)) * time.Millisecond)
				}
				w.pipes[i].queue = append(w.pipes[i].queue, parcel{due, msg})
			}
		}
	}
}

// carry delivers what is due; what comes to a dead node is lost.
func (w *world) carry() (any bool) {
	now := time.Now()
	for i := range w.pipes {
		p := &w.pipes[i]
		var left []parcel
		for _, m := range p.queue {
			switch {
			case m.due.After(now):
				left = append(left, m)
			case p.to.member != nil && p.to.linked:
				p.to.member.Receive(w.nodes[i].id, m.msg)
				any = true
			}
		}
		p.queue = left
	}
	return any
}

// settle lets everything happen that can happen now.
func (w *world) settle() {
	for {
		synctest.Wait()
		w.collect()
		if !w.carry() {
			return
		}
	}
}

// pass lets time go by, in steps, while guests send and everything is checked.
func (w *world) pass(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end) && w.failed == ""; {
		w.guestsSend()
		w.release()
		if w.rnd.IntN(4) == 0 {
			w.request(w.nodes[w.rnd.IntN(2)])
		}
		w.settle()
		w.check()
		step := min(time.Until(end), time.Duration(1+w.rnd.IntN(150))*time.Millisecond)
		for _, p := range w.pipes {
			for _, m := range p.queue {
				step = min(step, max(time.Until(m.due), time.Millisecond))
			}
		}
		<-time.After(step) // virtual
	}
	w.settle()
	w.check()
}

func (w *world) setLink(up bool) {
	for _, n := range w.nodes {
		n.mu.Lock()
		was := n.linked
		n.linked = up && n.member != nil && n.peer().member != nil
		is := n.linked
		n.mu.Unlock()
		switch {
		case n.member == nil || !is && !was:
		case is:
			n.member.LinkUp(n.peer().id)
		default:
			n.member.LinkDown(n.peer().id)
		}
	}
	if !up {
		return
	}
	for i := range w.pipes { // some of an earlier session get through: the hosts must bear it
		if w.rnd.IntN(2) == 0 {
			w.pipes[i].queue = nil
		}
	}
}
