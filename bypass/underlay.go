package bypass

import (
	"context"
	"net/netip"

	"github.com/viasnet/vias/tap"
)

// Underlay is what the host's kernel knows of the provider's network behind the
// uplink. bypass/underlay is one on netlink, bypass/bypasstest one in memory.
type Underlay interface {
	// Addrs lists the addresses of the uplink with their prefixes, preferred first.
	Addrs(ctx context.Context) ([]netip.Prefix, error)
	// Route tells how remote is reached over the uplink now. It resolves the next
	// hop's MAC if need be. An error means that it cannot be reached.
	Route(ctx context.Context, remote netip.Addr) (Route, error)
	// Watch calls f whenever addresses, routes or neighbours of the uplink may have
	// changed, until ctx ends. f must not block. Hints only: f may be called for nothing.
	Watch(ctx context.Context, f func()) error
	// Guard keeps the host's own stack from answering packets that come from one of
	// peers to a port in ports, whatever the switch does (a restarted switch forwards
	// them to the host), and, while there are peers, from resetting anybody from such a
	// port: a peer's packets may suddenly come from a translated address. It replaces
	// the previous list; an empty one removes all traces. It ends with the process,
	// however that ends.
	Guard(ctx context.Context, ports PortRange, peers []netip.Addr) error
}

// Route is the way to one remote address.
type Route struct {
	Local   netip.Addr // our address on that way
	Src     tap.MAC    // the uplink's MAC
	HostMAC tap.MAC    // where the host's own stack has Local, if that is not Src
	Via     netip.Addr // the next hop: remote itself when OnLink, else the router
	NextHop tap.MAC    // Via's MAC
	OnLink  bool       // no router of ours in between
	MTU     int        // of the layer-3 packet, in bytes; less than the link's if the kernel knows of a narrower path
}
