package discover

import (
	"context"
	"net/netip"
	"slices"

	"github.com/viasnet/vias/tap"
)

// Endpoint is a workload that was found.
type Endpoint struct {
	// Name is unique on the bridge: iface-id, a container's ID and interface, or the
	// port's name.
	Name string
	// Port is the switch's name for its port, Ofport the number.
	Port   string
	Ofport uint32
	MAC    tap.MAC
	// IPs may be empty: any that no other endpoint has.
	IPs []netip.Addr
	// Tag is what policies see of it; external_ids alone say it.
	Tag string
	// Known is how the addresses are known.
	Known Source
}

func (e *Endpoint) equal(o *Endpoint) bool {
	return e.Name == o.Name && e.Port == o.Port && e.Ofport == o.Ofport && e.MAC == o.MAC &&
		e.Tag == o.Tag && e.Known == o.Known && slices.Equal(e.IPs, o.IPs)
}

// Source is how an endpoint's addresses are known.
type Source string

// Sources.
const (
	// FromIDs: MAC and IPs are in external_ids.
	FromIDs Source = "external_ids"
	// Learned: the workload's own frames told all or some of them.
	Learned Source = "learned"
)

// Sink is where endpoints are attached. Its methods are called from one goroutine.
type Sink interface {
	// Attach attaches e, or replaces what was attached by that Name.
	Attach(ctx context.Context, e Endpoint) error
	// Detach detaches the endpoint of that name, which was attached before.
	Detach(ctx context.Context, name string) error
}

// PortStatus is a port of the bridge as discovery sees it.
type PortStatus struct {
	Port string
	// Reason says why the port is no workload, or why it is not attached, or what of it
	// is refused; "" = nothing is wrong.
	Reason string
	// Endpoint is what is attached; nil = nothing.
	Endpoint *Endpoint
	// Learning: copies of its frames are looked at.
	Learning bool
	// Refused are learned claims to addresses that somebody else has; Full those for
	// which the port had no room, of more addresses or of another MAC.
	Refused, Full uint64
}

// Status is a snapshot.
type Status struct {
	// Found: the database was read, and has the bridge.
	Found bool
	// Ports of the bridge, by name.
	Ports []PortStatus
	// Dropped are copies that came faster than they were looked at, Malformed those that
	// are not what they should be.
	Dropped, Malformed uint64
}
