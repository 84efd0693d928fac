package ofctltest

import (
	"bytes"
	"cmp"
	"iter"
	"slices"
	"time"

	"github.com/viasnet/vias/ofctl"
)

// numTables is how many tables there are, as in Open vSwitch, which keeps the last
// one of the 255 to itself.
const numTables = 254

// flow is one entry of a table. Switch.mu guards it.
type flow struct {
	ofctl.Flow
	value, mask    key
	packets, bytes uint64
	// created counts for the duration, modified for the hard time-out, used for the
	// idle one.
	created, modified, used time.Time
	timer                   *time.Timer
	// gone: removed from its table; its timer and cached decisions may outlive it.
	gone bool
}

func newFlow(f ofctl.Flow, now time.Time) *flow {
	n := &flow{Flow: f, created: now, modified: now, used: now}
	n.Match = f.Match.Canonical()
	n.value, n.mask = compile(n.Match)
	n.setInstructions(f)
	return n
}

// setInstructions copies f's, so that the caller keeps his slices.
func (f *flow) setInstructions(from ofctl.Flow) {
	f.Meter, f.Apply = from.Meter, slices.Clone(from.Apply)
	f.Write = slices.Clone(from.Write)
	f.Clear, f.Metadata, f.Goto = from.Clear, from.Metadata, from.Goto
	f.Metadata.Value &= f.Metadata.Mask
}

// hit counts one frame of size bytes.
func (f *flow) hit(size int, now time.Time) {
	f.packets++
	f.bytes += uint64(size)
	f.used = now
}

// matches tells whether f is at least as specific as (value, mask) and is one of those
// that filter selects by anything else than match and table.
func (f *flow) matches(value, mask *key, filter *ofctl.FlowFilter) bool {
	return f.Cookie&filter.CookieMask == filter.Cookie&filter.CookieMask && covers(value, mask, &f.value, &f.mask) &&
		(filter.OutPort == 0 || f.outputs(filter.OutPort)) && (filter.OutGroup == 0 || f.usesGroup(filter.OutGroup))
}

// outputs tells whether f sends to a port.
func (f *flow) outputs(port uint32) bool {
	sends := func(a ofctl.Action) bool { o, ok := a.(ofctl.Output); return ok && o.Port == port }
	return slices.ContainsFunc(f.Apply, sends) || slices.ContainsFunc(f.Write, sends)
}

// overlaps tells whether some frame matches both.
func (f *flow) overlaps(o *flow) bool {
	both := f.mask.and(&o.mask)
	return f.Priority == o.Priority && f.value.and(&both) == o.value.and(&both)
}

// usesGroup tells whether f refers to the group.
func (f *flow) usesGroup(id uint32) bool {
	refers := func(a ofctl.Action) bool { return a == ofctl.ToGroup{ID: id} }
	return slices.ContainsFunc(f.Apply, refers) || slices.ContainsFunc(f.Write, refers)
}

func (f *flow) stat(now time.Time) ofctl.FlowStat {
	// Open vSwitch takes it between two clocks of whole milliseconds.
	age := now.Truncate(time.Millisecond).Sub(f.created.Truncate(time.Millisecond))
	s := ofctl.FlowStat{
		Flow: f.Flow, Packets: f.packets, Bytes: f.bytes,
		AgeSeconds: uint32(age / time.Second), AgeNanosecs: uint32(age % time.Second),
	}
	s.Match, s.Apply, s.Write = slices.Clone(f.Match), slices.Clone(f.Apply), slices.Clone(f.Write)
	return s
}

// table finds the flow for a frame by tuple-space search (Srinivasan, Suri and
// Varghese, SIGCOMM 1999): one hash index per mask, in falling order of the
// highest priority that each holds.
type table struct {
	tuples []*tuple
	byMask map[key]*tuple
	// What was looked up, and found.
	lookups, matched uint64
}

// tuple holds the flows of one mask.
type tuple struct {
	mask key
	top  uint16 // highest priority, or higher
	// flows by masked value, in falling order of priority.
	flows map[key][]*flow
}

// lookup is the flow of the highest priority that matches k, or nil.
func (t *table) lookup(k *key) *flow {
	var best *flow
	for _, tu := range t.tuples {
		if best != nil && tu.top <= best.Priority {
			break
		}
		fs := tu.flows[k.and(&tu.mask)]
		if len(fs) > 0 && (best == nil || fs[0].Priority > best.Priority) {
			best = fs[0]
		}
	}
	return best
}

// find is the flow with exactly this match and priority, or nil.
func (t *table) find(value, mask *key, priority uint16) *flow {
	tu := t.byMask[*mask]
	if tu == nil {
		return nil
	}
	for _, f := range tu.flows[*value] {
		if f.Priority == priority {
			return f
		}
	}
	return nil
}

// insert adds f; a flow with its match and priority must not be there.
func (t *table) insert(f *flow) {
	tu := t.byMask[f.mask]
	if tu == nil {
		tu = &tuple{mask: f.mask, flows: make(map[key][]*flow)}
		if t.byMask == nil {
			t.byMask = make(map[key]*tuple)
		}
		t.byMask[f.mask] = tu
		t.tuples = append(t.tuples, tu)
	}
	tu.top = max(tu.top, f.Priority)
	fs := append(tu.flows[f.value], f)
	slices.SortFunc(fs, func(a, b *flow) int { return cmp.Compare(b.Priority, a.Priority) })
	tu.flows[f.value] = fs
	slices.SortStableFunc(t.tuples, func(a, b *tuple) int { return cmp.Compare(b.top, a.top) })
	f.gone = false
}

func (t *table) remove(f *flow) {
	f.gone = true
	tu := t.byMask[f.mask]
	fs := slices.DeleteFunc(tu.flows[f.value], func(o *flow) bool { return o == f })
	if len(fs) > 0 {
		tu.flows[f.value] = fs
		return
	}
	delete(tu.flows, f.value)
	if len(tu.flows) == 0 {
		delete(t.byMask, tu.mask)
		t.tuples = slices.DeleteFunc(t.tuples, func(o *tuple) bool { return o == tu })
	}
}

func (t *table) all() iter.Seq[*flow] {
	return func(yield func(*flow) bool) {
		for _, tu := range t.tuples {
			for _, fs := range tu.flows {
				for _, f := range fs {
					if !yield(f) {
						return
					}
				}
			}
		}
	}
}

// tables is what controllers program: flows, groups and meters.
type tables struct {
	flows  [numTables]table
	groups map[uint32]ofctl.Group
	meters map[uint32]*meter
	// tethers is how many there are of each.
	tethers map[ofctl.Tether]int
}

// selected are the flows that filter selects.
func (ts *tables) selected(filter ofctl.FlowFilter) []*flow {
	value, mask := compile(filter.Match.Canonical())
	var out []*flow
	for i := range ts.flows {
		if filter.Table != ofctl.TableAll && int(filter.Table) != i {
			continue
		}
		for f := range ts.flows[i].all() {
			if f.matches(&value, &mask, &filter) {
				out = append(out, f)
			}
		}
	}
	return out
}

// compareFlows orders a dump: by table, falling priority, and match.
func compareFlows(a, b *flow) int {
	return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(b.Priority, a.Priority),
		bytes.Compare(a.mask[:], b.mask[:]), bytes.Compare(a.value[:], b.value[:]))
}

// every flow of every table.
func (ts *tables) every() []*flow { return ts.selected(ofctl.AllFlows) }
