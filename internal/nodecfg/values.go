package nodecfg

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/viasnet/vias/bypass"
)

// Duration is a time.Duration that is written as "30s" or "2ms".
type Duration time.Duration

// MarshalText writes the duration as time.Duration.String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration does, but nothing negative.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration such as 30s or 2ms", b)
	}
	*d = Duration(v)
	return nil
}

// Ports is a bypass.PortRange that is written as "61440-65535".
type Ports bypass.PortRange

// MarshalText writes the first and the last port.
func (p Ports) MarshalText() ([]byte, error) {
	r := bypass.PortRange(p)
	return fmt.Appendf(nil, "%d-%d", r.First(), r.Last()), nil
}

// UnmarshalText reads "FIRST-LAST" and refuses what one masked match cannot cover.
func (p *Ports) UnmarshalText(b []byte) error {
	lo, hi, _ := strings.Cut(string(b), "-")
	first, err1 := strconv.ParseUint(lo, 10, 16)
	last, err2 := strconv.ParseUint(hi, 10, 16)
	r := bypass.PortRange{Base: uint16(first), Mask: ^uint16(first ^ last)}
	if err1 != nil || err2 != nil || !r.Valid() || r.Last() != uint16(last) {
		return fmt.Errorf("%q is not a range of ports that is aligned to its length, a power of two, such as 61440-65535", b)
	}
	*p = Ports(r)
	return nil
}

// Actions of a policy.
const (
	Bypass  = "bypass"
	Overlay = "overlay"
)

// Policy decides by port and protocol. It is also the body of PUT /v1/policy.
type Policy struct {
	// Default is for flows that no rule names: "bypass" or "overlay"; "" = overlay.
	Default string `json:"default,omitempty"`
	// Rules are asked in order; the first that the flow meets decides.
	Rules []Rule `json:"rules,omitempty"`
}

// Rule is a policy for one port, one protocol, or both.
type Rule struct {
	// Proto is "tcp" or "udp"; "" = any.
	Proto string `json:"proto,omitempty"`
	// Port is the flow's source or destination; 0 = any.
	Port   uint16 `json:"port,omitempty"`
	Action string `json:"action"`
	// After, Packets, Hold and Idle are those of bypass.Verdict, for action "bypass".
	After   int64    `json:"after,omitempty"`
	Packets int      `json:"packets,omitempty"` // not for TCP
	Hold    Duration `json:"hold,omitzero"`
	Idle    Duration `json:"idle,omitzero"`
}

// ParsePolicy reads and checks a policy.
func ParsePolicy(text []byte) (Policy, error) {
	var p Policy
	if err := strict(text, &p); err != nil {
		return Policy{}, fmt.Errorf("policy: %w", err)
	}
	return p, p.Validate()
}

// ParseEndpoint reads an endpoint. A Config that has it tells what is wrong with it.
func ParseEndpoint(text []byte) (Endpoint, error) {
	var e Endpoint
	if err := strict(text, &e); err != nil {
		return Endpoint{}, fmt.Errorf("endpoint: %w", err)
	}
	return e, nil
}

// Validate says what is wrong with p.
func (p Policy) Validate() error {
	if p.Default != "" && p.Default != Bypass && p.Default != Overlay {
		return fmt.Errorf("policy: default %q is neither %q nor %q", p.Default, Bypass, Overlay)
	}
	for i, r := range p.Rules {
		if what := r.fault(); what != "" {
			return fmt.Errorf("policy: rule %d%s", i+1, what)
		}
	}
	return nil
}

// fault is what is wrong with r; "" = nothing.
func (r Rule) fault() string {
	switch {
	case r.Proto != "" && r.Proto != bypass.TCP.String() && r.Proto != bypass.UDP.String():
		return fmt.Sprintf(": proto %q is neither %q nor %q", r.Proto, bypass.TCP, bypass.UDP)
	case r.Port == 0 && r.Proto == "":
		return " has neither port nor proto"
	case r.Action != Bypass && r.Action != Overlay:
		return fmt.Sprintf(": action %q is neither %q nor %q", r.Action, Bypass, Overlay)
	case r.After < 0:
		return ": after is negative"
	case r.Packets < 0:
		return ": packets is negative"
	case r.Packets > 0 && r.Proto == bypass.TCP.String():
		return ": packets is not for TCP"
	case r.Action == Overlay && (r.After != 0 || r.Packets != 0 || r.Hold != 0 || r.Idle != 0):
		return fmt.Sprintf(": after, packets, hold and idle go with action %q only", Bypass)
	}
	return ""
}

// meets tells whether r is for the flow.
func (r Rule) meets(f bypass.Flow) bool {
	return (r.Proto == "" || r.Proto == f.Proto.String()) &&
		(r.Port == 0 || r.Port == f.Dst.Port() || r.Port == f.Src.Port())
}

// Func is p in the library's form; p must be valid, and must not change any more.
func (p Policy) Func() bypass.Policy {
	byDefault := bypass.Verdict{Bypass: p.Default == Bypass}
	return func(r bypass.Request) bypass.Verdict {
		for _, rule := range p.Rules {
			if rule.meets(r.Flow) {
				return rule.verdict()
			}
		}
		return byDefault
	}
}

func (r Rule) verdict() bypass.Verdict {
	return bypass.Verdict{Bypass: r.Action == Bypass, After: r.After, Packets: r.Packets,
		Hold: time.Duration(r.Hold), Idle: time.Duration(r.Idle)}
}

// JSON is the configuration as a file, with a final line end.
func (c *Config) JSON() ([]byte, error) {
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return append(b, '\n'), nil
}
