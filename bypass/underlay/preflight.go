package underlay

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/viasnet/vias/bypass"
)

// CheckConfig is what Preflight looks at.
type CheckConfig struct {
	Config
	// Ports is the reserved range; zero = bypass.DefaultPorts.
	Ports bypass.PortRange
	// Trust lists the prefixes whose addresses may be proven; nil = private addresses.
	Trust []netip.Prefix
	// UserspaceDatapath: the bridge has datapath_type=netdev. Then the kernel
	// receives the uplink's frames as well as the switch.
	UserspaceDatapath bool
}

// Finding is the result of one check.
type Finding struct {
	What   string `json:"what"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
	// Remedy says what to do; "" when OK. With OK it is advice: the check cannot see
	// whether it is needed. Preflight gives none.
	Remedy string `json:"remedy,omitempty"`
}

// span is a range of ports, both ends included.
type span struct{ first, last uint16 }

// parseSpans reads "61000-61010,62000", as in net.ipv4.ip_local_reserved_ports; an
// empty text is no span.
func parseSpans(text string) ([]span, error) {
	var out []span
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		lo, hi, two := strings.Cut(part, "-")
		if !two {
			hi = lo
		}
		first, err := strconv.ParseUint(lo, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("port range %q: %w", part, err)
		}
		last, err := strconv.ParseUint(hi, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("port range %q: %w", part, err)
		}
		if first > last {
			return nil, fmt.Errorf("port range %q runs backwards", part)
		}
		out = append(out, span{uint16(first), uint16(last)})
	}
	return out, nil
}

// exposed counts the ports of r that the kernel may give to a socket by itself:
// those in local that are not in reserved.
func exposed(r bypass.PortRange, local span, reserved []span) int {
	n := 0
port:
	for p := int(max(r.First(), local.first)); p <= int(min(r.Last(), local.last)); p++ {
		for _, s := range reserved {
			if int(s.first) <= p && p <= int(s.last) {
				continue port
			}
		}
		n++
	}
	return n
}

// parseSockets reads the local addresses in a file like /proc/net/tcp or udp6.
// Lines that it does not understand are left out.
func parseSockets(text string) []netip.AddrPort {
	var out []netip.AddrPort
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		host, port, ok := strings.Cut(fields[1], ":")
		if !ok {
			continue // the heading
		}
		b, err := hex.DecodeString(host)
		if err != nil || len(b)%4 != 0 {
			continue
		}
		for i := 0; i < len(b); i += 4 { // 32-bit words in the host's (little-endian) order
			b[i], b[i+1], b[i+2], b[i+3] = b[i+3], b[i+2], b[i+1], b[i]
		}
		addr, ok := netip.AddrFromSlice(b)
		p, err := strconv.ParseUint(port, 16, 16)
		if ok && err == nil {
			out = append(out, netip.AddrPortFrom(addr.Unmap(), uint16(p)))
		}
	}
	return out
}

// dropsIngress tells whether a ruleset, as `nft list ruleset` prints it, drops every
// frame that enters from dev: a netdev ingress chain with policy drop, or with a
// rule that drops without asking. Rules that accept some frames before are the
// host's business. (The JSON form of nft 1.0.6 leaves out a chain's devices.)
func dropsIngress(ruleset, dev string) bool {
	netdev, ours := false, false
	for line := range strings.Lines(ruleset) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "table "):
			netdev, ours = strings.HasPrefix(line, "table netdev "), false
		case strings.HasPrefix(line, "chain "):
			ours = false
		case netdev && strings.Contains(line, " hook ingress "):
			hook, policy, _ := strings.Cut(line, "priority ")
			ours = slices.Contains(words(hook), dev)
			if ours && strings.HasSuffix(policy, "policy drop;") {
				return true
			}
		case ours && unconditionalDrop(strings.Fields(line)):
			return true
		}
	}
	return false
}

// translating lists the rules of a ruleset, as `nft list ruleset` prints it, by which
// what leaves by dev may get a port of r as its source: masquerade and source NAT without
// a range of ports that keeps clear of r. Without one the kernel keeps the sender's port,
// or takes any from 1024 on, whatever ip_local_reserved_ports says.
func translating(ruleset, dev string, r bypass.PortRange) (rules []string) {
	for line := range strings.Lines(ruleset) {
		fields := words(strings.TrimSpace(line))
		i := slices.IndexFunc(fields, func(f string) bool {
			return strings.EqualFold(f, "masquerade") || strings.EqualFold(f, "snat")
		})
		if i < 0 || i > 0 && slices.Contains([]string{"chain", "jump", "goto", "comment"}, fields[i-1]) {
			continue // none, or only a name
		}
		if !elsewhere(fields[:i], dev) && !keepsClear(fields[i:], r) {
			rules = append(rules, strings.TrimSpace(line))
		}
	}
	return rules
}

// elsewhere: the rule is only for what leaves by other devices than dev.
func elsewhere(match []string, dev string) bool {
	i := slices.IndexFunc(match, func(f string) bool { return f == "oif" || f == "oifname" })
	return i >= 0 && i+1 < len(match) && match[i+1] != "!" && !slices.Contains(match[i:], dev)
}

// keepsClear: the statement names ports ("to :1024-61439", "to 192.0.2.1:5000"), none of r.
func keepsClear(statement []string, r bypass.PortRange) bool {
	i := slices.Index(statement, "to")
	if i < 0 || i+1 == len(statement) {
		return false
	}
	ports, named := portsOf(statement[i+1])
	spans, err := parseSpans(ports)
	return named && err == nil && len(spans) == 1 && (spans[0].last < r.First() || spans[0].first > r.Last())
}

// portsOf is what follows the address, if there is one, in the target of a translation.
// An IPv6 address with ports is in brackets.
func portsOf(to string) (ports string, named bool) {
	i := strings.LastIndexByte(to, ':')
	if i < 0 || strings.IndexByte(to, ':') < i && to[i-1] != ']' {
		return "", false
	}
	return to[i+1:], true
}

// words splits at everything that is no part of an interface's name.
func words(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \",{}=;\t", r) })
}

// unconditionalDrop: the rule is "drop" or "counter packets N bytes N drop".
func unconditionalDrop(rule []string) bool {
	if len(rule) > 5 && rule[0] == "counter" && rule[1] == "packets" && rule[3] == "bytes" {
		rule = rule[5:]
	}
	return len(rule) > 0 && rule[0] == "drop"
}
