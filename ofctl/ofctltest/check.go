package ofctltest

import (
	"slices"

	"github.com/viasnet/vias/ofctl"
)

// Errors of OpenFlow 1.3.5, section 7.4.4, with Open vSwitch's choice among them.
const (
	badActionType         = 0
	badActionOutPort      = 4
	badActionArgument     = 5
	badActionOutGroup     = 9
	badActionInconsistent = 10
	badActionSetType      = 13
	badActionSetArgument  = 15

	badInstructionTable = 2

	badMatchField  = 6
	badMatchMask   = 8
	badMatchPrereq = 9
	badMatchDup    = 10

	flowModBadTable   = 2
	flowModOverlap    = 3
	flowModBadCommand = 6

	groupModExists     = 0
	groupModInvalid    = 1
	groupModUnknown    = 8
	groupModBadType    = 10
	groupModBadCommand = 11
	groupModBadWatch   = 13
)

func refuse(typ, code uint16) *ofctl.SwitchError {
	return &ofctl.SwitchError{Type: typ, Code: code}
}

// checkEarly is why the switch refuses m whatever is in its tables, or nil.
func (s *Switch) checkEarly(m ofctl.Mod) error {
	if m, ok := m.(ofctl.FlowMod); ok {
		if err := s.checkFlowMod(m, nil); err != nil {
			return err
		}
	}
	return nil
}

// checkFlowMod is why the switch refuses m, or nil. A flow may refer to a group that
// is in groups; nil = to any.
func (s *Switch) checkFlowMod(m ofctl.FlowMod, groups map[uint32]ofctl.Group) *ofctl.SwitchError {
	if m.Flow.Table >= numTables && (m.Flow.Table != ofctl.TableAll || m.Command == ofctl.Add) {
		return refuse(ofctl.ErrTypeFlowModFailed, flowModBadTable)
	}
	if m.Command > ofctl.DeleteStrict {
		return refuse(ofctl.ErrTypeFlowModFailed, flowModBadCommand)
	}
	if err := s.checkMatch(m.Flow.Match); err != nil {
		return err
	}
	if m.Command == ofctl.Delete || m.Command == ofctl.DeleteStrict {
		return nil
	}
	if g := m.Flow.Goto; g != 0 && (g <= m.Flow.Table || g >= numTables) {
		return refuse(ofctl.ErrTypeBadInstruction, badInstructionTable)
	}
	if tied := tethers(&m.Flow); len(tied) > 0 && s.cfg.Lacks.Has(ofctl.CapTether) {
		return refuse(ofctl.ErrTypeBadAction, badActionType)
	}
	c := actionCheck{groups: groups, match: slices.Clone(m.Flow.Match)}
	if err := c.list(m.Flow.Apply); err != nil {
		return err
	}
	if slices.ContainsFunc(m.Flow.Write, func(a ofctl.Action) bool { _, ok := a.(ofctl.Tether); return ok }) {
		return refuse(ofctl.ErrTypeBadAction, badActionType) // no action of a set
	}
	return c.list(m.Flow.Write)
}

// checkMatch is why the switch refuses m, or nil.
func (s *Switch) checkMatch(m ofctl.Match) *ofctl.SwitchError {
	for i, f := range m {
		k := f.Kind()
		switch {
		case offset(k) < 0, s.lacks(f):
			return refuse(ofctl.ErrTypeBadMatch, badMatchField)
		case slices.ContainsFunc(m[:i], func(o ofctl.Field) bool { return o.Kind() == k }):
			return refuse(ofctl.ErrTypeBadMatch, badMatchDup)
		case f.Mask() != nil && !maskable(k):
			return refuse(ofctl.ErrTypeBadMatch, badMatchMask)
		}
	}
	if m.Check() != nil {
		return refuse(ofctl.ErrTypeBadMatch, badMatchPrereq)
	}
	return nil
}

// lacks tells whether f needs an extension that this switch is without.
func (s *Switch) lacks(f ofctl.Field) bool {
	switch f.Kind() {
	case ofctl.KindFrag:
		return s.cfg.Lacks.Has(ofctl.CapFragMatch)
	case ofctl.KindTTL:
		return s.cfg.Lacks.Has(ofctl.CapTTLMatch)
	case ofctl.KindTCPSrc, ofctl.KindTCPDst, ofctl.KindUDPSrc, ofctl.KindUDPDst:
		return f.Mask() != nil && s.cfg.Lacks.Has(ofctl.CapPortMask)
	}
	return false
}

// maskable: fields that Open vSwitch takes with any mask.
func maskable(k ofctl.FieldKind) bool {
	switch k {
	case ofctl.KindInPort, ofctl.KindEthType, ofctl.KindIPProto, ofctl.KindIPDSCP, ofctl.KindIPECN,
		ofctl.KindTTL, ofctl.KindARPOp, ofctl.KindICMP4Type, ofctl.KindICMP4Code,
		ofctl.KindICMP6Type, ofctl.KindICMP6Code:
		return false
	}
	return true
}

// settable: fields that SetField may set.
func settable(k ofctl.FieldKind) bool {
	switch k {
	case ofctl.KindInPort, ofctl.KindEthType, ofctl.KindIPProto, ofctl.KindFrag:
		return false
	}
	return offset(k) >= 0
}

// actionCheck walks an action list with what is known of the frame at each step.
type actionCheck struct {
	// groups are those that there are; nil = any may be.
	groups map[uint32]ofctl.Group
	// match is what the frame is known to be.
	match ofctl.Match
	// free: the frame may be anything (buckets, packet-out), so nothing about it
	// can be inconsistent.
	free bool
}

func (c *actionCheck) list(as []ofctl.Action) *ofctl.SwitchError {
	for _, a := range as {
		if err := c.action(a); err != nil {
			return err
		}
	}
	return nil
}

func (c *actionCheck) action(a ofctl.Action) *ofctl.SwitchError {
	inconsistent := refuse(ofctl.ErrTypeBadAction, badActionInconsistent)
	switch a := a.(type) {
	case ofctl.Output:
		return c.output(a.Port)
	case ofctl.ToGroup:
		if _, ok := c.groups[a.ID]; !ok && c.groups != nil {
			return refuse(ofctl.ErrTypeBadAction, badActionOutGroup)
		}
	case ofctl.SetField:
		return c.setField(a.Field)
	case ofctl.PushVLAN:
		c.without(ofctl.KindVLAN)
		c.match = append(c.match, ofctl.VLAN(0))
	case ofctl.PopVLAN:
		if !c.free && !c.hasTag() {
			return inconsistent
		}
		c.without(ofctl.KindVLAN)
	case ofctl.DecTTL:
		if !c.free && !c.allows(ofctl.TTL(0)) {
			return inconsistent
		}
	case ofctl.Tether:
		if a.Table == ofctl.TableAll {
			return refuse(ofctl.ErrTypeBadAction, badActionArgument)
		}
	default:
		return refuse(ofctl.ErrTypeBadAction, badActionType)
	}
	return nil
}

// output refuses what is neither an ofport nor a reserved port that makes sense.
func (c *actionCheck) output(port uint32) *ofctl.SwitchError {
	switch {
	case port == ofctl.PortAny, port == 0,
		port >= 0xff00 && port < ofctl.PortInPort:
		return refuse(ofctl.ErrTypeBadAction, badActionOutPort)
	}
	return nil
}

func (c *actionCheck) setField(f ofctl.Field) *ofctl.SwitchError {
	k := f.Kind()
	switch {
	case !settable(k):
		return refuse(ofctl.ErrTypeBadAction, badActionSetArgument)
	case f.Mask() != nil:
		return refuse(ofctl.ErrTypeBadAction, badActionSetType)
	case c.free:
		return nil
	case k == ofctl.KindVLAN && !c.hasTag(), !c.allows(f):
		return refuse(ofctl.ErrTypeBadAction, badActionInconsistent)
	}
	return nil
}

// allows tells whether the match holds f's prerequisites.
func (c *actionCheck) allows(f ofctl.Field) bool {
	m := slices.DeleteFunc(slices.Clone(c.match), func(o ofctl.Field) bool { return o.Kind() == f.Kind() })
	return append(m, f).Check() == nil
}

// hasTag tells whether the frame is known to have a VLAN tag.
func (c *actionCheck) hasTag() bool {
	return slices.ContainsFunc(c.match, func(f ofctl.Field) bool {
		return f.Kind() == ofctl.KindVLAN && f != ofctl.Untagged()
	})
}

func (c *actionCheck) without(k ofctl.FieldKind) {
	c.match = slices.DeleteFunc(c.match, func(f ofctl.Field) bool { return f.Kind() == k })
}

// checkGroupMod is why the switch refuses m, or nil.
func (s *Switch) checkGroupMod(m ofctl.GroupMod) *ofctl.SwitchError {
	g := m.Group
	_, exists := s.tables.groups[g.ID]
	switch {
	case m.Command != ofctl.Add && m.Command != ofctl.Modify && m.Command != ofctl.Delete:
		return refuse(ofctl.ErrTypeGroupModFailed, groupModBadCommand)
	case m.Command == ofctl.Delete:
		return nil
	case g.Type > ofctl.GroupFastFailover:
		return refuse(ofctl.ErrTypeGroupModFailed, groupModBadType)
	case g.ID >= 0xffffff00, g.Type == ofctl.GroupIndirect && len(g.Buckets) != 1:
		return refuse(ofctl.ErrTypeGroupModFailed, groupModInvalid)
	case m.Command == ofctl.Add && exists:
		return refuse(ofctl.ErrTypeGroupModFailed, groupModExists)
	case m.Command == ofctl.Modify && !exists:
		return refuse(ofctl.ErrTypeGroupModFailed, groupModUnknown)
	}
	for _, b := range g.Buckets {
		watches := b.WatchPort != 0 && b.WatchPort != ofctl.PortAny || b.WatchGroup != 0 && b.WatchGroup != ofctl.GroupAny
		if g.Type == ofctl.GroupFastFailover && !watches {
			return refuse(ofctl.ErrTypeGroupModFailed, groupModBadWatch)
		}
		c := actionCheck{free: true} // buckets may refer to groups that are to come
		if err := c.list(b.Actions); err != nil {
			return err
		}
	}
	return nil
}
