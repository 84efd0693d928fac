package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
)

// move carries a container to another host, as a hypervisor moves a guest: its own end of the wire, with
// addresses and connections, stays what it is.
func (r *cloudsRun) move(ctx context.Context, g *guest, to int) error {
	from, there := r.hosts[g.at-1], r.hosts[to-1]
	if err := r.Node(g.at).Detach(ctx, g.Name); err != nil {
		return err
	}
	if _, err := r.OVS(g.at).Vsctl(ctx, "del-port", bridge, g.Port); err != nil {
		return err
	}
	old := g.Port
	g.Port, g.Ofport, g.at = "moved", ofportWorkload+10, to
	if err := r.ip(ctx, from.Namespace, fmt.Sprintf("link set %s netns %s name %s", old, there.Namespace, g.Port)); err != nil {
		return err
	}
	if err := r.ip(ctx, there.Namespace, "link set "+g.Port+" up"); err != nil {
		return err
	}
	if _, err := r.OVS(to).Vsctl(ctx, append(r.access(g.Port, g.Ofport)[1:], strings.Fields(r.Lab.cfg.Datapath.port())...)...); err != nil {
		return err
	}
	return r.Node(to).Attach(ctx, nodecfg.Endpoint{Name: g.Name, Port: g.Port, Ofport: g.Ofport, MAC: g.MAC, IPs: []netip.Addr{g.Addr, g.Addr6}})
}

// leave ends a host's node in order; it must leave nothing in the switch and the kernel, and everybody must
// know.
func (r *cloudsRun) leave(ctx context.Context, h *Host) error {
	r.left[h.Index] = true
	if err := errors.Join(r.endNode(h.Index, r.nodes[h.Index-1]), r.clean(ctx, h)); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, cloudFinish)
	defer cancel()
	return poll(limit, cloudLook, func() (bool, error) {
		for i, s := range r.statuses(limit) {
			if s == nil {
				continue
			}
			for _, p := range s.Peers {
				if p.ID == r.ids[h.Index-1] && p.State == nodeapi.PeerUp {
					r.cfg.Progress(fmt.Sprintf("host %d still has a link to host %d", i+1, h.Index))
					return false, nil
				}
			}
		}
		return true, nil
	})
}

// finish ends connections and nodes in order, and looks at what they left.
func (r *cloudsRun) finish(ctx context.Context) error {
	for _, t := range r.talks {
		there, back, err := t.finish(cloudFinish)
		if err != nil {
			return fmt.Errorf("lab: %s to %s: %w", t.a.Name, t.b.Name, err)
		}
		r.report.Carried += there + back
	}
	errs := make([]error, len(r.nodes))
	var all sync.WaitGroup
	for i, n := range r.nodes {
		if !r.left[i+1] {
			all.Go(func() { errs[i] = r.endNode(i+1, n) })
		}
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, h := range r.hosts {
		if err := r.clean(ctx, h); err != nil {
			return fmt.Errorf("lab: host %d: %w", h.Index, err)
		}
	}
	if _, inside, _ := r.seen.counts(); inside == 0 {
		return errors.New("lab: no marker was seen inside a cloud: the capture is blind, or nothing was bypassed")
	}
	return nil
}
