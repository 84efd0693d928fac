package bypass

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

// pending is a change that waits for the switch, or (call) something else that needs
// its place in their order.
type pending struct {
	change Change
	done   func(error) // called in the loop
	call   func(context.Context)
}

// maxBatch is how many rules go into one change of the switch.
const maxBatch = 512

// applyTimeout is when a switch that does not answer counts as stalled.
const applyTimeout = 5 * time.Second

// enqueue has the change worker apply c, and done called in the loop.
func (l *loop) enqueue(c Change, done func(error)) {
	l.changes++
	l.change.post(pending{change: c, done: func(err error) {
		l.changes--
		done(err)
	}})
}

// makeChanges is the worker of the switch's tables: what has come while the last
// change was being made is made at once.
func (l *loop) makeChanges(ctx context.Context) {
	for {
		jobs := l.change.take()
		for len(jobs) > 0 && ctx.Err() == nil {
			jobs = jobs[l.makeSome(ctx, jobs):]
		}
		select {
		case <-ctx.Done():
			return
		case <-l.change.wake:
		}
	}
}

// makeSome makes the first of jobs, and as many behind it as can go with it; it tells
// how many.
func (l *loop) makeSome(ctx context.Context, jobs []pending) int {
	if jobs[0].call != nil {
		jobs[0].call(ctx)
		return 1
	}
	b := newBatch()
	n := 0
	for n < len(jobs) && jobs[n].call == nil && b.join(jobs[n].change) {
		n++
	}
	err := l.apply(ctx, b.Change)
	if err != nil && !unsure(err) && n > 1 { // one of them is refused: which one?
		for _, j := range jobs[:n] {
			err := l.apply(ctx, j.change)
			l.box.post(func() { j.done(err) })
		}
		return n
	}
	done := jobs[:n]
	l.box.post(func() {
		for _, j := range done {
			j.done(err)
		}
	})
	return n
}

func (l *loop) apply(ctx context.Context, c Change) error {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	err := l.dp.Apply(ctx, c)
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.Join(ErrUnconfirmed, err)
	}
	return err
}

// unsure tells whether a change with this error may have happened.
func unsure(err error) bool {
	return errors.Is(err, ErrUnconfirmed) || errors.Is(err, ErrSwitchDown)
}

// batch is several changes as one. They can go together while none touches what
// another one does: within a change all additions come before all removals.
type batch struct {
	Change
	touched map[any]bool
	alone   bool // nothing may join it
}

func newBatch() *batch { return &batch{touched: make(map[any]bool)} }

// Keys of what a change touches.
type (
	leaseTouch struct {
		peer  uint32
		proto Proto
	}
	gateTouch struct {
		proto Proto
		pair  AddrPair
	}
	ruleTouch struct {
		dir Direction
		id  uint32
	}
	matchTouch struct {
		dir           Direction
		ofport        uint32
		flow          Flow
		local, remote netip.AddrPort
	}
	purgeTouch struct{}
)

func touches(c Change) []any {
	keys := make([]any, 0, 2*(len(c.Leases)+len(c.Add)+len(c.Remove)))
	for _, e := range c.Leases {
		keys = append(keys, leaseTouch{e.Peer, e.Proto}, gateTouch{e.Proto, AddrPair{e.Local, e.Remote}})
	}
	for _, rules := range [][]Rule{c.Add, c.Remove} {
		for _, r := range rules {
			m := matchTouch{dir: r.Direction, flow: Flow{Proto: r.Flow.Proto}, local: r.Local, remote: r.Remote}
			if r.Direction == Outbound {
				m = matchTouch{dir: r.Direction, ofport: r.Ofport, flow: r.Flow}
			}
			keys = append(keys, ruleTouch{r.Direction, r.ID}, m)
		}
	}
	if len(c.Purge) > 0 {
		keys = append(keys, purgeTouch{})
	}
	return keys
}

// join takes c in, unless it must wait for what is in already.
func (b *batch) join(c Change) bool {
	keys := touches(c)
	// Gates that close must not wait until hundreds of rules are written as well.
	gates := len(c.Leases) > 0 && len(c.Add)+len(c.Remove)+len(c.Purge) == 0
	if len(b.touched) > 0 {
		if b.alone || gates {
			return false
		}
		if len(b.Add)+len(b.Remove)+len(c.Add)+len(c.Remove) > maxBatch {
			return false
		}
		for _, k := range keys {
			if b.touched[k] {
				return false
			}
		}
	}
	b.alone = gates
	for _, k := range keys {
		b.touched[k] = true
	}
	b.Leases, b.Add = append(b.Leases, c.Leases...), append(b.Add, c.Add...)
	b.Remove, b.Purge = append(b.Remove, c.Remove...), append(b.Purge, c.Purge...)
	return true
}
