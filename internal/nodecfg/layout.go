package nodecfg

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// External is the bridge of the uplink and of the host's own address, where workloads are on another
// one: docs/pipeline.md.
type External struct {
	Bridge string `json:"bridge"`
	// OpenFlow is its management socket. Default: as Config.OpenFlow's.
	OpenFlow string `json:"openflow,omitempty"`
	// Patch is its patch port that leads to Config.Bridge, and Peer that port's peer there.
	Patch string `json:"patch"`
	Peer  string `json:"peer"`
	// Mark is Pipeline.Mark of this bridge.
	Mark Bits `json:"mark,omitzero"`
}

// Pipeline is what of the bridges is ours, where others program them too: docs/pipeline.md. Zero values
// are defaults.
type Pipeline struct {
	InboundTable  uint8  `json:"inbound_table,omitempty"`
	OutboundTable uint8  `json:"outbound_table,omitempty"` // and the three after it
	Priority      uint16 `json:"priority,omitempty"`
	CookieTag     uint16 `json:"cookie_tag,omitempty"`
	GroupBase     uint32 `json:"group_base,omitempty"`
	MeterBase     uint32 `json:"meter_base,omitempty"`
	// Mark, if not 0, has frames that are not bypassed go through the pipeline that somebody else
	// has on the bridge, from table 0 on, with these bits of metadata set; else NORMAL forwards them.
	Mark Bits `json:"mark,omitzero"`
}

// Bits are written as "0x8000000000000000".
type Bits uint64

// MarshalText writes them.
func (b Bits) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%#x", uint64(b)), nil }

// UnmarshalText reads them.
func (b *Bits) UnmarshalText(text []byte) error {
	v, err := strconv.ParseUint(string(text), 0, 64)
	if err != nil {
		return fmt.Errorf("%q are no 64 bits such as \"0x8000000000000000\"", text)
	}
	*b = Bits(v)
	return nil
}

// UplinkPort is the port of Bridge that leads to the provider's network.
func (c *Config) UplinkPort() string {
	if c.External != nil {
		return c.External.Peer
	}
	return c.Uplink
}

func (c *Config) checkExternal() error {
	e := c.External
	switch {
	case e == nil:
		return nil
	case c.Bridge == "":
		return errors.New("external: there is no bridge that it could be joined with")
	case e.Bridge == "" || e.Patch == "" || e.Peer == "":
		return errors.New("external: want bridge, patch and peer")
	case e.Bridge == c.Bridge:
		return fmt.Errorf("external.bridge: %q is the workloads' own", e.Bridge)
	case c.Uplink == "":
		return errors.New("uplink: with external it is not found: give it")
	case e.OpenFlow == "" && !strings.HasPrefix(c.OpenFlow, "unix:") && c.OpenFlow != "":
		return errors.New("external.openflow: none given, and openflow is no unix:PATH beside which it could be")
	}
	return nil
}

// completeExternal fills in defaults; c.OpenFlow has its own.
func (c *Config) completeExternal() {
	e := c.External
	if e != nil && e.OpenFlow == "" {
		e.OpenFlow = "unix:" + filepath.Join(filepath.Dir(strings.TrimPrefix(c.OpenFlow, "unix:")), e.Bridge+".mgmt")
	}
}
