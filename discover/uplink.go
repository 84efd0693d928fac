package discover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/viasnet/vias/ofctl/ovs/ovsdb"
)

// ErrAmbiguous: there are several candidates, which the error lists, or none.
var ErrAmbiguous = errors.New("discover: it must be configured")

// Underlay is the bridge's way to the provider's network.
type Underlay struct {
	// Uplink is the port.
	Uplink string
	// Device is the interface of the host that has the addresses.
	Device string
	// Datapath is the bridge's datapath_type.
	Datapath string
}

// Host is what the search must know of the host.
type Host struct {
	// DefaultRoutes are the interfaces that default routes lead out of.
	DefaultRoutes []string
	// Addressed are the interfaces that have an address which others can reach.
	Addressed []string
}

// FindUnderlay asks the database once, and this host's kernel, and picks.
func FindUnderlay(ctx context.Context, db ovsdb.Config, bridge, device string) (Underlay, error) {
	w, err := ovsdb.New(db)
	if err != nil {
		return Underlay{}, err
	}
	v, err := w.Look(ctx)
	if err != nil {
		return Underlay{}, err
	}
	b, ok := v.Bridge(bridge)
	if !ok {
		return Underlay{}, fmt.Errorf("discover: there is no bridge %q: %w", bridge, ErrAmbiguous)
	}
	h, err := ThisHost()
	if err != nil {
		return Underlay{}, err
	}
	return PickUnderlay(b, device, h)
}

// PickUnderlay finds the uplink and what holds its addresses. device is the overlay's own
// port ("" = not known), which shares its VLAN with workloads but not with the uplink.
//
// The uplink is the bridge's port that carries the host's default route itself; else what
// the bridge's external_ids call bridge-uplink (OVN-Kubernetes does); else the only port
// that is a device of the host and no workload; of several, the one that has
// the bridge's MAC. The addresses are at the uplink, if the default route is, or
// else at the internal port that carries the default route, or that alone has an address.
func PickUnderlay(b ovsdb.Bridge, device string, h Host) (Underlay, error) {
	u := Underlay{Datapath: b.DatapathType}
	var err error
	if u.Uplink, err = pickUplink(b, device, h); err != nil {
		return Underlay{}, err
	}
	u.Device, err = pickDevice(b, u.Uplink, h)
	if err != nil {
		return Underlay{}, err
	}
	return u, nil
}

func pickUplink(b ovsdb.Bridge, device string, h Host) (string, error) {
	c := Config{Device: device}
	if own, there := b.Port(device); !there || own.Tag == 0 {
		c.Device = "" // all are of one VLAN
	}
	var list, named []string
	for _, p := range b.Ports {
		if len(p.Interfaces) != 1 || p.Name == b.Name || p.Name == device {
			continue
		}
		face, id := p.Interfaces[0], identify(p)
		if face.Type == "internal" || !slices.Contains(guestTypes(), face.Type) && face.Type != "dpdk" || id.named() {
			continue
		}
		if p.Name == b.ExternalIDs["bridge-uplink"] || slices.Contains(h.DefaultRoutes, p.Name) {
			named = append(named, p.Name)
		}
		if c.Device == "" || c.vlan(b, p) != "" {
			list = append(list, p.Name)
		}
	}
	if len(named) == 1 {
		return named[0], nil
	}
	if len(list) > 1 {
		list = ofMAC(b, list)
	}
	if len(list) == 1 {
		return list[0], nil
	}
	return "", fmt.Errorf("uplink of bridge %s: %s: %w", b.Name, candidates(list), ErrAmbiguous)
}

// ofMAC are those of list that have the bridge's own MAC; all, if none has.
func ofMAC(b ovsdb.Bridge, list []string) []string {
	own, _ := b.Port(b.Name)
	var same []string
	for _, name := range list {
		p, _ := b.Port(name)
		if len(own.Interfaces) == 1 && own.Interfaces[0].MAC != "" && p.Interfaces[0].MAC == own.Interfaces[0].MAC {
			same = append(same, name)
		}
	}
	if len(same) == 0 {
		return list
	}
	return same
}

func pickDevice(b ovsdb.Bridge, uplink string, h Host) (string, error) {
	var routed, addressed []string
	for _, p := range b.Ports {
		if len(p.Interfaces) != 1 || p.Interfaces[0].Type != "internal" && p.Name != uplink {
			continue
		}
		if slices.Contains(h.DefaultRoutes, p.Name) {
			routed = append(routed, p.Name)
		}
		if slices.Contains(h.Addressed, p.Name) {
			addressed = append(addressed, p.Name)
		}
	}
	for _, list := range [][]string{routed, addressed} {
		if len(list) == 1 {
			return list[0], nil
		}
		if len(list) > 1 {
			return "", fmt.Errorf("the uplink's address, bridge %s: %s: %w", b.Name, candidates(list), ErrAmbiguous)
		}
	}
	return "", fmt.Errorf("the uplink's address: no port of bridge %s has one: %w", b.Name, ErrAmbiguous)
}

func candidates(list []string) string {
	if len(list) == 0 {
		return "no port could be it"
	}
	return "these could be it: " + strings.Join(list, ", ")
}
