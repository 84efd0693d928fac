package ofctltest

import (
	"fmt"
	"slices"
	"time"

	"github.com/viasnet/vias/ofctl"
)

// transaction is one bundle on its way into the tables. Nothing of it shows (no
// event, no timer) before commit, and rollback undoes it. Switch.mu is held.
type transaction struct {
	sw  *Switch
	now time.Time
	// undo runs from the end, done from the start.
	undo, done []func()
	// cut are the tethers of which the last one went.
	cut []ofctl.Tether
}

// applyLocked executes mods: all of them, or none and an error.
func (s *Switch) applyLocked(mods []ofctl.Mod) error {
	t := &transaction{sw: s, now: time.Now()}
	for i, m := range mods {
		if err := t.mod(m); err != nil {
			for _, f := range slices.Backward(t.undo) {
				f()
			}
			return &modError{i, err}
		}
	}
	t.commit()
	return nil
}

// modError says which modification of a bundle was refused.
type modError struct {
	index int
	err   error // a *ofctl.SwitchError
}

func (e *modError) Error() string {
	return fmt.Sprintf("ofctltest: apply: modification %d: %v", e.index, e.err)
}

func (e *modError) Unwrap() error { return e.err }

// mod executes one step. The result is an error and not a *SwitchError lest nil
// becomes non-nil.
func (t *transaction) mod(m ofctl.Mod) error {
	switch m := m.(type) {
	case ofctl.FlowMod:
		if err := t.sw.checkFlowMod(m, t.sw.tables.groups); err != nil {
			return err
		}
		if id := m.Flow.Meter; id != 0 && m.Command < ofctl.Delete && t.sw.tables.meters[id] == nil {
			return refuse(ofctl.ErrTypeMeterModFailed, meterModInvalid)
		}
		return t.flowMod(m)
	case ofctl.GroupMod:
		if err := t.sw.checkGroupMod(m); err != nil {
			return err
		}
		t.groupMod(m)
	case ofctl.MeterMod:
		return t.meterMod(m)
	default:
		return refuse(ofctl.ErrTypeFlowModFailed, flowModBadCommand)
	}
	return nil
}

func (t *transaction) flowMod(m ofctl.FlowMod) error {
	switch m.Command {
	case ofctl.Add:
		return t.add(m)
	case ofctl.Modify, ofctl.ModifyStrict:
		for _, f := range t.targets(m) {
			t.modify(f, m)
		}
	case ofctl.Delete, ofctl.DeleteStrict:
		for _, f := range t.targets(m) {
			t.remove(f, ofctl.RemovedDelete)
		}
	}
	return nil
}

// targets are the flows that a modification or deletion is about.
func (t *transaction) targets(m ofctl.FlowMod) []*flow {
	ts := &t.sw.tables
	filter := ofctl.FlowFilter{Table: m.Flow.Table, Match: m.Flow.Match, Cookie: m.Flow.Cookie, CookieMask: m.CookieMask}
	if m.Command >= ofctl.Delete {
		filter.OutPort, filter.OutGroup = m.OutPort, m.OutGroup
	}
	if m.Command == ofctl.Modify || m.Command == ofctl.Delete {
		return ts.selected(filter)
	}
	var out []*flow
	value, mask := compile(m.Flow.Match.Canonical())
	for i := range ts.flows {
		if m.Flow.Table != ofctl.TableAll && int(m.Flow.Table) != i {
			continue
		}
		f := ts.flows[i].find(&value, &mask, m.Flow.Priority)
		if f != nil && f.matches(&value, &mask, &filter) {
			out = append(out, f)
		}
	}
	return out
}

// add installs a flow. One with its match and priority is replaced without a
// FlowRemoved; its counters are carried over, unless they are to be reset (OpenFlow
// 1.3.5, section 6.4), its age is not.
func (t *transaction) add(m ofctl.FlowMod) error {
	n := newFlow(m.Flow, t.now)
	tab := &t.sw.tables.flows[m.Flow.Table]
	if m.CheckOverlap {
		for f := range tab.all() {
			if n.overlaps(f) {
				return refuse(ofctl.ErrTypeFlowModFailed, flowModOverlap)
			}
		}
	}
	t.tie(tethers(&n.Flow))
	if old := tab.find(&n.value, &n.mask, n.Priority); old != nil {
		tab.remove(old)
		t.untie(tethers(&old.Flow))
		if !m.ResetCounts {
			n.packets, n.bytes = old.packets, old.bytes
		}
		t.undo = append(t.undo, func() { tab.insert(old) })
		t.done = append(t.done, old.stopTimer)
	}
	tab.insert(n)
	t.undo = append(t.undo, func() { tab.remove(n) })
	t.done = append(t.done, func() { t.sw.armLocked(n) })
	return nil
}

// modify replaces f's instructions. Cookie, time-outs, flags, counters and age stay
// (section 6.4); as in Open vSwitch, the hard time-out starts anew.
func (t *transaction) modify(f *flow, m ofctl.FlowMod) {
	oldFlow, oldModified, packets, bytes := f.Flow, f.modified, f.packets, f.bytes
	f.setInstructions(m.Flow)
	if m.ResetCounts {
		f.packets, f.bytes = 0, 0
	}
	t.tie(tethers(&f.Flow))
	t.untie(tethers(&oldFlow))
	f.modified = t.now
	t.undo = append(t.undo, func() { f.Flow, f.modified, f.packets, f.bytes = oldFlow, oldModified, packets, bytes })
}

func (t *transaction) remove(f *flow, why ofctl.RemovedReason) {
	tab := &t.sw.tables.flows[f.Table]
	tab.remove(f)
	t.untie(tethers(&f.Flow))
	t.undo = append(t.undo, func() { tab.insert(f) })
	t.done = append(t.done, func() {
		// A flow that the same bundle added has no timer yet; armLocked, which
		// ran before, has seen that it is gone.
		f.stopTimer()
		t.sw.flowRemovedLocked(f, why, t.now)
	})
}

func (t *transaction) groupMod(m ofctl.GroupMod) {
	groups := t.sw.tables.groups
	if m.Command == ofctl.Delete {
		ids := []uint32{m.Group.ID}
		if m.Group.ID == groupAll {
			ids = ids[:0]
			for id := range groups {
				ids = append(ids, id)
			}
		}
		for _, id := range ids {
			t.removeGroup(id)
		}
		return
	}
	id := m.Group.ID
	old, had := groups[id]
	groups[id] = cloneGroup(m.Group)
	t.undo = append(t.undo, func() {
		if had {
			groups[id] = old
		} else {
			delete(groups, id)
		}
	})
}

// groupAll (OFPG_ALL) in a deletion stands for every group.
const groupAll = 0xfffffffc

// removeGroup also removes the flows that refer to the group (section 6.5); a
// group that is not there is no error.
func (t *transaction) removeGroup(id uint32) {
	g, ok := t.sw.tables.groups[id]
	if !ok {
		return
	}
	delete(t.sw.tables.groups, id)
	t.undo = append(t.undo, func() { t.sw.tables.groups[id] = g })
	for _, f := range t.sw.tables.every() {
		if f.usesGroup(id) {
			t.remove(f, ofctl.RemovedGroup)
		}
	}
}

func cloneGroup(g ofctl.Group) ofctl.Group {
	g.Buckets = slices.Clone(g.Buckets)
	for i := range g.Buckets {
		g.Buckets[i].Actions = slices.Clone(g.Buckets[i].Actions)
	}
	return g
}
