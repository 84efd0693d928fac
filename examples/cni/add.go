package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/ofctl/ovs"
)

// undoTime bounds the undoing of an ADD that failed.
const undoTime = 20 * time.Second

// adding is an ADD in progress.
type adding struct {
	*plugin
	attachment
	pair
	before *types100.Result // of who was before us in a chain; nil = nobody
	ips    []ipConfig
	undo   []func(context.Context) error // of what was done, in order
}

// add gives the container its interface and returns when the node's switch has confirmed it.
// What fails in the middle is undone; what is killed in the middle is found by DEL and GC.
func (p *plugin) add(ctx context.Context) error {
	a := &adding{plugin: p, attachment: attachmentOf(p.conf, p.args)}
	status, err := p.askNode(ctx)
	if err == nil {
		err = a.prepare(ctx, status)
	}
	if err != nil {
		return err
	}
	result, err := a.build(ctx)
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
		defer cancel()
		for i := len(a.undo) - 1; i >= 0; i-- {
			if left := a.undo[i](undo); left != nil {
				err = withDetails(err, "left for DEL: "+left.Error())
			}
		}
		return err
	}
	return p.print(result)
}

func withDetails(err error, more string) error {
	var e *types.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("%w; %s", err, more)
	}
	return types.NewError(e.Code, e.Msg, strings.TrimPrefix(e.Details+"; "+more, "; "))
}

// prepare looks whether there can be that attachment, and changes nothing of it.
func (a *adding) prepare(ctx context.Context, status *nodeapi.Status) error {
	mac, err := a.conf.wantedMAC(a.args.Args)
	if err != nil {
		return err
	}
	if a.before, err = a.conf.previous(); err != nil {
		return err
	}
	if mac.IsZero() {
		mac = a.ownMAC(status.ID)
	}
	a.pair = pair{host: a.name(), netns: a.args.Netns, ifname: a.args.IfName, mac: mac, mtu: a.conf.MTU,
		finish: a.conf.NoTxOffload || status.FinishFrames}
	if a.mtu == 0 {
		a.mtu = status.MTU
	}
	switch err := a.links.check(a.args.Netns, a.args.IfName); {
	case errors.Is(err, errExists):
		return failure(codeExists, err, "CNI_IFNAME: the container has an interface "+a.args.IfName+"; choose another name, or DEL what has it")
	case errors.Is(err, errNetns):
		return failure(types.ErrInvalidNetNS, err, "CNI_NETNS: "+a.args.Netns+" is no container's network namespace; make that first")
	case err != nil:
		return failure(codeKernel, err, "the container's interfaces cannot be listed")
	}
	ends, err := a.links.hostEnds(a.name())
	if err != nil {
		return failure(codeKernel, err, "the host's interfaces cannot be listed")
	}
	ports, err := a.ports(ctx)
	if err != nil {
		return err
	}
	if _, port := ports[a.name()]; port || len(ends) > 0 {
		return failure(codeExists, nil, "an earlier ADD of this container and interface left "+a.name()+" behind; DEL it first")
	}
	// Its addresses may be those of an endpoint that a DEL could not take off the node.
	if err := a.sweep(ctx, status, ports); err != nil {
		return failure(types.ErrTryAgainLater, err, "an endpoint that is gone cannot be taken off the vias node")
	}
	return nil
}

// build makes it all, from the inside to the outside: who sees the endpoint sees a container
// that answers.
func (a *adding) build(ctx context.Context) (*types100.Result, error) {
	given, err := a.addresses(ctx, a.attachment)
	if err != nil {
		return nil, err
	}
	a.undo = append(a.undo, func(ctx context.Context) error { _, err := a.ipam(ctx, "DEL", a.attachment); return err })
	if a.ips, err = ipsOf(given, -1); err != nil {
		return nil, err
	}
	routes, err := routesOf(given, a.ips)
	if err != nil {
		return nil, err
	}
	if err := a.links.plug(a.pair); err != nil {
		return nil, failure(codeKernel, err, "the kernel makes no veth pair between host and container")
	}
	a.undo = append(a.undo, func(context.Context) error { return a.links.unplug(a.host) })
	if err := a.links.configure(a.pair, a.ips, routes); err != nil {
		return nil, failure(codeKernel, err, "the kernel refuses an address or a route that the IPAM plugin gave; correct the network configuration")
	}
	if err := a.addPort(ctx); err != nil {
		return nil, err
	}
	if err := a.attach(ctx); err != nil {
		return nil, err
	}
	return a.result(given), nil
}

// addPort adds the port together with what it is for: no port of ours is ever nameless.
func (a *adding) addPort(ctx context.Context) error {
	a.undo = append(a.undo, func(ctx context.Context) error { return a.ovsdb.DeletePort(ctx, a.conf.Bridge, a.host) })
	ids := map[string]string{idIface: a.host, idMAC: a.pair.mac.String(), idContainer: a.container, idNetwork: a.network, idIfname: a.attachment.ifname}
	if len(a.ips) > 0 {
		var ips []string
		for _, ip := range a.addrs() {
			ips = append(ips, ip.String())
		}
		ids[idIPs] = strings.Join(ips, ",")
	}
	if a.conf.Tag != "" {
		ids[idTag] = a.conf.Tag
	}
	if _, err := a.ovs.EnsurePort(ctx, a.conf.Bridge, ovs.Port{Name: a.host, Tag: a.conf.VLAN, InterfaceIDs: ids}); err != nil {
		return failure(codeSwitch, err, "Open vSwitch takes no port on "+a.conf.Bridge+"; see that ovs-vswitchd runs and has the bridge")
	}
	return nil
}

func (a *adding) addrs() (list []netip.Addr) {
	for _, ip := range a.ips {
		list = append(list, ip.address.Addr())
	}
	return list
}

// attach returns when the node's switch has confirmed the endpoint.
func (a *adding) attach(ctx context.Context) error {
	// Also when the answer is lost.
	a.undo = append(a.undo, func(ctx context.Context) error { return a.detach(ctx, a.host) })
	err := a.node.Attach(ctx, nodecfg.Endpoint{Name: a.host, Port: a.host, MAC: a.pair.mac, IPs: a.addrs(), Tag: a.conf.Tag})
	var refusal *nodeapi.Refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refusal) && refusal.Code < http.StatusInternalServerError:
		return failure(types.ErrInvalidNetworkConfig, err, "the vias node refuses the endpoint; give it a MAC and addresses that nobody else has")
	}
	return failure(types.ErrTryAgainLater, err, "the vias node did not attach the endpoint; its log says why")
}

// result is what came before us, with our interfaces and what the IPAM plugin gave.
func (a *adding) result(given *types100.Result) *types100.Result {
	r := &types100.Result{}
	if a.before != nil {
		r = a.before
	}
	r.Interfaces = append(r.Interfaces,
		&types100.Interface{Name: a.host, Mtu: a.mtu},
		&types100.Interface{Name: a.attachment.ifname, Mac: a.pair.mac.String(), Mtu: a.mtu, Sandbox: a.netns})
	for _, ip := range given.IPs {
		ip = ip.Copy()
		ip.Interface = types100.Int(len(r.Interfaces) - 1)
		r.IPs = append(r.IPs, ip)
	}
	r.Routes = append(r.Routes, given.Routes...)
	switch {
	case !a.conf.DNS.IsEmpty():
		r.DNS = a.conf.DNS
	case r.DNS.IsEmpty():
		r.DNS = given.DNS
	}
	return r
}

// print answers the runtime, in the version that it speaks.
func (p *plugin) print(r *types100.Result) error {
	out, err := r.GetAsVersion(p.conf.CNIVersion)
	if err == nil {
		err = out.PrintTo(p.out)
	}
	if err != nil {
		return failure(types.ErrIOFailure, err, "the result cannot be said in version "+p.conf.CNIVersion)
	}
	return nil
}
