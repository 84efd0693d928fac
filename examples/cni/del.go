package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// detachTime bounds the waiting for a node that does not answer.
const detachTime = 12 * time.Second

// del removes whatever there is of the attachment, in whatever state it is: the container may be
// gone, the node down, an ADD cut off in the middle.
func (p *plugin) del(ctx context.Context) error {
	a := attachmentOf(p.conf, p.args)
	ports, err := p.ports(ctx)
	_, port := ports[a.name()]
	// With no look at the ports there may be one: the rest goes all the same.
	return notAll(err, p.remove(ctx, a, port), p.args.ContainerID+" "+p.args.IfName)
}

// remove goes from the outside to the inside, and does not stop at what it cannot do. While the
// node is down it cannot be told, and an endpoint of a dead node needs nobody: it has ended with
// the process. That of a node which only did not answer is swept by the next ADD or GC, which
// find it without a port.
func (p *plugin) remove(ctx context.Context, a attachment, port bool) error {
	asking, cancel := context.WithTimeout(ctx, detachTime)
	defer cancel()
	_ = p.detach(asking, a.name()) // as said
	var errs []error
	if port {
		if err := p.ovsdb.DeletePort(ctx, p.conf.Bridge, a.name()); err != nil {
			errs = append(errs, failure(codeSwitch, err, "Open vSwitch does not let go of port "+a.name()))
		}
	}
	if err := p.links.unplug(a.name()); err != nil {
		errs = append(errs, failure(codeKernel, err, "the kernel does not delete the veth pair "+a.name()))
	}
	// Last: an address is given away again when nobody has it any more.
	_, err := p.ipam(ctx, "DEL", a)
	return errors.Join(append(errs, err)...)
}

// notAll is what a runtime learns when something is left: it has to come again.
func notAll(first, rest error, what string) error {
	err := errors.Join(first, rest)
	if err == nil {
		return nil
	}
	return failure(types.ErrTryAgainLater, errors.New(oneLine(err)), "not all of "+what+" could be removed; correct what the details say, then DEL or GC again")
}

func oneLine(err error) string { return strings.Join(strings.Split(err.Error(), "\n"), "; ") }

// gc removes all attachments of the network but the valid ones. A runtime that names none, as
// libcni's GC does without arguments, has none.
func (p *plugin) gc(ctx context.Context) error {
	valid := p.conf.valid()
	ports, err := p.ports(ctx)
	errs := []error{err}
	for name, a := range ports {
		if !valid[name] {
			errs = append(errs, p.remove(ctx, a, true))
		}
	}
	errs = append(errs, p.gcLinks(valid), p.gcEndpoints(ctx, valid))
	_, err = p.ipam(ctx, "GC", attachment{network: p.conf.Name})
	errs = append(errs, err)
	return notAll(nil, errors.Join(errs...), "what is stale of "+p.conf.Name)
}

// gcLinks deletes veth pairs that never became ports.
func (p *plugin) gcLinks(valid map[string]bool) error {
	ends, err := p.links.hostEnds(prefix(p.conf.Name))
	if err != nil {
		return failure(codeKernel, err, "the host's interfaces cannot be listed")
	}
	ends = slices.DeleteFunc(ends, func(name string) bool { return valid[name] || len(name) != nameLength })
	var errs []error
	for _, name := range ends {
		errs = append(errs, p.links.unplug(name))
	}
	return errors.Join(errs...)
}

// gcEndpoints detaches endpoints that have no port any more. A node that is down has none.
func (p *plugin) gcEndpoints(ctx context.Context, valid map[string]bool) error {
	status, err := p.node.Status(ctx)
	if err != nil {
		return nil
	}
	var errs []error
	for _, name := range p.endpoints(status) {
		if !valid[name] {
			errs = append(errs, p.detach(ctx, name))
		}
	}
	return errors.Join(errs...)
}
