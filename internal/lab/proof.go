package lab

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// dumped is one flow as ovs-ofctl dump-flows prints it.
type dumped struct {
	cookie  uint64
	table   int
	packets uint64
	bytes   uint64
	match   map[string]string // a bare word such as "tcp" has the value ""
	actions []string
	key     string // what names the flow: table, priority and match
}

// parseFlows reads the output of ovs-ofctl dump-flows; lines that are no flows
// (the heading) are left out.
func parseFlows(text string) []dumped {
	var out []dumped
	for line := range strings.Lines(text) {
		head, actions, ok := strings.Cut(strings.TrimSpace(line), " actions=")
		if !ok || !strings.HasPrefix(head, "cookie=") {
			continue
		}
		f := dumped{match: map[string]string{}, actions: splitActions(actions)}
		var key []string
		for _, word := range strings.FieldsFunc(head, func(r rune) bool { return r == ' ' || r == ',' }) {
			name, value, _ := strings.Cut(word, "=")
			switch name {
			case "cookie":
				f.cookie, _ = strconv.ParseUint(value, 0, 64)
			case "table":
				f.table, _ = strconv.Atoi(value)
				key = append(key, word)
			case "n_packets":
				f.packets, _ = strconv.ParseUint(value, 10, 64)
			case "n_bytes":
				f.bytes, _ = strconv.ParseUint(value, 10, 64)
			case "duration", "idle_age", "hard_age", "idle_timeout", "hard_timeout", "send_flow_rem":
			default:
				f.match[name] = value
				key = append(key, word)
			}
		}
		f.key = strings.Join(key, ",")
		out = append(out, f)
	}
	return out
}

// splitActions splits at commas outside of parentheses; what write_actions writes
// counts as actions too.
func splitActions(text string) []string {
	var out []string
	add := func(a string) {
		if inner, ok := strings.CutPrefix(a, "write_actions("); ok {
			out = append(out, splitActions(strings.TrimSuffix(inner, ")"))...)
			return
		}
		out = append(out, a)
	}
	depth, start := 0, 0
	for i, r := range text {
		switch {
		case r == '(':
			depth++
		case r == ')':
			depth--
		case r == ',' && depth == 0:
			add(text[start:i])
			start = i + 1
		}
	}
	add(text[start:])
	return out
}

// sets tells whether a flow rewrites field (as OpenFlow 1.3 names it) to value.
func (f dumped) sets(field, value string) bool {
	for _, a := range f.actions {
		if a == "set_field:"+value+"->"+field {
			return true
		}
	}
	return false
}

// pair is what a row is measured between: a workload and its host, and the others. All
// addresses are of the kind's family.
type pair struct {
	kind                   Kind
	client, server         netip.Addr // the workloads
	clientHost, serverHost netip.Addr // the underlay
	port                   uint16     // the server's
	from                   uint16     // the client's; 0 = any
}

// isOutbound: at the client's switch, a rule that takes the client's packets to the
// port and gives them the hosts' addresses.
func (p pair) isOutbound(f dumped) bool {
	_, kind := f.match[p.kind.word()]
	return kind && f.match[p.kind.field("src")] == p.client.String() && f.match[p.kind.field("dst")] == p.server.String() &&
		f.match["tp_dst"] == strconv.Itoa(int(p.port)) && (p.from == 0 || f.match["tp_src"] == strconv.Itoa(int(p.from))) &&
		f.sets(p.kind.set("src"), p.clientHost.String()) && f.sets(p.kind.set("dst"), p.serverHost.String())
}

// isInbound: at the server's switch, the rule that gives them back their own.
func (p pair) isInbound(f dumped) bool {
	_, kind := f.match[p.kind.word()]
	return kind && f.match[p.kind.field("src")] == p.clientHost.String() && f.match[p.kind.field("dst")] == p.serverHost.String() &&
		f.sets(p.kind.set("src"), p.client.String()) && f.sets(p.kind.set("dst"), p.server.String()) &&
		f.sets(p.kind.proto()+"_dst", strconv.Itoa(int(p.port))) &&
		(p.from == 0 || f.sets(p.kind.proto()+"_src", strconv.Itoa(int(p.from))))
}

// labCookie marks the native row's flows.
const labCookie = 0x76696173_6c6162 // "viaslab"

func isNative(f dumped) bool { return f.cookie == labCookie }

// counters sums the bytes of the flows that want picks, by flow.
func counters(flows []dumped, want func(dumped) bool) map[string]uint64 {
	out := map[string]uint64{}
	for _, f := range flows {
		if want(f) {
			out[f.key] += f.bytes
		}
	}
	return out
}

// grown is by how many bytes after is ahead of before. A flow that is new, or was
// made anew meanwhile, counts with all it has.
func grown(before, after map[string]uint64) uint64 {
	var n uint64
	for key, b := range after {
		if old := before[key]; old <= b {
			b -= old
		}
		n += b
	}
	return n
}

// Proof is where the bytes of one measurement went, as shares of what iperf3 moved.
type Proof struct {
	Moved uint64 `json:"moved_bytes"`
	// Sender and Receiver are the shares of the switches' rules: outbound at the
	// sending host, inbound at the receiving one.
	Sender   float64 `json:"sender_rule"`
	Receiver float64 `json:"receiver_rule"`
	// TAPSender and TAPReceiver are those of the TAPs' counters, both directions.
	TAPSender   float64 `json:"tap_sender"`
	TAPReceiver float64 `json:"tap_receiver"`
}

// A row counts when at least most of its bytes took its way, and less than least
// of them the other.
const (
	most  = 0.99
	least = 0.01
)

// check says why a proof does not prove that mode carried the bytes; "" = it does.
func (p Proof) check(m Mode) string {
	switch {
	case p.Moved == 0:
		return "nothing was moved"
	case m == Overlay && min(p.TAPSender, p.TAPReceiver) < most:
		return fmt.Sprintf("the TAPs moved %.3f and %.3f of it", p.TAPSender, p.TAPReceiver)
	case m == Overlay:
		return ""
	case min(p.Sender, p.Receiver) < most:
		return fmt.Sprintf("the rules moved %.3f and %.3f of it, the TAPs %.3f and %.3f", p.Sender, p.Receiver, p.TAPSender, p.TAPReceiver)
	case max(p.TAPSender, p.TAPReceiver) >= least:
		return fmt.Sprintf("the TAPs moved %.3f and %.3f of it", p.TAPSender, p.TAPReceiver)
	}
	return ""
}

func (p Proof) String() string {
	return fmt.Sprintf("rules %.3f/%.3f tap %.4f/%.4f", p.Sender, p.Receiver, p.TAPSender, p.TAPReceiver)
}
