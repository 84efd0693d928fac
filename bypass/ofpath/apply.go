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

// purge removes all rules of an earlier epoch that have s's direction and peer, by
// their cookie.
func (l layout) purge(s bypass.RuleStat) []ofctl.Mod {
	table, whose := l.cfg.OutboundTable, s.Rule.Peer
	switch s.Rule.Direction {
	case bypass.Inbound:
		table = l.cfg.InboundTable
	case bypass.Listen:
		table, whose = tableClassify, listening
	}
	if s.Epoch == l.epoch {
		return nil
	}
	f := ofctl.Flow{Table: table, Cookie: l.cfg.cookie(s.Epoch, whose)}
	return []ofctl.Mod{ofctl.FlowMod{Command: ofctl.Delete, Flow: f, CookieMask: ^uint64(0)}}
}

// gate adds or renews f, or deletes it if it has no time left.
func gate(f ofctl.Flow, owner uint64) ofctl.Mod {
	if f.HardTimeout == 0 {
		return remove(f, owner)
	}
	return ofctl.FlowMod{Command: ofctl.Add, Flow: f}
}
