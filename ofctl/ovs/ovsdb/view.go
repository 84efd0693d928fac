package ovsdb

import (
	"cmp"
	"slices"
)

// View is what the database said at one moment. It is immutable.
type View struct {
	// Bridges in the order of their names.
	Bridges []Bridge
}

// Bridge is a row of the table Bridge.
type Bridge struct {
	Name         string
	DatapathType string // "system", "netdev"; "" = the default, which is "system"
	ExternalIDs  map[string]string
	// Ports in the order of their names, the bridge's own one among them.
	Ports []Port
}

// Port is a row of the table Port.
type Port struct {
	Name string
	// Tag is the VLAN of an access port; 0 = none.
	Tag         uint16
	Trunks      []uint16
	ExternalIDs map[string]string
	// Interfaces in the order of their names: one, or several of a bond.
	Interfaces []Interface
}

// Interface is a row of the table Interface.
type Interface struct {
	UUID string // another one for an interface that was deleted and made anew
	Name string
	Type string // "" and "system" are network devices of the host
	// Ofport is the OpenFlow number: 0 = the switch has not said, -1 = it could not
	// open the device. The bridge's own port has LocalPort.
	Ofport int64
	// MAC is mac_in_use, as text; "" = not known.
	MAC         string
	ExternalIDs map[string]string
	// Status is what the switch says of the device, such as driver_name.
	Status map[string]string
	Error  string
}

// LocalPort is what the database, which knows OpenFlow 1.0's 16 bits, calls LOCAL.
const LocalPort = 0xfffe

// Bridge finds a bridge by its name.
func (v *View) Bridge(name string) (Bridge, bool) {
	i, ok := slices.BinarySearchFunc(v.Bridges, name, func(b Bridge, n string) int { return cmp.Compare(b.Name, n) })
	if !ok {
		return Bridge{}, false
	}
	return v.Bridges[i], true
}

// Port finds a port by its name.
func (b Bridge) Port(name string) (Port, bool) {
	i, ok := slices.BinarySearchFunc(b.Ports, name, func(p Port, n string) int { return cmp.Compare(p.Name, n) })
	if !ok {
		return Port{}, false
	}
	return b.Ports[i], true
}

// rows is the content of the tables, by their rows' UUIDs.
type rows struct {
	bridges    map[string]*bridgeRow
	ports      map[string]*portRow
	interfaces map[string]*interfaceRow
}

// view puts the rows together. A reference to a row that is not there is left out: the
// server does not send such, but for a moment between two transactions that are in one
// update.
func (r *rows) view() *View {
	v := &View{}
	for _, b := range r.bridges {
		bridge := Bridge{Name: b.Name, DatapathType: b.DatapathType, ExternalIDs: b.ExternalIDs}
		for _, id := range b.Ports {
			if p := r.ports[id]; p != nil {
				bridge.Ports = append(bridge.Ports, r.port(p))
			}
		}
		slices.SortFunc(bridge.Ports, func(a, b Port) int { return cmp.Compare(a.Name, b.Name) })
		v.Bridges = append(v.Bridges, bridge)
	}
	slices.SortFunc(v.Bridges, func(a, b Bridge) int { return cmp.Compare(a.Name, b.Name) })
	return v
}

func (r *rows) port(p *portRow) Port {
	port := Port{Name: p.Name, ExternalIDs: p.ExternalIDs}
	if len(p.Tag) > 0 {
		port.Tag = uint16(p.Tag[0])
	}
	for _, t := range p.Trunks {
		port.Trunks = append(port.Trunks, uint16(t))
	}
	for _, id := range p.Interfaces {
		i := r.interfaces[id]
		if i == nil {
			continue
		}
		face := Interface{UUID: id, Name: i.Name, Type: i.Type, MAC: first(i.MAC), Error: first(i.Error),
			ExternalIDs: i.ExternalIDs, Status: i.Status}
		if len(i.Ofport) > 0 {
			face.Ofport = i.Ofport[0]
		}
		port.Interfaces = append(port.Interfaces, face)
	}
	slices.SortFunc(port.Interfaces, func(a, b Interface) int { return cmp.Compare(a.Name, b.Name) })
	return port
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}
