package discover

import (
	"fmt"
	"slices"

	"github.com/viasnet/vias/ofctl/ovs/ovsdb"
)

// guestTypes are the types of interfaces that guests have; those of the host's own
// devices are "" and "system", and a userspace datapath's view of them.
func guestTypes() []string {
	return []string{"", "system", "tap", "afxdp", "afxdp-nonpmd", "dpdkvhostuser", "dpdkvhostuserclient"}
}

// foreign says why a port is no workload; "" = it is one.
func (c *Config) foreign(b ovsdb.Bridge, p ovsdb.Port, id *identity) string {
	switch {
	case p.Name == b.Name:
		return "the bridge's own port"
	case p.Name == c.Uplink:
		return "the uplink"
	case p.Name == c.Device:
		return "the overlay's own port"
	case slices.Contains(c.Exclude, p.Name):
		return "excluded by configuration"
	case len(p.Interfaces) != 1:
		return "a bond"
	}
	face := p.Interfaces[0]
	switch {
	case face.Ofport == ovsdb.LocalPort:
		return "the bridge's own port"
	case face.Type == "internal" && !id.named():
		return "an internal port without external_ids of an endpoint"
	case face.Type != "internal" && !slices.Contains(guestTypes(), face.Type):
		return "of type " + short(face.Type)
	}
	for _, ids := range []map[string]string{face.ExternalIDs, p.ExternalIDs} {
		if t := ids["antrea-type"]; t != "" && t != "container" {
			return "Antrea's " + short(t)
		}
		if ids["vias-ignore"] == "true" {
			return "declared no workload by vias-ignore"
		}
	}
	return c.vlan(b, p)
}

// vlan says why p does not share the VLAN of the overlay's own port.
func (c *Config) vlan(b ovsdb.Bridge, p ovsdb.Port) string {
	if c.Device == "" {
		return ""
	}
	own, there := b.Port(c.Device)
	switch {
	case !there:
		return fmt.Sprintf("%s is no port of the bridge yet, so its VLAN is not known", c.Device)
	case own.Tag != p.Tag || p.Tag == 0 && len(p.Trunks) > 0 && !slices.Contains(p.Trunks, 0):
		return fmt.Sprintf("of VLAN %d, %s of %d", p.Tag, c.Device, own.Tag)
	}
	return ""
}
