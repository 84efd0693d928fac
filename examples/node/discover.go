package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/viasnet/vias"
	"github.com/viasnet/vias/discover"
	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/ofctl/ovs/ovsdb"
	"github.com/viasnet/vias/tap"
)

// findUnderlay fills in what the configuration leaves to be found.
func findUnderlay(ctx context.Context, cfg *nodecfg.Config) error {
	if cfg.Bridge == "" || cfg.Uplink != "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, attachTime)
	defer cancel()
	u, err := discover.FindUnderlay(ctx, ovsdb.Config{Address: cfg.OVSDB}, cfg.Bridge, cfg.TAP.Name)
	if err != nil {
		return fmt.Errorf("uplink: none given, and it was not found: %w", err)
	}
	cfg.Uplink = u.Uplink
	if cfg.UplinkAddrDevice == "" {
		cfg.UplinkAddrDevice = u.Device
	}
	return nil
}

// openDiscovery makes what finds endpoints; nothing runs yet.
func (n *node) openDiscovery() (err error) {
	if !n.cfg.Discovers() {
		return nil
	}
	n.discovery, err = discover.New(discover.Config{
		Bridge: n.cfg.Bridge, OVSDB: ovsdb.Config{Address: n.cfg.OVSDB}, Device: n.cfg.TAP.Name, Uplink: n.cfg.Uplink,
		NoDatabase: n.cfg.OVSDB == nodecfg.NoOVSDB, NoLearning: n.cfg.Discovery.NoLearning, Exclude: n.cfg.Discovery.Exclude,
		Skip: n.configuredAt, Sink: n, Holder: n.holder, Logger: n.log,
		Dial: func(ctx context.Context) (ofctl.Switch, error) { return n.dialSwitch(ctx, n.cfg.OpenFlow) },
	})
	return err
}

// discover attaches what is found, until ctx ends.
func (n *node) discover(ctx context.Context) error {
	if n.discovery == nil || n.network.Ready(ctx) != nil {
		return nil // without a Network Run says why
	}
	return n.discovery.Run(ctx)
}

// configuredAt tells whether an endpoint of the configuration, or one that somebody
// attached over the status socket, is at that port.
func (n *node) configuredAt(port string) bool {
	return slices.ContainsFunc(n.endpointsNow(), func(e nodecfg.Endpoint) bool { return e.Port == port })
}

// holder says which peer, or which endpoint of ours that was not found but configured, has an address.
func (n *node) holder(mac tap.MAC, ip netip.Addr) string {
	has := func(m tap.MAC, ips []netip.Addr) bool {
		if !ip.IsValid() {
			return m == mac
		}
		return m != mac && slices.Contains(ips, ip)
	}
	for _, e := range n.endpointsNow() {
		if has(e.MAC, e.IPs) {
			return "endpoint " + e.Name
		}
	}
	for _, p := range n.network.Peers() {
		for _, e := range p.Endpoints {
			if has(e.MAC, e.IPs) {
				return "peer " + n.peerName(p.ID)
			}
		}
	}
	return ""
}

// Attach implements discover.Sink.
func (n *node) Attach(ctx context.Context, e discover.Endpoint) error {
	n.attaching.Lock()
	defer n.attaching.Unlock()
	for _, c := range n.endpointsNow() {
		if c.Name == e.Name || c.Ofport == e.Ofport {
			return fmt.Errorf("the configured endpoint %s has its name or its port", c.Name)
		}
	}
	err := n.network.Attach(ctx, vias.Endpoint{Name: e.Name, Ofport: e.Ofport, MAC: e.MAC, IPs: e.IPs, Tag: e.Tag})
	n.mu.Lock()
	defer n.mu.Unlock()
	n.found[e.Name] = e
	if err != nil {
		delete(n.found, e.Name)
	}
	return err
}

// Detach implements discover.Sink.
func (n *node) Detach(ctx context.Context, name string) error {
	n.attaching.Lock()
	defer n.attaching.Unlock()
	n.mu.Lock()
	delete(n.found, name)
	n.mu.Unlock()
	if slices.ContainsFunc(n.endpointsNow(), func(e nodecfg.Endpoint) bool { return e.Name == name }) {
		return nil // it is somebody else's now
	}
	return n.network.Detach(ctx, name)
}

// yield detaches what was found where e is to be attached.
func (n *node) yield(ctx context.Context, e nodecfg.Endpoint) error {
	n.mu.Lock()
	var names []string
	for name, f := range n.found {
		if name != e.Name && (f.Port == e.Port || f.Ofport == e.Ofport || f.MAC == e.MAC) {
			names = append(names, name)
			delete(n.found, name)
		}
	}
	delete(n.found, e.Name)
	n.mu.Unlock()
	for _, name := range names {
		if err := n.network.Detach(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// discoveryStatus is what discovery says of the bridge's ports, if it is on.
func (n *node) discoveryStatus() *nodeapi.Discovery {
	if n.discovery == nil {
		return nil
	}
	s := n.discovery.Status()
	d := &nodeapi.Discovery{Found: s.Found, Dropped: s.Dropped, Malformed: s.Malformed, Ports: []nodeapi.DiscoveredPort{}}
	for _, p := range s.Ports {
		port := nodeapi.DiscoveredPort{Port: p.Port, Reason: p.Reason, Learning: p.Learning, Refused: p.Refused, Full: p.Full}
		if p.Endpoint != nil {
			port.Endpoint = p.Endpoint.Name
		}
		d.Ports = append(d.Ports, port)
	}
	return d
}
