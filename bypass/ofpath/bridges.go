package ofpath

import (
	"context"
	"errors"
	"sync"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/ofctl"
)

// steer is the inbound gate on an external bridge: it leads to the workloads' bridge, where the gate
// proper stands.
func (l layout) steer(e bypass.Lease) ofctl.Flow {
	f := l.inboundGate(e)
	f.HardTimeout = seconds(holds(e))
	f.Goto, f.Apply = 0, []ofctl.Action{ofctl.Output{Port: l.patch}}
	return f
}

// wayOut sends what comes from the workloads' bridge out at once: NORMAL would learn the host's own
// MAC at the patch port.
func (l layout) wayOut(e bypass.Lease) ofctl.Flow {
	f := fieldsOf(e.Proto)
	return ofctl.Flow{
		Table: tableClassify, Priority: l.cfg.Priority, Cookie: l.cookie(e.Peer),
		HardTimeout: seconds(holds(e)),
		Match: trafficOf(e.Proto, e.Local).match(ofctl.InPort(l.patch), src(e.Local), dst(e.Remote),
			ofctl.PortRange(f.src(l.ports.Base), l.ports.Mask)),
		Apply: []ofctl.Action{ofctl.Output{Port: l.uplink}},
	}
}

// bridges is a Datapath on two bridges. What concerns the provider's network is outer's, the external
// one: guard, probes, ICMP errors, and gates that steer. Workloads, rules, and the gates before them are
// the workloads' bridge's, which has the guard too. The two cannot be changed atomically; steering comes first, and
// what is steered and finds no gate ends at the second guard.
type bridges struct {
	*datapath
	outer *datapath
}

// Set is bypass.Datapath's.
func (b *bridges) Set(ctx context.Context, base bypass.Base) error {
	first, second := b.outer, b.datapath
	if base.Lease == 0 {
		first, second = second, first
	}
	if err := first.Set(ctx, base); err != nil {
		return err
	}
	return second.Set(ctx, base)
}

// Apply is bypass.Datapath's.
func (b *bridges) Apply(ctx context.Context, c bypass.Change) error {
	outer, inner := split(c)
	if len(outer.Leases)+len(outer.Add) > 0 { // not for each flow
		if err := b.outer.Apply(ctx, bypass.Change{Leases: outer.Leases, Add: outer.Add}); err != nil {
			return err
		}
	}
	err := b.datapath.Apply(ctx, inner)
	switch {
	case err == nil:
	case errors.Is(err, bypass.ErrUnconfirmed):
		return err
	default: // nothing was changed here; gates that steer end by themselves
		outer = bypass.Change{Remove: outer.Add}
	}
	outer.Leases, outer.Add = nil, nil
	if len(outer.Remove)+len(outer.Purge) > 0 {
		if err := b.outer.Apply(ctx, outer); err != nil && b.outer.ctx.Err() == nil {
			b.cfg.Logger.Warn("flows of the external bridge stay until their time-outs", "error", err)
		}
	}
	return err
}

// split is what of c each bridge is told: Listen rules are the external one's, all others the
// workloads', and leases both's.
func split(c bypass.Change) (outer, inner bypass.Change) {
	outer.Leases, inner.Leases = c.Leases, c.Leases
	for _, r := range c.Add {
		to := to(r, &outer, &inner)
		to.Add = append(to.Add, r)
	}
	for _, r := range c.Remove {
		to := to(r, &outer, &inner)
		to.Remove = append(to.Remove, r)
	}
	for _, s := range c.Purge {
		to := to(s.Rule, &outer, &inner)
		to.Purge = append(to.Purge, s)
	}
	return outer, inner
}

func to(r bypass.Rule, outer, inner *bypass.Change) *bypass.Change {
	if r.Direction == bypass.Listen {
		return outer
	}
	return inner
}

// Rules is bypass.Datapath's.
func (b *bridges) Rules(ctx context.Context) ([]bypass.RuleStat, error) {
	rules, err := b.datapath.Rules(ctx)
	if err != nil {
		return nil, err
	}
	more, err := b.outer.Rules(ctx)
	return append(rules, more...), err
}

// Inject is bypass.Datapath's.
func (b *bridges) Inject(ctx context.Context, ofport uint32, frame []byte) error {
	if ofport == 0 {
		return b.outer.Inject(ctx, 0, frame)
	}
	return b.datapath.Inject(ctx, ofport, frame)
}

// Watch is bypass.Datapath's: the switch is there when both bridges are.
func (b *bridges) Watch(ctx context.Context, f func(bypass.Event)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &bothWatch{f: f}
	outer := make(chan error, 1)
	go func() {
		defer cancel()
		outer <- b.outer.Watch(ctx, w.outer.note(w))
	}()
	err := b.datapath.Watch(ctx, w.inner.note(w))
	cancel()
	return errors.Join(err, <-outer)
}

// Close is bypass.Datapath's.
func (b *bridges) Close() error { return errors.Join(b.datapath.Close(), b.outer.Close()) }

// bothWatch makes one stream of events of two.
type bothWatch struct {
	mu           sync.Mutex // f is called under it: one at a time
	f            func(bypass.Event)
	inner, outer half
	told         bool // that both are there
}

// half is what one bridge is known to be.
type half struct{ up, fresh bool }

// note is the function to watch h with.
func (h *half) note(w *bothWatch) func(bypass.Event) {
	return func(e bypass.Event) {
		w.mu.Lock()
		defer w.mu.Unlock()
		switch e := e.(type) {
		case bypass.DatapathUp:
			h.up, h.fresh = true, h.fresh || e.Fresh
			w.tell()
		case bypass.DatapathDown:
			h.up = false
			if w.told {
				w.told = false
				w.f(e)
			}
		default:
			w.f(e)
		}
	}
}

// tell says that both are there, if they are, and that is new.
func (w *bothWatch) tell() {
	fresh := w.inner.fresh || w.outer.fresh
	if !w.inner.up || !w.outer.up || w.told && !fresh {
		return
	}
	w.told, w.inner.fresh, w.outer.fresh = true, false, false
	w.f(bypass.DatapathUp{Fresh: fresh})
}
