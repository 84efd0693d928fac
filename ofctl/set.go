package ofctl

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Owner is whose flows: those with Cookie in Mask's bits.
type Owner struct{ Cookie, Mask uint64 }

// Owns tells whether a flow with this cookie is the owner's.
func (o Owner) Owns(cookie uint64) bool { return cookie&o.Mask == o.Cookie&o.Mask }

// Wanted is all that an owner wants in a switch. Flows are compared by table,
// priority, match, instructions, cookie, flags and time-outs; groups, which have
// no cookie, belong to the owner by their IDs: GroupIDs names the owner's range.
type Wanted struct {
	Flows  []Flow
	Groups []Group
	// GroupIDs is the closed range of group IDs that are the owner's; groups in it
	// that are not wanted are deleted. The zero range owns none.
	GroupIDs [2]uint32
}

// Difference is what Set had to change.
type Difference struct{ Added, Modified, Deleted, GroupsAdded, GroupsModified, GroupsDeleted int }

// Set makes the owner's flows and groups in sw be exactly the wanted ones
// and touches no other. It dumps, takes the difference, and sends one bundle:
// groups and flows to add or modify first, deletions last, so that no frame finds
// neither. It is idempotent: with nothing to do it sends nothing.
//
// Where somebody else's flow has the table, priority and match of a wanted one,
// Set leaves it if it does the same, and otherwise fails with nothing changed.
// Between dump and bundle others may change the switch: an owner should have one
// writer.
func Set(ctx context.Context, sw Switch, owner Owner, wanted Wanted) (Difference, error) {
	changed, _, err := set(ctx, sw, owner, wanted)
	return changed, err
}

// set is Set; own is how many flows of the owner's the switch has now.
func set(ctx context.Context, sw Switch, owner Owner, wanted Wanted) (_ Difference, own int, err error) {
	d, err := newDiff(owner, wanted)
	if err != nil {
		return Difference{}, 0, fmt.Errorf("ofctl: set: %w", err)
	}
	var groups []Group
	if wanted.GroupIDs != [2]uint32{} {
		if groups, err = sw.Groups(ctx); err != nil {
			return Difference{}, 0, fmt.Errorf("ofctl: set: %w", err)
		}
	}
	flows, err := sw.Flows(ctx, AllFlows)
	if err == nil {
		d.groups(groups)
		err = d.flows(flows)
	}
	if err != nil {
		return Difference{}, 0, fmt.Errorf("ofctl: set: %w", err)
	}
	mods := slices.Concat(d.before, d.change, d.remove, d.after)
	own = len(d.want) - d.others
	if len(mods) == 0 {
		return Difference{}, own, nil
	}
	if err := sw.Apply(ctx, mods); err != nil {
		return Difference{}, 0, fmt.Errorf("ofctl: set: %w", err)
	}
	return d.count, own, nil
}

// place is what makes two flows the same entry of a switch. match is the canonical
// match as it goes over the wire, which is comparable.
type place struct {
	table    uint8
	priority uint16
	match    string
}

func (f *Flow) place() place {
	return place{f.Table, f.Priority, string(appendCanonical(nil, f.Match.Canonical()))}
}

// diff takes the difference between what is wanted and what there is.
type diff struct {
	owner     Owner
	want      map[place]Flow
	order     []place // of want, as wanted
	groupIDs  [2]uint32
	groupWant []Group
	// The steps of the bundle, in this order: groups that flows may need, flows,
	// flows that go, groups that nothing needs any more.
	before, change, remove, after []Mod
	count                         Difference
	others                        int // flows of somebody else's that do what is wanted
}

func newDiff(owner Owner, wanted Wanted) (*diff, error) {
	d := &diff{owner: owner, want: make(map[place]Flow, len(wanted.Flows)),
		groupIDs: wanted.GroupIDs, groupWant: wanted.Groups}
	for _, f := range wanted.Flows {
		if !owner.Owns(f.Cookie) {
			return nil, fmt.Errorf("wanted flow is not the owner's by its cookie: %s", f)
		}
		if err := f.Match.Canonical().Check(); err != nil {
			return nil, fmt.Errorf("wanted flow %s: %w", f, err)
		}
		p := f.place()
		if _, twice := d.want[p]; twice {
			return nil, fmt.Errorf("flow is wanted twice: %s", f)
		}
		d.want[p] = f
		d.order = append(d.order, p)
	}
	for i, g := range wanted.Groups {
		if g.ID < wanted.GroupIDs[0] || g.ID > wanted.GroupIDs[1] || wanted.GroupIDs == [2]uint32{} {
			return nil, fmt.Errorf("wanted group %d is not in the owner's range %d-%d",
				g.ID, wanted.GroupIDs[0], wanted.GroupIDs[1])
		}
		if slices.ContainsFunc(wanted.Groups[:i], func(o Group) bool { return o.ID == g.ID }) {
			return nil, fmt.Errorf("group is wanted twice: %d", g.ID)
		}
	}
	return d, nil
}

// Why the switch cannot be as wanted, whatever is sent to it.
var (
	errPartial = errors.New("the owner's flow has parts that ofctl has no words for")
	errNotOurs = errors.New("somebody else's flow")
)

// flows compares the wanted flows with those that the switch has.
func (d *diff) flows(have []FlowStat) error {
	done := make(map[place]bool, len(d.want))
	for i := range have {
		f := &have[i].Flow
		own := d.owner.Owns(f.Cookie)
		if have[i].Partial {
			if own {
				return fmt.Errorf("%w: %s", errPartial, f)
			}
			continue // not even its match is known
		}
		p := f.place()
		w, wanted := d.want[p]
		switch {
		case !own && !wanted:
		case !own && !w.sameInstructions(f):
			return fmt.Errorf("%w: %s is in the place of %s", errNotOurs, f, w)
		case !wanted:
			d.remove = append(d.remove, FlowMod{Command: DeleteStrict, Flow: *f, CookieMask: ^uint64(0)})
			d.count.Deleted++
		case !own:
			d.others++
		case !w.same(f):
			// Add replaces time-outs, flags and cookie as well, which Modify does not.
			d.change = append(d.change, FlowMod{Command: Add, Flow: w})
			d.count.Modified++
		}
		done[p] = done[p] || wanted
	}
	for _, p := range d.order {
		if !done[p] {
			d.change = append(d.change, FlowMod{Command: Add, Flow: d.want[p]})
			d.count.Added++
		}
	}
	return nil
}

// groups compares the wanted groups with those that the switch has.
func (d *diff) groups(have []Group) {
	done := make(map[uint32]bool, len(d.groupWant))
	for _, h := range have {
		if d.groupIDs == [2]uint32{} || h.ID < d.groupIDs[0] || h.ID > d.groupIDs[1] {
			continue
		}
		i := slices.IndexFunc(d.groupWant, func(w Group) bool { return w.ID == h.ID })
		switch {
		case i < 0:
			d.after = append(d.after, GroupMod{Command: Delete, Group: Group{ID: h.ID}})
			d.count.GroupsDeleted++
			continue
		case !d.groupWant[i].same(h):
			d.before = append(d.before, GroupMod{Command: Modify, Group: d.groupWant[i]})
			d.count.GroupsModified++
		}
		done[h.ID] = true
	}
	for _, w := range d.groupWant {
		if !done[w.ID] {
			d.before = append(d.before, GroupMod{Command: Add, Group: w})
			d.count.GroupsAdded++
		}
	}
}

// same tells whether two flows of the same place are the same in everything that
// a switch keeps.
func (f *Flow) same(o *Flow) bool {
	return f.Cookie == o.Cookie && f.IdleTimeout == o.IdleTimeout && f.HardTimeout == o.HardTimeout &&
		f.flags() == o.flags() && f.sameInstructions(o)
}

func (f *Flow) sameInstructions(o *Flow) bool {
	fm, om := f.Metadata, o.Metadata
	return f.Meter == o.Meter && f.Goto == o.Goto && f.Clear == o.Clear &&
		fm.Mask == om.Mask && fm.Value&fm.Mask == om.Value&om.Mask &&
		sameActions(f.Apply, o.Apply) && sameActions(f.Write, o.Write)
}

func (g Group) same(o Group) bool {
	return g.Type == o.Type && slices.EqualFunc(g.Buckets, o.Buckets, func(a, b Bucket) bool {
		return a.Weight == b.Weight && orAny(a.WatchPort) == orAny(b.WatchPort) &&
			orAny(a.WatchGroup) == orAny(b.WatchGroup) && sameActions(a.Actions, b.Actions)
	})
}

// sameActions compares actions but for a MaxLen that means nothing.
func sameActions(a, b []Action) bool {
	return slices.EqualFunc(a, b, func(a, b Action) bool {
		x, ok := a.(Output)
		y, ok2 := b.(Output)
		if ok && ok2 && x.Port != PortController {
			return x.Port == y.Port
		}
		return a == b
	})
}
