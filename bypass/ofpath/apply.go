package ofpath

import (
	"context"
	"errors"
	"fmt"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/ofctl"
)

func (d *datapath) Apply(ctx context.Context, c bypass.Change) error {
	if err := checkChange(c); err != nil {
		return fmt.Errorf("ofpath: apply: %w", err)
	}
	if err := d.begin(ctx); err != nil {
		return fmt.Errorf("ofpath: apply: %w", err)
	}
	defer d.end()
	sw, l, err := d.session()
	switch {
	case err != nil:
		return err
	case l.uplink == 0:
		return d.noUplink("apply")
	case d.base == nil && len(c.Leases)+len(c.Add) > 0: // change guards writing it
		return errors.New("ofpath: apply: nothing was Set yet, so there is no epoch")
	}
	mods, undo := d.prepare(l, c)
	if err := d.send(ctx, sw, "apply", mods); err != nil {
		if !errors.Is(err, bypass.ErrUnconfirmed) {
			undo()
		}
		return err
	}
	return nil
}

func checkChange(c bypass.Change) error {
	for _, l := range c.Leases {
		if err := checkLease(l); err != nil {
			return fmt.Errorf("lease of peer %d: %w", l.Peer, err)
		}
	}
	for _, r := range c.Add {
		if err := checkRule(r); err != nil {
			return fmt.Errorf("adding %v rule %d: %w", r.Direction, r.ID, err)
		}
	}
	return nil
}

// prepare is c as modifications. From now on the rules that c removes are not
// missed when they vanish, and those that it adds are; undo takes that back.
func (d *datapath) prepare(l layout, c bypass.Change) (mods []ofctl.Mod, undo func()) {
	mods = make([]ofctl.Mod, 0, 2*len(c.Leases)+len(c.Add)+len(c.Remove)+len(c.Purge))
	for _, e := range c.Leases {
		mods = append(mods,
			gate(l.inboundGate(e), l.cfg.owner().Mask), gate(l.outboundGate(e), l.cfg.owner().Mask))
	}
	was := map[ruleKey]*bypass.Rule{}
	d.mu.Lock()
	defer d.mu.Unlock()
	keep := func(k ruleKey) {
		if _, kept := was[k]; kept {
			return
		}
		was[k] = nil
		if old, ok := d.installed[k]; ok {
			was[k] = &old
		}
	}
	var moved []ofctl.Mod // the rules whose ID gets another match
	for _, r := range c.Add {
		k, f := ruleKey{r.Direction, r.ID}, l.rule(r)
		mods = append(mods, ofctl.FlowMod{Command: ofctl.Add, Flow: f})
		if old, ok := d.installed[k]; ok && old != r {
			if of := l.rule(old); !of.Match.Equal(f.Match) {
				moved = append(moved, remove(of, cookieOfRule))
			}
		}
		keep(k)
		d.installed[k] = r
	}
	for _, r := range c.Remove {
		k := ruleKey{r.Direction, r.ID}
		f := l.rule(r)
		mods = append(mods, remove(f, cookieOfRule))
		if old, ok := d.installed[k]; ok && old != r {
			if of := l.rule(old); !of.Match.Equal(f.Match) {
				mods = append(mods, remove(of, cookieOfRule))
			}
		}
		keep(k)
		delete(d.installed, k)
	}
	for _, s := range c.Purge {
		mods = append(mods, l.purge(s))
	}
	return append(mods, moved...), func() { d.restore(was) }
}

// purge removes a rule of an earlier epoch by its cookie: its match cannot be known
// for certain. Other flows of that epoch with its number are as dead as it is.
func (l layout) purge(s bypass.RuleStat) ofctl.Mod {
	table := l.cfg.OutboundTable
	switch s.Rule.Direction {
	case bypass.Inbound:
		table = l.cfg.InboundTable
	case bypass.Listen:
		table = tableClassify
	}
	cookie := l.cookie(s.Rule.ID)&^(0xffff<<32) | uint64(s.Epoch)<<32
	return ofctl.FlowMod{Command: ofctl.Delete, Flow: ofctl.Flow{Table: table, Cookie: cookie}, CookieMask: ^uint64(0)}
}

// cookieOfRule is the part of a rule's cookie that names it in any epoch: a removal
// takes what an earlier run left, but never a rule with another ID and this match.
const cookieOfRule = 0xffff_0000_ffff_ffff

// gate adds or renews f, or deletes it if it has no time left.
func gate(f ofctl.Flow, owner uint64) ofctl.Mod {
	if f.HardTimeout == 0 {
		return remove(f, owner)
	}
	return ofctl.FlowMod{Command: ofctl.Add, Flow: f}
}

func (d *datapath) restore(was map[ruleKey]*bypass.Rule) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k, r := range was {
		if delete(d.installed, k); r != nil {
			d.installed[k] = *r
		}
	}
}
