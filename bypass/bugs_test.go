package bypass

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// Seam is what tests may alter of a run before it starts.
type Seam struct{ l *loop }

// Tweak has f alter the host's next runs before they start.
func (h *Host) Tweak(f func(*Seam)) { h.tweak = func(l *loop) { f(&Seam{l}) } }

// Chance replaces what a run draws its numbers from, and its ports.
func (s *Seam) Chance(draw, ports func() uint64) {
	s.l.draw, s.l.epoch, s.l.ports.draw = draw, draw(), ports
}

// Epoch is the run's mark in the switch.
func (s *Seam) Epoch() uint16 { return uint16(s.l.epoch) }

// LivePorts is how many tuples are in use; it must be called while nothing runs.
func (s *Seam) LivePorts() (n int) {
	for _, u := range s.l.ports.used {
		if u.until == live {
			n++
		}
	}
	return n
}

// Meetings counts which event met which phase, over any number of runs.
type Meetings [phases][events]atomic.Uint64

// Names of the rows and columns.
func (*Meetings) Names() (rows, columns []string) {
	for p := range phases {
		rows = append(rows, p.String())
	}
	for e := range events {
		columns = append(columns, e.String())
	}
	return rows, columns
}

// Count has m count the run's meetings.
func (s *Seam) Count(m *Meetings) {
	next := s.l.next
	s.l.next = func(t txn, in input, now moment, lim limits) (txn, []action) {
		m[t.phase][in.event].Add(1)
		return next(t, in, now, lim)
	}
}

// Trace tells each step in words.
func (s *Seam) Trace(note func(string)) {
	next := s.l.next
	s.l.next = func(t txn, in input, now moment, lim limits) (txn, []action) {
		is, acts := next(t, in, now, lim)
		if t.phase != phaseOverlay || is.phase != phaseOverlay {
			note(fmt.Sprintf("%x: %v, %v (%v) → %v: %s", t.id>>48, t.phase, in.event, in.reason, is.phase, words(acts)))
		}
		return is, acts
	}
}

// wrap makes f see each step, and alter what comes of it.
func (s *Seam) wrap(f func(was, is txn, in input, now moment, lim limits, acts []action) (txn, []action)) {
	next := s.l.next
	s.l.next = func(t txn, in input, now moment, lim limits) (txn, []action) {
		is, acts := next(t, in, now, lim)
		return f(t, is, in, now, lim, acts)
	}
}

// at makes f replace what event does in phase.
func (s *Seam) at(p phase, e event, f func(t txn, in input, now moment, lim limits) (txn, []action)) {
	next := s.l.next
	s.l.next = func(t txn, in input, now moment, lim limits) (txn, []action) {
		if t.phase == p && in.event == e {
			return f(t, in, now, lim)
		}
		return next(t, in, now, lim)
	}
}

// alter makes f alter each change on its way to the switch.
func (s *Seam) alter(f func(*Change)) { s.l.dp = &altered{s.l.dp, f} }

type altered struct {
	Datapath
	f func(*Change)
}

func (d *altered) Apply(ctx context.Context, c Change) error {
	c.Leases = slices.Clone(c.Leases)
	d.f(&c)
	return d.Datapath.Apply(ctx, c)
}

// forgetful says that nothing is in the switch.
type forgetful struct{ Datapath }

func (*forgetful) Rules(context.Context) ([]RuleStat, error) { return nil, nil }

// idling gives inbound rules an idle time-out, as switches would.
type idling struct{ Datapath }

func (d *idling) Apply(ctx context.Context, c Change) error {
	err := d.Datapath.Apply(ctx, c)
	for _, r := range c.Add {
		if err == nil && r.Direction == Inbound {
			d.watch(r, 0)
		}
	}
	return err
}

// watch removes r when it has not been hit for three seconds.
func (d *idling) watch(r Rule, hits uint64) {
	time.AfterFunc(3*time.Second, func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		stats, err := d.Rules(ctx)
		if err != nil {
			return
		}
		for _, s := range stats {
			switch {
			case s.Rule.ID != r.ID || s.Rule.Direction != Inbound:
			case s.Packets == hits:
				_ = d.Datapath.Apply(ctx, Change{Remove: []Rule{r}}) // it is gone, or the switch is
			default:
				d.watch(r, s.Packets)
			}
		}
	})
}

// Bugs are mistakes that others have made, planted into a run. The model must find
// each of them.
var Bugs = map[string]func(*Seam){
	"acknowledges before the barrier": func(s *Seam) {
		s.at(phaseOverlay, evOffer, func(t txn, in input, now moment, lim limits) (txn, []action) {
			t, acts := step(t, in, now, lim)
			t, more := step(t, input{event: evApplied}, now, lim)
			return t, append(more, acts...)
		})
	},
	"responder sends before it is confirmed": func(s *Seam) {
		s.at(phaseAccepted, evConfirm, func(t txn, in input, now moment, lim limits) (txn, []action) { return t, nil })
		s.at(phasePreparing, evApplied, func(t txn, in input, now moment, lim limits) (txn, []action) {
			t, acts := step(t, in, now, lim)
			if t.phase != phaseAccepted {
				return t, acts
			}
			t, more := step(t, input{event: evConfirm}, now, lim)
			return t, append(acts, more...)
		})
	},
	"reuses ports at once": func(s *Seam) {
		s.wrap(func(_, is txn, _ input, _ moment, _ limits, acts []action) (txn, []action) {
			return is, slices.DeleteFunc(acts, func(a action) bool {
				f, ok := a.(free)
				if ok {
					delete(s.l.ports.used, f.tuple)
				}
				return ok
			})
		})
	},
	"takes the inbound off first": func(s *Seam) {
		s.at(phaseActive, evLeave, func(t txn, in input, now moment, lim limits) (txn, []action) {
			t, acts := step(t, in, now, lim)
			t.bare = true
			return t, append([]action{rewrite{remove: []Direction{Inbound}}}, acts...)
		})
	},
	"does not drain": func(s *Seam) { s.l.limits.drain = 0 },
	"uses a late accept": func(s *Seam) {
		s.at(phaseOffered, evDeadline, func(t txn, in input, now moment, lim limits) (txn, []action) {
			t.deadline = now.Add(time.Minute)
			return t, nil
		})
		s.at(phaseOffered, evAccept, func(t txn, in input, now moment, lim limits) (txn, []action) {
			t.since = now
			return step(t, in, now, lim)
		})
	},
	"gives an accepted offer up too soon": func(s *Seam) {
		s.wrap(func(was, is txn, in input, now moment, lim limits, acts []action) (txn, []action) {
			if was.phase == phasePreparing && is.phase == phaseAccepted {
				is.deadline = now.Add(300 * time.Millisecond)
			}
			return is, acts
		})
	},
	"says close once": func(s *Seam) {
		s.at(phaseClosing, evDeadline, func(t txn, in input, now moment, lim limits) (txn, []action) {
			t.deadline = t.giveUp
			if now.Before(t.giveUp) {
				return t, nil
			}
			return step(t, in, now, lim)
		})
		s.at(phaseClosing, evLinkUp, func(t txn, _ input, _ moment, _ limits) (txn, []action) { return t, nil })
	},
	"does not wait for close-ack": func(s *Seam) {
		s.wrap(func(_, is txn, _ input, now moment, lim limits, acts []action) (txn, []action) {
			if is.phase == phaseClosing {
				t, more := is.drain(now, lim)
				return t, append(acts, more...)
			}
			return is, acts
		})
	},
	"takes unconfirmed for refused": func(s *Seam) {
		next := s.l.next
		s.l.next = func(t txn, in input, now moment, lim limits) (txn, []action) {
			if in.event == evUnsure {
				in.event = evFailed
			}
			return next(t, in, now, lim)
		}
	},
	"takes a refused removal for done": func(s *Seam) {
		s.at(phaseUnbinding, evFailed, func(t txn, in input, now moment, lim limits) (txn, []action) {
			in.event = evApplied
			return step(t, in, now, lim)
		})
	},
	"ignores the peer's close": func(s *Seam) {
		s.at(phaseActive, evClose, func(t txn, _ input, _ moment, _ limits) (txn, []action) { return t, nil })
	},
	"answers close before its outbound is off": func(s *Seam) {
		s.at(phaseActive, evClose, func(t txn, in input, now moment, lim limits) (txn, []action) {
			t, acts := step(t, in, now, lim)
			return t, append([]action{send{msgCloseAck}}, acts...)
		})
	},
	"says nothing while its switch is stuck": func(s *Seam) {
		s.wrap(func(_, is txn, _ input, _ moment, _ limits, acts []action) (txn, []action) {
			return is, slices.DeleteFunc(acts, func(a action) bool { return a == send{msgLeave} })
		})
	},
	"forgets the policy of live flows": func(s *Seam) {
		next := s.l.next
		s.l.next = func(t txn, in input, now moment, lim limits) (txn, []action) {
			if in.event == evLeave && in.reason == ReasonPolicy {
				return t, nil
			}
			return next(t, in, now, lim)
		}
	},
	"leaks the ports of a refused bundle": func(s *Seam) {
		s.wrap(func(was, is txn, in input, _ moment, _ limits, acts []action) (txn, []action) {
			if was.phase != phaseInstalling || in.event != evFailed {
				return is, acts
			}
			return is, slices.DeleteFunc(acts, func(a action) bool { _, ok := a.(free); return ok })
		})
	},
	"does not sever what nobody answers": func(s *Seam) {
		s.wrap(func(_, is txn, _ input, _ moment, _ limits, acts []action) (txn, []action) {
			is.peerOff = is.peerOff || is.phase == phaseUnbinding // says that all is told
			return is, slices.DeleteFunc(acts, func(a action) bool { _, ok := a.(sever); return ok })
		})
	},
	"stays on a dead path": func(s *Seam) {
		next := s.l.next
		s.l.next = func(t txn, in input, now moment, lim limits) (txn, []action) {
			if in.event == evLeave && (in.reason == ReasonProofTimeout || in.reason == ReasonProofTCP) {
				return t, nil
			}
			return next(t, in, now, lim)
		}
		s.alter(func(c *Change) {
			for i := range c.Leases {
				c.Leases[i].Outbound = outboundLease(s.l.cfg.Lease)
			}
		})
	},
	"stays on a dead path over IPv6": func(s *Seam) {
		next := s.l.next
		s.l.next = func(t txn, in input, now moment, lim limits) (txn, []action) {
			dead := in.event == evLeave && (in.reason == ReasonProofTimeout || in.reason == ReasonProofTCP)
			if dead && t.tuple.flow().Src.Addr().Is6() {
				return t, nil
			}
			return next(t, in, now, lim)
		}
		s.alter(func(c *Change) {
			for i := range c.Leases {
				if c.Leases[i].Remote.Is6() {
					c.Leases[i].Outbound = outboundLease(s.l.cfg.Lease)
				}
			}
		})
	},
	"lets inbound leases end first": func(s *Seam) {
		s.alter(func(c *Change) {
			for i := range c.Leases {
				c.Leases[i].Inbound = min(c.Leases[i].Inbound, time.Second)
			}
		})
	},
	"lets inbound rules idle out": func(s *Seam) { s.l.dp = &idling{s.l.dp} },
	"does not renew inbound leases": func(s *Seam) {
		s.alter(func(c *Change) {
			if len(c.Add) == 0 || c.Add[0].Direction == Listen {
				c.Leases = nil
			}
		})
	},
	"takes a dead run's tuples": func(s *Seam) { s.l.dp = &forgetful{s.l.dp} },
	"is forgotten in a phase without end": func(s *Seam) {
		s.at(phaseConfirming, evDeadline, func(t txn, _ input, _ moment, _ limits) (txn, []action) { return t, nil })
	},
}
