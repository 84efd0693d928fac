package vias

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/viasnet/vias/overlay"
)

// ErrNoName: nobody has an endpoint of that name.
var ErrNoName = errors.New("vias: no endpoint has this name")

// Resolve is the addresses, IPv4 first, of the endpoint of a name, in which the case of ASCII
// letters does not matter: ours, one that a linked peer announced, or what the directory has; where
// several nodes have one, the first that claimed the name. An endpoint without addresses has none, which is no error. ErrNoName: there
// is none. Any other error means that the directory did not answer, and somebody may have it.
// It waits for the directory for 2 s at most, and remembers nothing: who asks often should.
func (n *Network) Resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	if ips, ok := n.named(name); ok {
		return ips, nil
	}
	r := n.running.Load()
	switch {
	case r == nil:
		return nil, &OpError{"resolve", name, ErrClosed}
	case r.directory == nil:
		return nil, ErrNoName
	}
	return n.finder.resolve(ctx, r.directory, name)
}

// named looks among the endpoints that are known here.
func (n *Network) named(name string) ([]netip.Addr, bool) {
	if name == "" {
		return nil, false
	}
	who := []overlay.PeerID{{}} // this node
	for _, p := range n.Peers() {
		who = append(who, p.ID)
	}
	for _, id := range who {
		for _, e := range n.shared.Stations.Of(id) {
			if strings.EqualFold(e.Name, name) {
				return inOrder(e.IPs), true
			}
		}
	}
	return nil, false
}

// resolve asks the directory.
func (f *finder) resolve(ctx context.Context, d overlay.Directory, name string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	claims, err := d.Lookup(ctx, overlay.KeyName(name))
	if err != nil {
		return nil, &OpError{"resolve", name, err}
	}
	now := time.Now()
	e, ok := f.network.pick(f.verify(target{name: name}, claims, now), now)
	if !ok {
		return nil, ErrNoName
	}
	return inOrder(e.IPs), nil
}

func inOrder(ips []netip.Addr) []netip.Addr {
	return slices.SortedFunc(slices.Values(ips), netip.Addr.Compare)
}
