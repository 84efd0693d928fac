package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/viasnet/vias/internal/nodeapi"
)

// Convergence of what follows the switch: its ports change their numbers when it is restarted.
const (
	settleTime = 3 * time.Second
	settleStep = 100 * time.Millisecond
)

// broken is CHECK's word for what is not as ADD left it.
func broken(cause error, text string) error {
	return failure(codeBroken, cause, text+"; DEL the container's interface and ADD it anew")
}

// check compares interface, addresses, routes, port and endpoint with what ADD answered.
func (p *plugin) check(ctx context.Context) error {
	a := attachmentOf(p.conf, p.args)
	was, err := p.expected(a)
	if err != nil {
		return err
	}
	switch err := p.links.look(was.pair, was.ips, was.routes); {
	case errors.Is(err, errNetns):
		return failure(types.ErrInvalidNetNS, err, "CNI_NETNS: "+p.args.Netns+" is no network namespace; DEL the container's interface")
	case err != nil:
		return broken(err, "the container's interface "+a.ifname+" is not as ADD left it")
	}
	if err := p.checkPort(ctx, a); err != nil {
		return err
	}
	if err := p.checkEndpoint(ctx, a, was); err != nil {
		return err
	}
	_, err = p.ipam(ctx, "CHECK", a)
	return err
}

// expected is what ADD answered of this attachment.
type expected struct {
	pair
	ips    []ipConfig
	routes []route
}

func (p *plugin) expected(a attachment) (*expected, error) {
	r, err := p.conf.previous()
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, failure(types.ErrInvalidNetworkConfig, nil, "prevResult: missing; CHECK needs what ADD answered")
	}
	nr := slices.IndexFunc(r.Interfaces, func(i *types100.Interface) bool { return i.Name == a.ifname && i.Sandbox != "" })
	if nr < 0 {
		return nil, failure(types.ErrInvalidNetworkConfig, nil, "prevResult: no interface "+a.ifname+" of a container in it; CHECK needs what ADD answered")
	}
	e := &expected{pair: pair{host: a.name(), netns: p.args.Netns, ifname: a.ifname, mtu: r.Interfaces[nr].Mtu}}
	if err := e.mac.UnmarshalText([]byte(r.Interfaces[nr].Mac)); err != nil {
		return nil, failure(types.ErrDecodingFailure, err, "prevResult: the MAC of "+a.ifname)
	}
	if e.ips, err = ipsOf(r, nr); err != nil {
		return nil, err
	}
	e.routes, err = routesOf(r, e.ips)
	return e, err
}

// checkPort asks the database for the port, and whether the switch could open it.
func (p *plugin) checkPort(ctx context.Context, a attachment) error {
	ports, err := p.ports(ctx)
	if err != nil {
		return err
	}
	if _, there := ports[a.name()]; !there {
		return broken(nil, "bridge "+p.conf.Bridge+" has lost the container's port "+a.name())
	}
	if on, err := p.ovsdb.BridgeOf(ctx, a.name()); err != nil || on != p.conf.Bridge {
		return broken(err, fmt.Sprintf("the container's port %s is on bridge %q, not on %s", a.name(), on, p.conf.Bridge))
	}
	if _, err := p.ovsdb.OFPort(ctx, a.name()); err != nil {
		return broken(err, "the switch cannot use the container's port "+a.name())
	}
	return nil
}

// checkEndpoint asks the node for the endpoint, for a while: its port's number follows the switch.
func (p *plugin) checkEndpoint(ctx context.Context, a attachment, was *expected) error {
	tick, end := time.NewTicker(settleStep), time.After(settleTime)
	defer tick.Stop()
	for {
		status, err := p.askNode(ctx)
		if err != nil {
			return err
		}
		if err = p.compare(ctx, status, a, was); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-end:
			return err
		case <-ctx.Done():
			return err
		}
	}
}

func (p *plugin) compare(ctx context.Context, status *nodeapi.Status, a attachment, was *expected) error {
	i := slices.IndexFunc(status.Endpoints, func(e nodeapi.Endpoint) bool { return e.Name == a.name() && e.Peer.IsZero() })
	if i < 0 {
		return broken(nil, "the vias node has no endpoint "+a.name()+": it may have been restarted, and finds containers again only with discovery (docs/cni.md)")
	}
	e := status.Endpoints[i]
	var ips []netip.Addr
	for _, ip := range was.ips {
		ips = append(ips, ip.address.Addr())
	}
	if e.MAC != was.mac || !sameSet(e.IPs, ips) {
		return broken(nil, fmt.Sprintf("the vias node has endpoint %s with %v %v, the container has %v %v", a.name(), e.MAC, e.IPs, was.mac, ips))
	}
	number, err := p.ovsdb.OFPort(ctx, a.name())
	if err != nil || number != e.Ofport {
		return broken(err, fmt.Sprintf("the vias node has endpoint %s at the switch's port %d, it is at %d", a.name(), e.Ofport, number))
	}
	return nil
}

func sameSet(a, b []netip.Addr) bool {
	sort := func(l []netip.Addr) []netip.Addr { return slices.SortedFunc(slices.Values(l), netip.Addr.Compare) }
	return slices.Equal(sort(a), sort(b))
}

// status says whether an ADD would work now, by code 50 or, where containers are cut off from
// what makes their network work, 51.
func (p *plugin) status(ctx context.Context) error {
	ports, err := p.ports(ctx)
	if err != nil {
		return p.unavailable(err, 0)
	}
	if _, err := p.ovsdb.OFPort(ctx, p.conf.Bridge); err != nil {
		return p.unavailable(failure(0, err, "the switch does not run bridge "+p.conf.Bridge+"; start ovs-vswitchd, or make the bridge"), len(ports))
	}
	if _, err := p.askNode(ctx); err != nil {
		return p.unavailable(err, len(ports))
	}
	_, err = p.ipam(ctx, "STATUS", attachment{network: p.conf.Name})
	return err
}

// unavailable is err with the code for that many containers that there are.
func (p *plugin) unavailable(err error, containers int) error {
	var e *types.Error
	if !errors.As(err, &e) {
		e = failure(0, err, "the plugin is not available")
	}
	code, more := types.ErrPluginNotAvailable, ""
	if containers > 0 {
		code, more = types.ErrLimitedConnectivity, fmt.Sprintf(" (%d containers of %s may have limited connectivity)", containers, p.conf.Name)
	}
	return types.NewError(code, e.Msg+more, e.Details)
}
