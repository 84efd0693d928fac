package ofctl

import (
	"fmt"
	"strconv"
	"strings"
)

// String is the flow as ovs-ofctl add-flow takes it and, but for spaces and
// defaults that are always spelt out here, as dump-flows prints it.
func (f Flow) String() string {
	return strings.Join(f.head(""), ",") + " actions=" + f.instructions()
}

// String is the flow with its counters, as ovs-ofctl dump-flows would print it.
func (s FlowStat) String() string {
	age := fmt.Sprintf("duration=%d.%03ds", s.AgeSeconds, s.AgeNanosecs/1_000_000)
	return fmt.Sprintf("%s,n_packets=%d,n_bytes=%d,%s", age, s.Packets, s.Bytes, s.Flow)
}

// head is everything before the actions. cookieMask is added to the cookie.
func (f Flow) head(cookieMask string) []string {
	words := make([]string, 0, 16)
	if f.Cookie != 0 || cookieMask != "" {
		words = append(words, "cookie=0x"+strconv.FormatUint(f.Cookie, 16)+cookieMask)
	}
	words = append(words, "table="+strconv.Itoa(int(f.Table)), "priority="+strconv.Itoa(int(f.Priority)))
	if f.IdleTimeout > 0 {
		words = append(words, "idle_timeout="+strconv.Itoa(int(f.IdleTimeout)))
	}
	if f.HardTimeout > 0 {
		words = append(words, "hard_timeout="+strconv.Itoa(int(f.HardTimeout)))
	}
	if f.SendFlowRemoved {
		words = append(words, "send_flow_rem")
	}
	if f.NoPacketCounts {
		words = append(words, "no_packet_counts")
	}
	if f.NoByteCounts {
		words = append(words, "no_byte_counts")
	}
	return append(words, f.Match.words()...)
}

// instructions is the flow's instructions in the words of actions=.
func (f Flow) instructions() string {
	words := actionWords(f.Apply)
	if f.Meter != 0 {
		words = append([]string{"meter:" + strconv.FormatUint(uint64(f.Meter), 10)}, words...)
	}
	if f.Clear {
		words = append(words, "clear_actions")
	}
	if len(f.Write) > 0 {
		words = append(words, "write_actions("+strings.Join(actionWords(f.Write), ",")+")")
	}
	if m := f.Metadata; m.Mask != 0 {
		word := fmt.Sprintf("write_metadata:0x%x", m.Value&m.Mask)
		if m.Mask != ^uint64(0) {
			word += fmt.Sprintf("/0x%x", m.Mask)
		}
		words = append(words, word)
	}
	if f.Goto > 0 {
		words = append(words, "goto_table:"+strconv.Itoa(int(f.Goto)))
	}
	if len(words) == 0 {
		return "drop"
	}
	return strings.Join(words, ",")
}

func actionWords(as []Action) []string {
	words := make([]string, 0, len(as)+2)
	for _, a := range as {
		words = append(words, a.String())
	}
	return words
}

// String is the command's word in a file for ovs-ofctl bundle.
func (c Command) String() string {
	names := [...]string{"add", "modify", "modify_strict", "delete", "delete_strict"}
	if int(c) < len(names) {
		return names[c]
	}
	return "command" + strconv.Itoa(int(c))
}

// String is the step as a line of a file for ovs-ofctl bundle.
func (m FlowMod) String() string {
	once := ""
	if m.CheckOverlap {
		once += "check_overlap,"
	}
	if m.ResetCounts {
		once += "reset_counts,"
	}
	if m.Command == Add {
		return "flow add " + once + m.Flow.String()
	}
	// What follows selects flows; cookie and time-outs of the flow do not.
	f, mask := m.Flow, ""
	f.IdleTimeout, f.HardTimeout, f.SendFlowRemoved, f.NoPacketCounts, f.NoByteCounts = 0, 0, false, false, false
	if m.CookieMask == 0 {
		f.Cookie = 0
	} else {
		mask = fmt.Sprintf("/0x%x", m.CookieMask)
	}
	var words []string
	for _, w := range f.head(mask) {
		// ovs-ofctl has no word for every table, and refuses a priority that means
		// nothing.
		if w == "table=255" || !m.Command.strict() && strings.HasPrefix(w, "priority=") {
			continue
		}
		words = append(words, w)
	}
	if m.OutPort != 0 {
		words = append(words, "out_port="+portName(m.OutPort))
	}
	if m.OutGroup != 0 {
		words = append(words, "out_group="+strconv.FormatUint(uint64(m.OutGroup), 10))
	}
	text := "flow " + m.Command.String() + " " + once + strings.Join(words, ",")
	if m.Command >= Delete {
		return text
	}
	return text + " actions=" + f.instructions()
}

func (c Command) strict() bool { return c == ModifyStrict || c == DeleteStrict }

// String is the group type's word.
func (t GroupType) String() string {
	names := [...]string{"all", "select", "indirect", "ff"}
	if int(t) < len(names) {
		return names[t]
	}
	return "type" + strconv.Itoa(int(t))
}

// String is the group as ovs-ofctl add-group takes it and dump-groups prints it.
func (g Group) String() string {
	words := []string{"group_id=" + strconv.FormatUint(uint64(g.ID), 10), "type=" + g.Type.String()}
	for _, b := range g.Buckets {
		words = append(words, "bucket="+b.String())
	}
	return strings.Join(words, ",")
}

// String is the bucket as it stands behind bucket= of a group.
func (b Bucket) String() string {
	var words []string
	if b.Weight > 0 {
		words = append(words, "weight:"+strconv.Itoa(int(b.Weight)))
	}
	if b.WatchPort != 0 && b.WatchPort != PortAny {
		words = append(words, "watch_port:"+portName(b.WatchPort))
	}
	if b.WatchGroup != 0 && b.WatchGroup != GroupAny {
		words = append(words, "watch_group:"+strconv.FormatUint(uint64(b.WatchGroup), 10))
	}
	actions := "drop"
	if len(b.Actions) > 0 {
		actions = strings.Join(actionWords(b.Actions), ",")
	}
	return strings.Join(append(words, "actions="+actions), ",")
}

// String is the step as a line of a file for ovs-ofctl bundle.
func (m GroupMod) String() string {
	if m.Command >= Delete {
		return "group delete group_id=" + strconv.FormatUint(uint64(m.Group.ID), 10)
	}
	return "group " + m.Command.String() + " " + m.Group.String()
}
