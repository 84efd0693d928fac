package ofctl

import (
	"fmt"
	"strings"
)

// parseInstructions reads what follows actions= of a flow.
func (f *Flow) parseInstructions(text string) error {
	var apply []string
	for _, word := range words(text) {
		known, err := f.parseInstruction(word)
		if err != nil {
			return fmt.Errorf("%s: %w", word, err)
		}
		if !known {
			apply = append(apply, word)
		}
	}
	var err error
	f.Apply, err = parseActions(apply)
	return err
}

// parseInstruction reads an instruction; known is false for an action to apply.
func (f *Flow) parseInstruction(word string) (known bool, err error) {
	key, value, _ := strings.Cut(word, ":")
	switch {
	case key == "meter":
		f.Meter, err = number[uint32](value)
	case word == "clear_actions":
		f.Clear = true
	case strings.HasPrefix(word, "write_actions(") && strings.HasSuffix(word, ")"):
		f.Write, err = parseActions(words(word[len("write_actions(") : len(word)-1]))
	case key == "write_metadata":
		f.Metadata, err = parseMetadata(value)
	case key == "goto_table":
		f.Goto, err = number[uint8](value)
	default:
		return false, nil
	}
	return true, err
}

func parseMetadata(s string) (m MetadataWrite, err error) {
	value, mask, masked := strings.Cut(s, "/")
	m.Mask = ^uint64(0)
	if m.Value, err = number[uint64](value); err == nil && masked {
		m.Mask, err = number[uint64](mask)
	}
	m.Value &= m.Mask
	return m, err
}

// parseActions reads the words of a list; "drop" is an empty one.
func parseActions(words []string) (as []Action, err error) {
	if len(words) == 1 && words[0] == "drop" {
		return nil, nil
	}
	for _, word := range words {
		a, err := parseAction(word)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", word, err)
		}
		as = append(as, a)
	}
	return as, nil
}

func parseAction(word string) (Action, error) {
	key, value, colon := strings.Cut(word, ":")
	switch key {
	case "output":
		port, err := parsePort(value)
		return Output{Port: port}, err
	case "CONTROLLER", "controller":
		if !colon {
			return ToController(0xffff), nil
		}
		n, err := number[uint16](value)
		return ToController(n), err
	case "group":
		id, err := number[uint32](value)
		return ToGroup{ID: id}, err
	case "set_queue":
		id, err := number[uint32](value)
		return SetQueue{ID: id}, err
	case "set_field":
		return parseSetField(value)
	case "push_vlan":
		if t, err := number[uint16](value); err != nil || t != etherTypeVLAN {
			return nil, errUnknownWord
		}
		return PushVLAN{}, nil
	case "pop_vlan", "strip_vlan":
		return PopVLAN{}, nil
	case "dec_ttl":
		return DecTTL{}, nil
	}
	if args, ok := strings.CutPrefix(word, "learn("); ok {
		return parseTether(strings.TrimSuffix(args, ")"))
	}
	port, err := parsePort(word)
	if err != nil {
		return nil, errUnknownWord
	}
	return Output{Port: port}, nil
}

func parseSetField(s string) (Action, error) {
	value, name, _ := strings.Cut(s, "->")
	for k := FieldKind(1); k < kindCount; k++ {
		if fi := k.info(); fi.name != name {
			continue
		}
		f, err := parseValue(k, value)
		return SetField{Field: f}, err
	}
	return nil, errUnknownWord
}

// parseTether reads the arguments of a learn action that is a Tether.
func parseTether(args string) (Action, error) {
	var a Tether
	deletes := false
	for _, word := range words(args) {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case "table":
			a.Table, err = number[uint8](value)
		case "cookie":
			a.Cookie, err = number[uint64](value)
		case "delete_learned":
			deletes = true
		default:
			err = errUnknownWord
		}
		if err != nil {
			return nil, err
		}
	}
	if !deletes {
		return nil, errUnknownWord // it learns
	}
	return a, nil
}
