// Package nat makes the kernel of a router behave as one kind of NAT (RFC 4787) or firewall,
// with nftables: for labs in network namespaces. It says what to load; the caller loads it.
//
// Its tests measure each kind (as RFC 5780 does), and what links over pairs of them become:
// docs/nat.md.
package nat

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Behaviour is how far a NAT's mapping or filtering of UDP depends on the remote endpoint (RFC
// 4787, sections 4.1 and 5).
type Behaviour uint8

// Behaviours.
const (
	// EndpointIndependent: one mapping for all remote endpoints, or: all may send.
	EndpointIndependent Behaviour = iota
	// AddressDependent, for filtering only: any port of an address that was sent to may send.
	AddressDependent
	// AddressAndPortDependent: another mapping for each remote endpoint, or: only endpoints that
	// were sent to may send.
	AddressAndPortDependent
)

// String is RFC 4787's name.
func (b Behaviour) String() string {
	switch b {
	case EndpointIndependent:
		return "endpoint-independent"
	case AddressDependent:
		return "address-dependent"
	case AddressAndPortDependent:
		return "address- and port-dependent"
	}
	return fmt.Sprintf("behaviour %d", uint8(b))
}

// Egress is what a router lets out.
type Egress uint8

// What a router lets out.
const (
	All   Egress = iota
	NoUDP        // all but UDP
	HTTPS        // TCP to port 443 alone
)

// Router is a router with one outer interface, wan, and any number of inner ones whose names
// begin with "lan". The zero value is a NAT of IPv4 that translates and filters no more than it
// must ("full cone"). IPv6 is forwarded, and only what belongs to a flow from within.
//
// Each ends at the router what nobody asked for, as home routers do, without an answer. Linux
// would keep the flow in mind and give the node another port when it sends there later.
type Router struct {
	Mapping   Behaviour // not AddressDependent
	Filtering Behaviour
	// Hairpin: nodes behind it reach each other at their outer addresses.
	Hairpin bool
	Egress  Egress
	// Routes: inner interfaces reach each other; without it they do not.
	Routes bool
	// Outer is the router's IPv4 address at wan.
	Outer netip.Addr
}

// ErrRouter: nftables cannot be such a router.
var ErrRouter = errors.New("nat: no such router")

func (r Router) check() error {
	switch {
	case !r.Outer.Is4():
		return fmt.Errorf("%w: the outer address is %s", ErrRouter, r.Outer)
	case r.Mapping == AddressDependent, r.Mapping > AddressAndPortDependent, r.Filtering > AddressAndPortDependent, r.Egress > HTTPS:
		return fmt.Errorf("%w: mapping %s, filtering %s, egress %d", ErrRouter, r.Mapping, r.Filtering, r.Egress)
	case r.Mapping != EndpointIndependent && r.Filtering != AddressAndPortDependent:
		return fmt.Errorf("%w: a mapping for each remote endpoint lets no other in", ErrRouter)
	case r.Hairpin && r.Filtering != EndpointIndependent:
		return fmt.Errorf("%w: a hairpin that filters", ErrRouter)
	}
	return nil
}

// Rules is the router as `nft -f` takes it; they take the place of earlier ones. Flows that the
// kernel has in mind stay as they were.
func (r Router) Rules() (string, error) {
	if err := r.check(); err != nil {
		return "", err
	}
	open := r.Filtering != AddressAndPortDependent
	var b strings.Builder
	b.WriteString("add table inet router\ndelete table inet router\ntable inet router {\n")
	if open { // which node has which port: masquerade keeps ports, where they do not meet
		b.WriteString("\tmap ports { type inet_service : ipv4_addr; flags dynamic,timeout; size 65536; timeout 5m; }\n")
		b.WriteString("\tset contacted { type inet_service . ipv4_addr; flags dynamic,timeout; size 65536; timeout 5m; }\n")
	}
	b.WriteString(r.input() + r.forward())
	if open {
		b.WriteString(r.prerouting())
	}
	b.WriteString(r.postrouting() + "}\n")
	return b.String(), nil
}

func (r Router) input() string {
	return chain("input", "filter hook input priority filter",
		"ct state established,related accept",
		"iifname \"wan\" meta l4proto { tcp, udp } drop",
		fmt.Sprintf("ip daddr %s meta l4proto { tcp, udp } drop", r.Outer))
}

func (r Router) forward() string {
	var rules []string
	switch r.Egress {
	case NoUDP:
		rules = append(rules, "iifname \"lan*\" oifname \"wan\" meta l4proto udp drop")
	case HTTPS:
		rules = append(rules, "iifname \"lan*\" oifname \"wan\" meta l4proto udp drop", "iifname \"lan*\" oifname \"wan\" tcp dport != 443 drop")
	case All:
	}
	if r.Filtering != AddressAndPortDependent {
		rules = append(rules, "iifname \"lan*\" ip protocol udp update @ports { udp sport : ip saddr }")
	}
	if r.Filtering == AddressDependent {
		rules = append(rules, "iifname \"lan*\" ip protocol udp update @contacted { udp sport . ip daddr }",
			"iifname \"wan\" ct state new ct status dnat udp dport . ip saddr @contacted accept")
	}
	if r.Filtering == EndpointIndependent {
		rules = append(rules, "iifname \"wan\" ct state new ct status dnat accept")
	}
	between := "drop"
	if r.Routes {
		between = "accept"
	}
	return chain("forward", "filter hook forward priority filter", append(rules,
		"iifname \"lan*\" oifname \"lan*\" ct status dnat accept",
		"iifname \"lan*\" oifname \"lan*\" "+between,
		"iifname \"wan\" ct state new drop")...)
}

func (r Router) prerouting() string {
	rules := []string{"iifname \"wan\" meta nfproto ipv4 meta l4proto udp dnat ip to udp dport map @ports"}
	if r.Hairpin {
		rules = append(rules, fmt.Sprintf("iifname \"lan*\" ip daddr %s meta l4proto udp dnat ip to udp dport map @ports", r.Outer))
	}
	return chain("prerouting", "nat hook prerouting priority dstnat", rules...)
}

func (r Router) postrouting() string {
	masquerade := "oifname \"wan\" meta nfproto ipv4 masquerade"
	if r.Mapping == AddressAndPortDependent {
		masquerade += " fully-random"
	}
	rules := []string{masquerade}
	if r.Hairpin { // with the outer address as source (RFC 4787, section 6)
		rules = append(rules, fmt.Sprintf("oifname \"lan*\" ct status dnat ct original ip daddr %s ip saddr 10.0.0.0/8 snat ip to %s", r.Outer, r.Outer))
	}
	return chain("postrouting", "nat hook postrouting priority srcnat", rules...)
}

func chain(name, hook string, rules ...string) string {
	return fmt.Sprintf("\tchain %s {\n\t\ttype %s; policy accept;\n\t\t%s\n\t}\n", name, hook, strings.Join(rules, "\n\t\t"))
}
