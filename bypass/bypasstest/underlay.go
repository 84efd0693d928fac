package bypasstest

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/viasnet/vias/bypass"
)

// ErrNoRoute is what an Underlay says about an address without a route.
var ErrNoRoute = errors.New("bypasstest: no route")

// Underlay is a bypass.Underlay that says what it was told. All methods may be
// called by several goroutines.
type Underlay struct {
	mu     sync.Mutex
	addrs  []netip.Prefix
	routes map[netip.Addr]bypass.Route
	fail   error
	ports  bypass.PortRange
	peers  map[netip.Addr]bool
	calls  int
	watch  map[*func()]bool
}

// NewUnderlay is an underlay with these addresses on its uplink and no route.
func NewUnderlay(addrs ...netip.Prefix) *Underlay {
	return &Underlay{
		addrs:  addrs,
		routes: map[netip.Addr]bypass.Route{}, peers: map[netip.Addr]bool{}, watch: map[*func()]bool{},
	}
}

// SetAddrs replaces the addresses and tells the watchers.
func (u *Underlay) SetAddrs(addrs ...netip.Prefix) {
	u.change(func() { u.addrs = addrs })
}

// SetRoute makes remote reachable by r and tells the watchers.
func (u *Underlay) SetRoute(remote netip.Addr, r bypass.Route) {
	u.change(func() { u.routes[remote] = r })
}

// DropRoute makes remote unreachable and tells the watchers.
func (u *Underlay) DropRoute(remote netip.Addr) {
	u.change(func() { delete(u.routes, remote) })
}

// FailGuard makes Guard fail with err, until it is nil again.
func (u *Underlay) FailGuard(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.fail = err
}

// Notify tells the watchers that something may have changed.
func (u *Underlay) Notify() { u.change(func() {}) }

func (u *Underlay) change(f func()) {
	u.mu.Lock()
	f()
	watch := slices.Collect(maps.Keys(u.watch))
	u.mu.Unlock()
	for _, f := range watch {
		(*f)()
	}
}

// Guarded is what Guard was last told, peers in order, and how often it was called.
func (u *Underlay) Guarded() (ports bypass.PortRange, peers []netip.Addr, calls int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.ports, slices.SortedFunc(maps.Keys(u.peers), netip.Addr.Compare), u.calls
}

// guards tells whether the host drops what src sends to port.
func (u *Underlay) guards(src netip.Addr, port uint16) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.peers[src] && u.ports.Contains(port)
}

// Addrs lists the addresses.
func (u *Underlay) Addrs(ctx context.Context) ([]netip.Prefix, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.addrs), ctx.Err()
}

// Route is the route that was set for remote, or ErrNoRoute.
func (u *Underlay) Route(ctx context.Context, remote netip.Addr) (bypass.Route, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return bypass.Route{}, err
	}
	r, ok := u.routes[remote]
	if !ok {
		return bypass.Route{}, ErrNoRoute
	}
	return r, nil
}

// Watch calls f whenever something was set, until ctx ends.
func (u *Underlay) Watch(ctx context.Context, f func()) error {
	u.mu.Lock()
	u.watch[&f] = true
	u.mu.Unlock()
	<-ctx.Done()
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.watch, &f)
	return nil
}

// Guard records what is guarded; a Switch with this Underlay honours it.
func (u *Underlay) Guard(ctx context.Context, ports bypass.PortRange, peers []netip.Addr) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := errors.Join(ctx.Err(), u.fail); err != nil {
		return err
	}
	if ports == (bypass.PortRange{}) {
		ports = bypass.DefaultPorts
	}
	u.calls++
	u.ports = ports
	clear(u.peers)
	for _, p := range peers {
		u.peers[p] = true
	}
	return nil
}
