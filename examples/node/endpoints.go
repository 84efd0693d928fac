package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
)

// endpointsNow are those that are wanted now: the configuration's, with what came and
// went since.
func (n *node) endpointsNow() []nodecfg.Endpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.wanted)
}

func (n *node) want(list []nodecfg.Endpoint) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wanted = list
}

// putEndpoint attaches an endpoint, in the place of an earlier one of that name.
func (n *node) putEndpoint(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	e, err := nodecfg.ParseEndpoint(text)
	if err == nil && e.Name != r.PathValue("name") {
		err = fmt.Errorf("the endpoint calls itself %q", e.Name)
	}
	n.attaching.Lock()
	defer n.attaching.Unlock()
	was := n.endpointsNow()
	list := append(without(was, e.Name), e)
	if err == nil {
		changed := *n.cfg
		changed.Endpoints = list
		err = changed.Validate()
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	n.want(list)
	if err := errors.Join(n.yield(r.Context(), e), n.attachThis(r.Context(), e)); err != nil {
		n.want(without(was, e.Name))
		err = errors.Join(err, n.network.Detach(r.Context(), e.Name))
		refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// attachThis attaches an endpoint at its port of the switch, if there is a switch.
func (n *node) attachThis(ctx context.Context, e nodecfg.Endpoint) error {
	ofport := e.Ofport
	if ofport == 0 && n.cfg.Bridge != "" {
		ports, err := n.portNumbers(ctx)
		if err != nil {
			return err
		}
		if ofport = ports[e.Port]; ofport == 0 {
			return fmt.Errorf("bridge %s has no port %s", n.cfg.Bridge, e.Port)
		}
	}
	return n.attachOne(ctx, e, ofport)
}

// deleteEndpoint detaches an endpoint. When it has answered, nothing of its flows is in
// the switch any more.
func (n *node) deleteEndpoint(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	n.attaching.Lock()
	defer n.attaching.Unlock()
	was := n.endpointsNow()
	list := without(was, name)
	if port, found := n.foundAt(name); found && len(list) == len(was) {
		refuse(w, http.StatusConflict, fmt.Errorf("endpoint %q was found at port %s, and goes with it, or with external_ids:vias-ignore=true", name, port))
		return
	}
	if len(list) == len(was) {
		refuse(w, http.StatusNotFound, fmt.Errorf("there is no endpoint %q", name))
		return
	}
	n.want(list)
	ctx, cancel := context.WithTimeout(r.Context(), attachTime)
	defer cancel()
	err := n.network.Detach(ctx, name)
	n.mu.Lock()
	delete(n.ofports, name)
	n.mu.Unlock()
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	n.log.Info("endpoint detached", "endpoint", name)
	w.WriteHeader(http.StatusNoContent)
}

// foundAt is the port at which discovery found the endpoint of that name.
func (n *node) foundAt(name string) (port string, found bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e, found := n.found[name]
	return e.Port, found
}

// without is list less the endpoint of that name.
func without(list []nodecfg.Endpoint, name string) []nodecfg.Endpoint {
	return slices.DeleteFunc(slices.Clone(list), func(e nodecfg.Endpoint) bool { return e.Name == name })
}

// attachCommand attaches an endpoint at a running node, detachCommand detaches one.
func attachCommand(ctx context.Context, args []string, _, stderr io.Writer) error {
	return endpointCommand(ctx, "attach", args, stderr, func(ctx context.Context, c nodeapi.Client, arg string) error {
		e, err := nodecfg.ParseEndpoint([]byte(arg))
		if err != nil {
			return usageError{err}
		}
		return c.Attach(ctx, e)
	})
}

func detachCommand(ctx context.Context, args []string, _, stderr io.Writer) error {
	return endpointCommand(ctx, "detach", args, stderr, func(ctx context.Context, c nodeapi.Client, arg string) error {
		return c.Detach(ctx, arg)
	})
}

func endpointCommand(ctx context.Context, name string, args []string, stderr io.Writer, do func(context.Context, nodeapi.Client, string) error) error {
	set := flags(name, stderr)
	client := nodeFlags(set)
	if err := parse(set, args, 1); err != nil {
		return err
	}
	if set.NArg() == 0 {
		return usageError{fmt.Errorf("%s: say which endpoint: as JSON to attach it, by its name to detach it", name)}
	}
	c, err := client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, clientTime)
	defer cancel()
	return do(ctx, c, set.Arg(0))
}
