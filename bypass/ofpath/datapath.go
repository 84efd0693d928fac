package ofpath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/ofctl"
)

// datapath is a bypass.Datapath. One goroutine, run, owns the connection and makes
// it anew; calls use it meanwhile.
type datapath struct {
	cfg    Config
	ctx    context.Context // of run; ends with Close
	cancel context.CancelFunc
	done   chan struct{} // closed when run has ended
	made   time.Time     // clock's beginning
	ports  chan struct{} // of length 1: ports have changed

	// change serialises what changes the switch, so that what is known of it
	// (installed, base) goes through the same states as the switch does. It is
	// held over round trips and taken before mu. A channel of length 1: a caller's
	// ctx ends the wait.
	change chan struct{}

	mu        sync.Mutex
	sw        ofctl.Switch // nil = away
	layout    layout       // layout.uplink 0 = the switch has no such port
	base      *bypass.Base // what Set was last told; nil = nothing
	installed index
	held      map[lessee]time.Time // until when there is a tether
	doubt     bool                 // a change was not confirmed
	watchers  map[*watcher]bool
}

func newDatapath(cfg Config) *datapath {
	ctx, cancel := context.WithCancel(context.Background())
	return &datapath{
		cfg: cfg, ctx: ctx, cancel: cancel, made: time.Now(),
		done: make(chan struct{}), ports: make(chan struct{}, 1), change: make(chan struct{}, 1),
		layout:    layout{cfg: cfg},
		installed: newIndex(), held: map[lessee]time.Time{}, watchers: map[*watcher]bool{},
	}
}

// Close ends the connection; what is in the switch stays until its lease ends.
func (d *datapath) Close() error {
	d.cancel()
	<-d.done
	return nil
}

func closed() error { return fmt.Errorf("ofpath: datapath: %w", net.ErrClosed) }

// clock is t in short, for what is kept of each rule.
func (d *datapath) clock(t time.Time) int64 { return int64(t.Sub(d.made)) }

// session is the connection, and how to program it now.
func (d *datapath) session() (ofctl.Switch, layout, error) {
	if d.ctx.Err() != nil {
		return nil, layout{}, closed()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sw == nil {
		return nil, layout{}, fmt.Errorf("ofpath: %w", bypass.ErrSwitchDown)
	}
	return d.sw, d.layout, nil
}

// begin takes the right to change the switch; the caller gives it back with end.
func (d *datapath) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case d.change <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-d.ctx.Done():
		return closed()
	}
}

func (d *datapath) end() { <-d.change }

// send applies mods. A connection that left an Apply unconfirmed, or is lost, is given
// up: run makes a new one, and what is in the switch is compared again.
func (d *datapath) send(ctx context.Context, sw ofctl.Switch, step string, mods []ofctl.Mod) error {
	err := convert(step, sw.Apply(ctx, mods))
	unconfirmed := errors.Is(err, bypass.ErrUnconfirmed)
	if unconfirmed {
		d.mu.Lock()
		d.doubt = true
		d.mu.Unlock()
	}
	if unconfirmed || errors.Is(err, bypass.ErrSwitchDown) {
		_ = sw.Close() // it is of no more use
	}
	return err
}

// convert makes of an error of ofctl what the Datapath contract says.
func convert(step string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ofctl.ErrUnconfirmed):
		return fmt.Errorf("ofpath: %s: %w: %w", step, bypass.ErrUnconfirmed, err)
	case errors.Is(err, ofctl.ErrClosed):
		return fmt.Errorf("ofpath: %s: %w: %w", step, bypass.ErrSwitchDown, err)
	}
	return fmt.Errorf("ofpath: %s: %w", step, err)
}

func (d *datapath) Set(ctx context.Context, b bypass.Base) error {
	if b.Ports == (bypass.PortRange{}) {
		b.Ports = bypass.DefaultPorts
	}
	if err := checkBase(b); err != nil {
		return fmt.Errorf("ofpath: set: %w", err)
	}
	if err := d.begin(ctx); err != nil {
		return fmt.Errorf("ofpath: set: %w", err)
	}
	defer d.end()
	sw, l, err := d.session()
	if err != nil {
		return err
	}
	if l.uplink == 0 {
		return d.noUplink("set")
	}
	fresh := l.epoch != b.Epoch
	l.epoch, l.ports = b.Epoch, b.Ports
	if b.Lease > 0 {
		if err := d.setMeters(ctx, sw, l, true); err != nil {
			return err
		}
	}
	mods, err := setMods(ctx, sw, l, b)
	if err != nil {
		return convert("set", err)
	}
	b.Workloads, b.Hops, b.Guard = slices.Clone(b.Workloads), slices.Clone(b.Hops), slices.Clone(b.Guard)
	d.mu.Lock()
	before, was := d.layout, d.base
	d.layout.epoch, d.layout.ports, d.base = b.Epoch, b.Ports, &b
	if b.Lease == 0 {
		d.installed = newIndex() // what goes now is not missed
		clear(d.held)
	}
	d.mu.Unlock()
	if err := d.send(ctx, sw, "set", mods); err != nil {
		if !errors.Is(err, bypass.ErrUnconfirmed) {
			d.mu.Lock()
			d.layout.epoch, d.layout.ports, d.base = before.epoch, before.ports, was
			d.mu.Unlock()
		}
		return err
	}
	if fresh {
		d.mu.Lock()
		d.installed = newIndex() // rules of another epoch are not ours to miss
		clear(d.held)
		d.mu.Unlock()
	}
	if b.Lease == 0 {
		return d.setMeters(ctx, sw, l, false)
	}
	return nil
}

func (d *datapath) noUplink(step string) error {
	return fmt.Errorf("ofpath: %s: the switch has no port %q", step, d.cfg.Uplink)
}

// setMods is what makes the slow half of the switch be b. All its flows are added
// anew, which renews their time-outs; what else is there of it, of whatever run, is
// deleted, but for an earlier run's guard: peers that it could not tell may still send.
func setMods(ctx context.Context, sw ofctl.Switch, l layout, b bypass.Base) ([]ofctl.Mod, error) {
	groups, err := sw.Groups(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing groups: %w", err)
	}
	o := l.cfg.owner()
	if b.Lease == 0 { // the end: the switch is to be as if we had never been there
		all := ofctl.FlowMod{Command: ofctl.Delete, Flow: ofctl.Flow{Table: ofctl.TableAll, Cookie: o.Cookie}, CookieMask: o.Mask}
		_, gone := groupMods(l, nil, groups)
		return append([]ofctl.Mod{all}, gone...), nil
	}
	stats, err := sw.Flows(ctx, ofctl.FlowFilter{Table: tableClassify, Cookie: o.Cookie, CookieMask: o.Mask})
	if err != nil {
		return nil, fmt.Errorf("listing table %d: %w", tableClassify, err)
	}
	wanted := l.base(b)
	mods, unwanted := groupMods(l, l.groups(b.Hops), groups)
	for _, f := range wanted {
		mods = append(mods, ofctl.FlowMod{Command: ofctl.Add, Flow: f})
	}
	for _, s := range stats {
		same := func(f ofctl.Flow) bool {
			return f.Table == s.Table && f.Priority == s.Priority && f.Match.Equal(s.Match)
		}
		if l.cfg.kindOf(s.Flow) == kindBase && !slices.ContainsFunc(wanted, same) && !l.guardsEarlier(s.Flow) {
			mods = append(mods, remove(s.Flow, o.Mask))
		}
	}
	return append(mods, unwanted...), nil
}

// guardsEarlier: f is an earlier run's guard, and ends by itself.
func (l layout) guardsEarlier(f ofctl.Flow) bool {
	return f.Priority == l.cfg.Priority-guardBelow && f.Goto == 0 && f.HardTimeout > 0 && cookieEpoch(f.Cookie) != l.epoch
}

// remove deletes f if it carries f's cookie in mask's bits.
func remove(f ofctl.Flow, mask uint64) ofctl.Mod {
	return ofctl.FlowMod{
		Command: ofctl.DeleteStrict, CookieMask: mask,
		Flow: ofctl.Flow{Table: f.Table, Priority: f.Priority, Cookie: f.Cookie, Match: f.Match},
	}
}

// groupMods is what makes our groups be wanted: what comes before the flows, and the
// deletions, which come after them.
func groupMods(l layout, wanted, have []ofctl.Group) (mods, deletions []ofctl.Mod) {
	left := map[uint32]ofctl.Group{}
	for _, g := range have {
		if g.ID >= l.cfg.GroupBase && g.ID-l.cfg.GroupBase < groupCount {
			left[g.ID] = g
		}
	}
	for _, g := range wanted {
		old, there := left[g.ID]
		delete(left, g.ID)
		switch {
		case !there:
			mods = append(mods, ofctl.GroupMod{Command: ofctl.Add, Group: g})
		case old.String() != g.String():
			mods = append(mods, ofctl.GroupMod{Command: ofctl.Modify, Group: g})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(left)) {
		deletions = append(deletions, ofctl.GroupMod{Command: ofctl.Delete, Group: ofctl.Group{ID: id}})
	}
	return mods, deletions
}

func (d *datapath) Rules(ctx context.Context) ([]bypass.RuleStat, error) {
	sw, _, err := d.session()
	if err != nil {
		return nil, err
	}
	o := d.cfg.owner()
	flows, err := sw.Flows(ctx, ofctl.Owned(o.Cookie, o.Mask))
	if err != nil {
		return nil, convert("rules", err)
	}
	var list []bypass.RuleStat
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range flows {
		r, ok := d.cfg.stat(s)
		if !ok {
			continue
		}
		if r.Epoch == d.layout.epoch {
			r.Rule.ID, _ = d.installed.owner(keyOf(r.Rule.Direction, s.Match))
		}
		list = append(list, r)
	}
	return list, nil
}

func (d *datapath) Inject(ctx context.Context, ofport uint32, frame []byte) error {
	sw, l, err := d.session()
	if err != nil {
		return err
	}
	out := ofctl.PacketOut{InPort: ofport, Frame: frame, Actions: []ofctl.Action{ofctl.Output{Port: ofctl.PortTable}}}
	if ofport == 0 {
		if l.uplink == 0 {
			return d.noUplink("inject")
		}
		out.Actions = []ofctl.Action{ofctl.Output{Port: l.uplink}}
	}
	return convert("inject", sw.PacketOut(ctx, out))
}

func (d *datapath) Deliver(ctx context.Context, ofport uint32, frame []byte) error {
	sw, _, err := d.session()
	if err != nil {
		return err
	}
	out := ofctl.PacketOut{InPort: ofctl.PortController, Frame: frame, Actions: []ofctl.Action{ofctl.Output{Port: ofport}}}
	return convert("deliver", sw.PacketOut(ctx, out))
}

// find is the numbers of the uplink, and, on an external bridge, of the patch port; 0 if one is missing.
func (c Config) find(ports []ofctl.Port) (uplink, patch uint32) {
	uplink = findUplink(ports, c.Uplink)
	if c.patch == "" {
		return uplink, 0
	}
	if patch = findUplink(ports, c.patch); patch == 0 || uplink == 0 {
		return 0, 0
	}
	return uplink, patch
}

// findUplink is the number of a port; 0 if there is no such port.
func findUplink(ports []ofctl.Port, uplink string) uint32 {
	for _, p := range ports {
		if p.Name == uplink {
			return p.No
		}
	}
	n, err := strconv.ParseUint(uplink, 10, 32)
	if err != nil {
		return 0
	}
	for _, p := range ports {
		if p.No == uint32(n) {
			return p.No
		}
	}
	return 0
}
