package ofctl

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ParseFlow reads a flow in the words of ovs-ofctl: what Flow.String prints, a line for
// ovs-ofctl add-flow, or one of dump-flows, whose counters it passes over. As there, a
// flow without a priority has 32768. Words that this package has no value for are an
// error, which names them.
func ParseFlow(text string) (Flow, error) {
	f := Flow{Priority: defaultPriority}
	head, actions, err := cutActions(text)
	if err != nil {
		return Flow{}, fmt.Errorf("ofctl: parse flow: %w", err)
	}
	var match []string
	for _, word := range words(head) {
		known, err := f.parseWord(word)
		if err != nil {
			return Flow{}, fmt.Errorf("ofctl: parse flow: %s: %w", word, err)
		}
		if !known {
			match = append(match, word)
		}
	}
	if f.Match, err = parseMatch(match); err != nil {
		return Flow{}, fmt.Errorf("ofctl: parse flow: %w", err)
	}
	if err := f.parseInstructions(actions); err != nil {
		return Flow{}, fmt.Errorf("ofctl: parse flow: %w", err)
	}
	return f, nil
}

// defaultPriority is OFP_DEFAULT_PRIORITY.
const defaultPriority = 0x8000

// ParseMatch reads a match, such as "tcp,nw_dst=10.0.0.0/8,tp_dst=80". Its fields are in
// the order of the text.
func ParseMatch(text string) (Match, error) {
	m, err := parseMatch(words(text))
	if err != nil {
		return nil, fmt.Errorf("ofctl: parse match: %w", err)
	}
	return m, nil
}

// ParseActions reads a list of actions, such as "dec_ttl,output:3"; "drop" is none.
func ParseActions(text string) ([]Action, error) {
	as, err := parseActions(words(text))
	if err != nil {
		return nil, fmt.Errorf("ofctl: parse actions: %w", err)
	}
	return as, nil
}

// ParseGroup reads a group, such as "group_id=1,type=all,bucket=actions=output:1".
func ParseGroup(text string) (Group, error) {
	head, rest, some := strings.Cut(text, "bucket=")
	var g Group
	for _, word := range words(head) {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case "group_id":
			g.ID, err = number[uint32](value)
		case "type":
			g.Type, err = parseGroupType(value)
		default:
			err = errUnknownWord
		}
		if err != nil {
			return Group{}, fmt.Errorf("ofctl: parse group: %s: %w", word, err)
		}
	}
	if !some {
		return g, nil
	}
	for text := range strings.SplitSeq(rest, "bucket=") {
		b, err := parseBucket(strings.TrimRight(text, ", "))
		if err != nil {
			return Group{}, fmt.Errorf("ofctl: parse group: bucket: %w", err)
		}
		g.Buckets = append(g.Buckets, b)
	}
	return g, nil
}

func parseGroupType(s string) (GroupType, error) {
	for t := GroupAll; t <= GroupFastFailover; t++ {
		if s == t.String() {
			return t, nil
		}
	}
	if s == "fast_failover" {
		return GroupFastFailover, nil
	}
	return 0, errUnknownWord
}

func parseBucket(text string) (b Bucket, err error) {
	head, actions, err := cutActions(text)
	if err != nil {
		return Bucket{}, err
	}
	for _, word := range words(head) {
		key, value, _ := strings.Cut(word, ":")
		switch key {
		case "weight":
			b.Weight, err = number[uint16](value)
		case "watch_port":
			b.WatchPort, err = parsePort(value)
		case "watch_group":
			b.WatchGroup, err = number[uint32](value)
		default:
			if strings.HasPrefix(word, "bucket_id") {
				continue // Open vSwitch's own, from OpenFlow 1.5 on
			}
			err = errUnknownWord
		}
		if err != nil {
			return Bucket{}, fmt.Errorf("%s: %w", word, err)
		}
	}
	b.Actions, err = parseActions(words(actions))
	return b, err
}

var (
	errUnknownWord = errors.New("unknown word")
	errNoActions   = errors.New("actions= is missing")
	errBadNumber   = errors.New("not a number that fits")
)

// cutActions cuts text at its actions=.
func cutActions(text string) (head, actions string, err error) {
	const word = "actions="
	i := strings.Index(text, word)
	if i < 0 || i > 0 && !strings.ContainsRune(", \t", rune(text[i-1])) {
		return "", "", errNoActions
	}
	return text[:i], text[i+len(word):], nil
}

// words splits a text at commas and spaces that are not in parentheses.
func words(text string) []string {
	var out []string
	depth, start := 0, 0
	for i, r := range text + "," {
		switch r {
		case '(':
			depth++
		case ')':
			depth--
		case ',', ' ', '\t', '\n':
			if depth > 0 && i < len(text) {
				continue
			}
			if i > start {
				out = append(out, text[start:i])
			}
			start = i + 1
		}
	}
	return out
}

// number reads a decimal, octal or hexadecimal number.
func number[T uint8 | uint16 | uint32 | uint64](s string) (T, error) {
	v, err := strconv.ParseUint(s, 0, 64)
	if err != nil || uint64(T(v)) != v {
		return 0, errBadNumber
	}
	return T(v), nil
}

// parsePort reads a port's number or the name of a reserved one.
func parsePort(s string) (uint32, error) {
	for p := PortInPort; p != 0; p++ {
		if strings.EqualFold(s, portName(p)) {
			return p, nil
		}
	}
	return number[uint32](s)
}

// parseWord reads what is no part of the match; known is false for what is.
func (f *Flow) parseWord(word string) (known bool, err error) {
	key, value, _ := strings.Cut(word, "=")
	switch key {
	case "cookie":
		f.Cookie, err = number[uint64](value)
	case "table":
		f.Table, err = number[uint8](value)
	case "priority":
		f.Priority, err = number[uint16](value)
	case "idle_timeout":
		f.IdleTimeout, err = number[uint16](value)
	case "hard_timeout":
		f.HardTimeout, err = number[uint16](value)
	case "send_flow_rem":
		f.SendFlowRemoved = true
	case "no_packet_counts":
		f.NoPacketCounts = true
	case "no_byte_counts":
		f.NoByteCounts = true
	case "duration", "n_packets", "n_bytes", "idle_age", "hard_age":
	default:
		return false, nil
	}
	return true, err
}
