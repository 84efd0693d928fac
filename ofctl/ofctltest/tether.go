package ofctltest

import (
	"slices"

	"github.com/viasnet/vias/ofctl"
)

// learnPriority is that of a flow that a tether installs when it is executed.
const learnPriority = 0x8000

// tethers are those in f.
func tethers(f *ofctl.Flow) []ofctl.Tether {
	var out []ofctl.Tether
	for _, a := range f.Apply {
		if t, ok := a.(ofctl.Tether); ok {
			out = append(out, t)
		}
	}
	return out
}

// count notes n more of each.
func (ts *tables) count(tethers []ofctl.Tether, n int) {
	for _, t := range tethers {
		if ts.tethers == nil {
			ts.tethers = make(map[ofctl.Tether]int)
		}
		if ts.tethers[t] += n; ts.tethers[t] == 0 {
			delete(ts.tethers, t)
		}
	}
}

// tie notes the tethers of a flow that comes.
func (t *transaction) tie(come []ofctl.Tether) {
	ts := &t.sw.tables
	ts.count(come, 1)
	t.undo = append(t.undo, func() { ts.count(come, -1) })
}

// untie notes the tethers of a flow that goes.
func (t *transaction) untie(gone []ofctl.Tether) {
	ts := &t.sw.tables
	ts.count(gone, -1)
	t.undo = append(t.undo, func() { ts.count(gone, 1) })
	for _, a := range gone {
		if ts.tethers[a] == 0 {
			t.cut = append(t.cut, a)
		}
	}
}

// commit ends what cannot fail any more. As in Open vSwitch, a tether is gone when
// the last one like it is, though a later modification of the same bundle brings
// another, and takes along what the bundle adds.
func (t *transaction) commit() {
	for len(t.cut) > 0 {
		a := t.cut[0]
		t.cut = t.cut[1:]
		flows := t.sw.tables.selected(ofctl.FlowFilter{Table: a.Table, Cookie: a.Cookie, CookieMask: ^uint64(0)})
		slices.SortFunc(flows, compareFlows)
		for _, f := range flows {
			t.remove(f, ofctl.RemovedDelete)
		}
	}
	for _, f := range t.done {
		f()
	}
	t.sw.cache.changed(t.now)
}

// tetherLocked executes a tether: a frame has come upon it after all.
func (s *Switch) tetherLocked(a ofctl.Tether) {
	var all key
	if a.Table >= numTables || s.tables.flows[a.Table].find(&all, &all, learnPriority) != nil {
		return
	}
	// It cannot be refused: it has neither match nor actions.
	_ = s.applyLocked([]ofctl.Mod{ofctl.FlowMod{Flow: ofctl.Flow{
		Table: a.Table, Priority: learnPriority, Cookie: a.Cookie,
	}}})
}
