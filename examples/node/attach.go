package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/viasnet/vias"
	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/nodecfg"
)

// attachTime bounds one look at the switch's ports, and one Attach.
const attachTime = 5 * time.Second

func endpoint(e nodecfg.Endpoint, ofport uint32) vias.Endpoint {
	return vias.Endpoint{Name: e.Name, Ofport: ofport, MAC: e.MAC, IPs: e.IPs, Tag: e.Tag}
}

// attach gives each endpoint its port of the switch, and again whenever ports
// change. Until then the endpoint is on the overlay only.
func (n *node) attach(ctx context.Context) error {
	if n.network.Ready(ctx) != nil {
		return nil // the Network has ended, and Run says why
	}
	d := n.datapath.Load()
	if d == nil {
		n.setReady()
		return nil
	}
	changed := make(chan struct{}, 1)
	watched := make(chan struct{})
	defer func() { <-watched }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go n.watchPorts(ctx, *d, changed, watched)

	m := missing{node: n, what: "ports of the switch"}
	for ctx.Err() == nil {
		if err := n.attachAll(ctx); err != nil {
			n.ready.Store(false)
			m.pause(ctx, err)
			continue
		}
		m.found()
		n.setReady()
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	return nil
}

func (n *node) setReady() {
	if !n.ready.Swap(true) {
		n.log.Info("node is ready", "endpoints", len(n.endpointsNow()))
	}
}

// watchPorts tells of changes until ctx ends or the switch's connection is closed.
func (n *node) watchPorts(ctx context.Context, d bypass.Datapath, changed chan<- struct{}, done chan<- struct{}) {
	defer close(done)
	// Its error is the end of the Network.
	_ = d.Watch(ctx, func(e bypass.Event) {
		switch e.(type) {
		case bypass.DatapathUp, bypass.PortsChanged:
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	})
}

// attachAll attaches all endpoints; an error says which of them could not be. The port of one
// that came by the socket may be gone, as when a container dies: that is for whom it came from.
func (n *node) attachAll(ctx context.Context) error {
	n.attaching.Lock()
	defer n.attaching.Unlock()
	ports, err := n.portNumbers(ctx)
	if err != nil {
		return err
	}
	var absent []string
	var errs []error
	for _, e := range n.endpointsNow() {
		ofport := e.Ofport
		if ofport == 0 {
			ofport = ports[e.Port]
		}
		if ofport == 0 && n.configured(e.Name) {
			absent = append(absent, e.Port)
		}
		// Without a port too: another one may have got its number meanwhile.
		if err := n.attachOne(ctx, e, ofport); err != nil {
			errs = append(errs, err)
		}
	}
	if len(absent) > 0 {
		errs = append(errs, fmt.Errorf("bridge %s has no port %s", n.cfg.Bridge, strings.Join(absent, ", ")))
	}
	return errors.Join(errs...)
}

// configured tells whether the configuration has an endpoint of that name.
func (n *node) configured(name string) bool {
	return slices.ContainsFunc(n.cfg.Endpoints, func(e nodecfg.Endpoint) bool { return e.Name == name })
}

func (n *node) attachOne(ctx context.Context, e nodecfg.Endpoint, ofport uint32) error {
	ctx, cancel := context.WithTimeout(ctx, attachTime)
	defer cancel()
	if err := n.network.Attach(ctx, endpoint(e, ofport)); err != nil {
		return err
	}
	n.mu.Lock()
	was := n.ofports[e.Name]
	n.ofports[e.Name] = ofport
	n.mu.Unlock()
	if was != ofport {
		n.log.Info("endpoint attached", "endpoint", e.Name, "ofport", ofport)
	}
	return nil
}

// portNumbers asks the switch for its ports, if any endpoint needs to know.
func (n *node) portNumbers(ctx context.Context) (map[string]uint32, error) {
	numbers := map[string]uint32{}
	asks := false
	for _, e := range n.endpointsNow() {
		asks = asks || e.Ofport == 0
	}
	if !asks {
		return numbers, nil
	}
	ctx, cancel := context.WithTimeout(ctx, attachTime)
	defer cancel()
	sw, err := n.dialSwitch(ctx, n.cfg.OpenFlow)
	if err != nil {
		return nil, err
	}
	defer sw.Close()
	list, err := sw.Ports(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range list {
		numbers[p.Name] = p.No
	}
	return numbers, nil
}
