package ofctl

import (
	"fmt"
	"slices"
	"strings"
)

// Canonical is m as a switch would dump it: fields in the order of their kinds,
// no mask that covers a whole field, no field that matches everything. m itself is
// not changed. Two matches select the same frames if Canonical makes them equal.
func (m Match) Canonical() Match {
	out := make(Match, 0, len(m))
	for _, f := range m {
		if f, ok := f.canonical(); ok {
			out = append(out, f)
		}
	}
	slices.SortStableFunc(out, func(a, b Field) int { return int(a.kind) - int(b.kind) })
	return out
}

// Equal tells whether m and o are the same match, in whatever form.
func (m Match) Equal(o Match) bool { return slices.Equal(m.Canonical(), o.Canonical()) }

// Covers tells whether every frame that o matches is one that m matches: o is at
// least as specific. It is how Modify, Delete and FlowFilter select flows.
func (m Match) Covers(o Match) bool {
	oc := o.Canonical()
	for _, f := range m.Canonical() {
		i := slices.IndexFunc(oc, func(g Field) bool { return g.kind == f.kind })
		if i < 0 || !f.covers(oc[i]) {
			return false
		}
	}
	return true
}

// Check tells why a switch would refuse m: a field that stands twice, lacks its
// prerequisite, or has a mask that it may not have.
func (m Match) Check() error {
	var seen [kindCount]bool
	for _, f := range m {
		fi := f.kind.info()
		switch {
		case fi.bits == 0:
			return fmt.Errorf("ofctl: match has a field without a kind, or an address of the wrong family")
		case seen[f.kind]:
			return fmt.Errorf("ofctl: match field %s stands twice", fi.name)
		case f.masked && !fi.maskable:
			return fmt.Errorf("ofctl: match field %s cannot be masked", fi.name)
		}
		seen[f.kind] = true
		if fi.bits < 64 && f.number(f.value)>>fi.bits != 0 {
			return fmt.Errorf("ofctl: match field %s has more than %d bits", fi.name, fi.bits)
		}
		if missing := m.missing(fi); missing != "" {
			return fmt.Errorf("ofctl: match field %s needs %s", fi.name, missing)
		}
	}
	return nil
}

// missing names what a field with row fi needs and m lacks, "" if nothing.
func (m Match) missing(fi *fieldInfo) string {
	switch ether := (prerequisite{kind: KindEthType, value: fi.ether}); {
	case len(fi.needs) > 0 && !slices.ContainsFunc(fi.needs, m.has):
		return needsText(fi.needs)
	case fi.ether != 0 && !m.has(ether):
		return needsText([]prerequisite{ether})
	}
	return ""
}

// checkActions tells why a switch would refuse actions in a flow with match m.
func (m Match) checkActions(actions []Action) error {
	pushed := false
	for _, a := range actions {
		missing := ""
		switch a := a.(type) {
		case nil:
			return fmt.Errorf("ofctl: nil action")
		case SetField:
			if err := a.check(); err != nil {
				return err
			}
			if a.Field.kind != KindVLANPCP || !pushed {
				missing = m.missing(a.Field.kind.info())
			}
		case PushVLAN:
			pushed = true
		case PopVLAN:
			pushed = false
		case DecTTL:
			missing = m.missing(&fieldInfo{needs: needIP})
		case Tether:
			if a.Table == TableAll {
				return fmt.Errorf("ofctl: action %s must name one table", a)
			}
		}
		if missing != "" {
			return fmt.Errorf("ofctl: action %s needs %s in the match", a, missing)
		}
	}
	return nil
}

// check tells why a could stand in no flow and no group.
func (a SetField) check() error {
	switch fi := a.Field.kind.info(); {
	case fi.bits == 0:
		return fmt.Errorf("ofctl: set_field has a field without a kind, or an address of the wrong family")
	case !fi.settable:
		return fmt.Errorf("ofctl: field %s cannot be set", fi.name)
	case a.Field.masked:
		return fmt.Errorf("ofctl: set_field of %s must not be masked", fi.name)
	}
	return nil
}

// has tells whether m has p's field with p's value.
func (m Match) has(p prerequisite) bool {
	want, mask := field16(p.kind, p.value), field16(p.kind, p.mask)
	if p.kind.Width() == 1 {
		want, mask = field8(p.kind, uint8(p.value)), field8(p.kind, uint8(p.mask))
	}
	if p.mask == 0 {
		return slices.Contains(m, want)
	}
	want.masked, want.mask = true, mask.value
	return slices.ContainsFunc(m, func(f Field) bool { return f.kind == p.kind && want.covers(f) })
}

// needsText names the alternatives of a prerequisite.
func needsText(needs []prerequisite) string {
	words := make([]string, 0, len(needs))
	for _, p := range needs {
		word := fmt.Sprintf("%s=0x%x", p.kind, p.value)
		if p.mask != 0 {
			word += fmt.Sprintf("/0x%x", p.mask)
		}
		words = append(words, word)
	}
	return strings.Join(words, " or ")
}

// canonical is f without a mask that covers it all; ok is false if f matches
// everything.
func (f Field) canonical() (_ Field, ok bool) {
	if !f.masked {
		return f, true
	}
	bits := f.kind.info().bits
	all, none := true, true
	for i := range bits {
		// Bits are counted from the last one: a field that is not a whole number
		// of bytes is aligned to the right.
		set := f.mask[f.kind.Width()-1-i/8]>>(i%8)&1 == 1
		all, none = all && set, none && !set
	}
	if all {
		f.masked, f.mask = false, [16]byte{}
	}
	return f, !none
}

// covers tells whether f, of g's kind and as canonical as g, matches all that g does.
func (f Field) covers(g Field) bool {
	for i := range f.kind.Width() {
		fm, gm := byte(0xff), byte(0xff)
		if f.masked {
			fm = f.mask[i]
		}
		if g.masked {
			gm = g.mask[i]
		}
		if fm&^gm != 0 || (f.value[i]^g.value[i])&fm != 0 {
			return false
		}
	}
	return true
}
