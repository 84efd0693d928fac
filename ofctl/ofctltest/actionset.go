package ofctltest

import (
	"slices"

	"github.com/viasnet/vias/ofctl"
)

// actionSet is what a frame carries to the end of the pipeline: at most one action
// of a type, and one set_field a field (OpenFlow 1.3.5, section 5.10).
type actionSet struct {
	pop, push, ttl bool
	fields         []ofctl.SetField
	group          *ofctl.ToGroup
	output         *ofctl.Output
}

// write merges as into the set; a later action replaces an earlier one.
func (s *actionSet) write(as []ofctl.Action) {
	for _, a := range as {
		switch a := a.(type) {
		case ofctl.PopVLAN:
			s.pop = true
		case ofctl.PushVLAN:
			s.push = true
		case ofctl.DecTTL:
			s.ttl = true
		case ofctl.SetField:
			s.setField(a)
		case ofctl.ToGroup:
			s.group = &a
		case ofctl.Output:
			s.output = &a
		}
	}
}

func (s *actionSet) setField(a ofctl.SetField) {
	same := func(o ofctl.SetField) bool { return o.Field.Kind() == a.Field.Kind() }
	s.fields = append(slices.DeleteFunc(s.fields, same), a)
}

// list is the set in the order in which it is executed. A set without group and
// output drops the frame; with both, the group wins.
func (s *actionSet) list() []ofctl.Action {
	var as []ofctl.Action
	switch {
	case s.group == nil && s.output == nil:
		return nil
	case s.pop:
		as = append(as, ofctl.PopVLAN{})
	}
	if s.push {
		as = append(as, ofctl.PushVLAN{})
	}
	if s.ttl {
		as = append(as, ofctl.DecTTL{})
	}
	for _, f := range s.fields {
		as = append(as, f)
	}
	if s.group != nil {
		return append(as, *s.group)
	}
	return append(as, *s.output)
}
