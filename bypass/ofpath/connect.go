package ofpath

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/ofctl"
)

// settle bounds the first exchange on a new connection, and the one after ports
// have changed.
const settle = 10 * time.Second

// run keeps a connection until Close. sw and err are what the first dial brought.
func (d *datapath) run(sw ofctl.Switch, err error) {
	defer close(d.done)
	wait := d.cfg.RetryMin
	for d.ctx.Err() == nil {
		if err == nil {
			wait = d.cfg.RetryMin
			err = d.serve(sw)
			if d.ctx.Err() != nil {
				return
			}
		}
		d.cfg.Logger.Warn("switch is away", "error", err, "retry", wait)
		select {
		case <-time.After(wait):
		case <-d.ctx.Done():
			return
		}
		wait = min(2*wait, d.cfg.RetryMax)
		sw, err = d.dial(d.ctx)
	}
}

// serve uses one connection until it is lost, and closes it.
func (d *datapath) serve(sw ofctl.Switch) error {
	lost := make(chan error, 1)
	ctx, cancel := context.WithCancel(d.ctx)
	e := newEcho()
	go func() { lost <- sw.Watch(ctx, e.watch(d.event)) }()
	closing := func() {
		cancel()
		_ = sw.Close() // lost, or no longer wanted
	}
	fresh, err := d.compare(sw, e)
	if err != nil {
		closing()
		<-lost
		return err
	}
	d.mu.Lock()
	d.sw = sw
	d.emitLocked(bypass.DatapathUp{Fresh: fresh})
	d.mu.Unlock()
	d.cfg.Logger.Info("switch is connected", "fresh", fresh)
	watching := true
	for watching {
		select {
		case err = <-lost:
			watching = false
		case <-d.ports:
			d.portsChanged(sw)
		}
	}
	closing()
	if err == nil {
		err = ofctl.ErrClosed
	}
	d.mu.Lock()
	d.sw = nil
	if d.ctx.Err() == nil {
		d.emitLocked(bypass.DatapathDown{Err: fmt.Errorf("%w: %w", bypass.ErrSwitchDown, err)})
	}
	d.mu.Unlock()
	return err
}

// compare looks at a switch that was just connected: do its events come, which port
// is the uplink, and is all that we left still there?
func (d *datapath) compare(sw ofctl.Switch, e echo) (fresh bool, err error) {
	ctx, cancel := context.WithTimeout(d.ctx, settle)
	defer cancel()
	if err := e.wait(ctx, sw); err != nil {
		return true, err
	}
	if err := d.begin(ctx); err != nil {
		return true, err
	}
	defer d.end()
	ports, err := sw.Ports(ctx)
	if err != nil {
		return true, convert("listing ports", err)
	}
	uplink, patch := d.cfg.find(ports)
	o := d.cfg.owner()
	flows, err := sw.Flows(ctx, ofctl.Owned(o.Cookie, o.Mask))
	if err != nil {
		return true, convert("listing flows", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	moved := uplink != d.layout.uplink || patch != d.layout.patch
	d.layout.uplink, d.layout.patch = uplink, patch
	d.layout.metered = sw.Features().Capabilities.Has(ofctl.CapMeter)
	if uplink == 0 {
		d.cfg.Logger.Error("the switch has no such port", "uplink", d.cfg.Uplink, "patch", d.cfg.patch)
	}
	fresh = moved || d.doubt || d.base == nil || !d.intactLocked(flows)
	d.doubt = false
	return fresh, nil
}

// intactLocked tells whether the slow half and all rules are among flows. Leases are
// not: they end by themselves.
func (d *datapath) intactLocked(flows []ofctl.FlowStat) bool {
	there := make(map[string]bool)
	rules := make(map[matchKey]uint64, len(flows)) // cookies
	name := func(f ofctl.Flow) string {
		return fmt.Sprint(f.Table, " ", f.Cookie, " ", f.Match)
	}
	for _, s := range flows {
		switch dir, ok := d.cfg.kindOf(s.Flow).direction(); {
		case !ok:
			there[name(s.Flow)] = true
		case dir == bypass.Outbound || slices.Contains(s.Match, ofctl.InPort(d.layout.uplink)):
			rules[keyOf(dir, s.Match)] = s.Cookie
		}
	}
	for _, f := range d.layout.base(*d.base) {
		if !there[name(f)] {
			return false
		}
	}
	for r := range d.installed.all() {
		if cookie, ok := rules[r.matchKey]; !ok || cookie != d.layout.named(&r).Cookie {
			return false
		}
	}
	return true
}

// portsChanged looks the uplink up again and moves what depends on its number.
func (d *datapath) portsChanged(sw ofctl.Switch) {
	ctx, cancel := context.WithTimeout(d.ctx, settle)
	defer cancel()
	if err := d.moveUplink(ctx, sw); err != nil && d.ctx.Err() == nil {
		d.cfg.Logger.Error("moving to the uplink's new port", "error", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.emitLocked(bypass.PortsChanged{})
}

func (d *datapath) moveUplink(ctx context.Context, sw ofctl.Switch) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	defer d.end()
	ports, err := sw.Ports(ctx)
	if err != nil {
		return convert("listing ports", err)
	}
	uplink, patch := d.cfg.find(ports)
	d.mu.Lock()
	was, base := d.layout, d.base
	d.layout.uplink, d.layout.patch = uplink, patch
	l := d.layout
	if l.outer() && uplink != 0 && (uplink != was.uplink || patch != was.patch) { // the host makes gates anew
		d.emitLocked(bypass.DatapathUp{Fresh: true})
	}
	d.mu.Unlock()
	if uplink == was.uplink || uplink == 0 || base == nil {
		return nil
	}
	mods, err := setMods(ctx, sw, l, *base)
	if err != nil {
		return convert("uplink", err)
	}
	o := d.cfg.owner()
	flows, err := sw.Flows(ctx, ofctl.Owned(o.Cookie, o.Mask))
	if err != nil {
		return convert("listing flows", err)
	}
	moved, deletions := repoint(d.cfg, flows, was.uplink, uplink)
	mods = append(append(mods, moved...), deletions...)
	return d.send(ctx, sw, "uplink", mods)
}

// repoint moves rules and inbound gates from one uplink port to another, with the
// time that they have left.
func repoint(cfg Config, flows []ofctl.FlowStat, from, to uint32) (mods, deletions []ofctl.Mod) {
	for _, s := range flows {
		i := slices.Index(s.Match, ofctl.InPort(from))
		switch k := cfg.kindOf(s.Flow); {
		case i < 0 || from == 0 || s.Partial:
			continue
		case k != kindInbound && k != kindListen && k != kindGate:
			continue
		}
		f := s.Flow
		f.Match = slices.Clone(s.Match)
		f.Match[i] = ofctl.InPort(to)
		if f.HardTimeout > 0 {
			left := int64(f.HardTimeout) - int64(s.AgeSeconds)
			if left <= 0 {
				continue
			}
			f.HardTimeout = uint16(left)
		}
		mods = append(mods, ofctl.FlowMod{Command: ofctl.Add, Flow: f})
		deletions = append(deletions, remove(s.Flow, ^uint64(0)))
	}
	return mods, deletions
}
