package vias

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/l2"
	"github.com/viasnet/vias/tap"
)

// Endpoint is a workload's interface on this node.
type Endpoint struct {
	// Name is unique on the node, 1 to 255 bytes: a container's ID, for example.
	Name string
	// Ofport is the workload's port of the bypass host's switch; 0 = it has none,
	// and its flows stay on the overlay.
	Ofport uint32
	// MAC is its address: unicast, unique on the network.
	MAC tap.MAC
	// IPs are the addresses it may use, at most 16; none = any that no other
	// endpoint has. Only flows between listed addresses can be bypassed.
	IPs []netip.Addr
	// Tag is what policies at both ends see of it, at most 255 bytes.
	Tag string
}

func (e Endpoint) check() error {
	if e.Name == "" {
		return fmt.Errorf("%w: the endpoint has no name", ErrInvalid)
	}
	if err := e.announced().Check(); err != nil {
		return fmt.Errorf("%w: endpoint %q: %w", ErrInvalid, e.Name, err)
	}
	return nil
}

func (e Endpoint) announced() l2.Endpoint {
	return l2.Endpoint{MAC: e.MAC, IPs: e.IPs, Name: e.Name, Tag: e.Tag}
}

func (e Endpoint) workload() bypass.Workload {
	return bypass.Workload{Ofport: e.Ofport, MAC: e.MAC, IPs: e.IPs}
}

// endpoint is the intent to have one attached.
type endpoint struct {
	turn chan struct{} // holds a token: one Attach or Detach of a name at a time

	// Guarded by Network.mu.
	want     Endpoint
	attached bool
	users    int // calls that wait for turn or have it
}

// Attach makes an endpoint part of the network. It is idempotent by Name; another
// MAC, Ofport or the like replaces what was attached under that name.
//
// With a bypass host it returns when the switch has confirmed the endpoint, which
// is what a CNI ADD needs, or with ctx's error when that takes too long; then the
// endpoint is attached to the overlay, and calling again waits again. Before Run,
// it returns at once and takes effect when Run is called.
//
// An endpoint moves to another host by Detach there and Attach here, in either order. As
// long as both have it, peers find it where they found it before.
func (n *Network) Attach(ctx context.Context, e Endpoint) error {
	e.IPs = slices.Clone(e.IPs)
	for i, ip := range e.IPs {
		e.IPs[i] = ip.Unmap()
	}
	err := e.check()
	if err == nil {
		err = n.attach(ctx, e)
	}
	if err != nil {
		return &OpError{"attach", n.config.Name, err}
	}
	return nil
}

func (n *Network) attach(ctx context.Context, e Endpoint) error {
	s, err := n.turnOf(ctx, e.Name)
	if err != nil {
		return err
	}
	defer n.endTurn(e.Name, s)
	change, err := n.shared.Stations.Attach(e.announced(), e.Ofport)
	if errors.Is(err, l2.ErrInUse) {
		err = fmt.Errorf("%w: %w", ErrInUse, err)
	}
	if err != nil {
		return err
	}
	n.mu.Lock()
	old, had := s.want, s.attached
	s.want, s.attached = e, true
	n.mu.Unlock()
	n.stationsChanged(change)
	r := n.running.Load()
	if r == nil || r.member == nil {
		return nil
	}
	if had && old.Ofport != e.Ofport && old.Ofport != 0 {
		if err = r.member.Detach(ctx, old.Ofport); err != nil {
			err = fmt.Errorf("detach ofport %d: %w", old.Ofport, err)
		}
	}
	// The Member must know of it all the same: it is announced.
	return errors.Join(err, n.attachMember(ctx, r.member, e))
}

func (n *Network) attachMember(ctx context.Context, m member, e Endpoint) error {
	if e.Ofport == 0 {
		return nil
	}
	if err := m.Attach(ctx, e.workload()); err != nil {
		return fmt.Errorf("ofport %d: %w", e.Ofport, err)
	}
	n.intros.add(e.Name)
	return nil
}

// Detach takes an endpoint off the network: its bypassed flows are taken down, and
// peers are told. It returns when the switch has confirmed, or with ctx's error
// when that takes too long; the endpoint is detached then too, and the switch
// follows as soon as it can. Detaching what is not attached is no error.
func (n *Network) Detach(ctx context.Context, name string) error {
	if err := n.detach(ctx, name); err != nil {
		return &OpError{"detach", n.config.Name, err}
	}
	return nil
}

func (n *Network) detach(ctx context.Context, name string) error {
	s, err := n.turnOf(ctx, name)
	if err != nil {
		return err
	}
	defer n.endTurn(name, s)
	n.mu.Lock()
	old, had := s.want, s.attached
	s.attached = false
	n.mu.Unlock()
	if !had {
		return nil
	}
	// First of all what needs nobody's consent: the Member forgets the endpoint
	// whether or not the switch is there, so it must not stay announced. Told that
	// stations changed, the Member takes down its bypassed flows.
	n.stationsChanged(n.shared.Stations.Detach(name))
	if r := n.running.Load(); r != nil && r.member != nil && old.Ofport != 0 {
		if err := r.member.Detach(ctx, old.Ofport); err != nil {
			return fmt.Errorf("ofport %d: %w", old.Ofport, err)
		}
	}
	return nil
}

// turnOf waits until no other call changes the endpoint of that name.
func (n *Network) turnOf(ctx context.Context, name string) (*endpoint, error) {
	n.mu.Lock()
	if n.phase == stopping {
		n.mu.Unlock()
		return nil, ErrClosed
	}
	s := n.endpoints[name]
	if s == nil {
		s = &endpoint{turn: make(chan struct{}, 1)}
		n.endpoints[name] = s
	}
	s.users++
	n.mu.Unlock()
	select {
	case s.turn <- struct{}{}:
		return s, nil
	case <-ctx.Done():
		n.forgetUser(name, s)
		return nil, context.Cause(ctx)
	}
}

func (n *Network) endTurn(name string, s *endpoint) {
	<-s.turn
	n.forgetUser(name, s)
}

func (n *Network) forgetUser(name string, s *endpoint) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s.users--
	if s.users == 0 && !s.attached {
		delete(n.endpoints, name)
	}
}

// attachEarly makes endpoints that were attached before Run known to the switch,
// and tries again while it refuses.
func (n *Network) attachEarly(ctx context.Context, m member) error {
	var names []string
	n.mu.Lock()
	for name, s := range n.endpoints {
		if s.attached {
			names = append(names, name)
		}
	}
	n.mu.Unlock()
	slices.Sort(names)
	for _, name := range names {
		n.attachOne(ctx, m, name)
	}
	return nil
}

func (n *Network) attachOne(ctx context.Context, m member, name string) {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		err := n.attachAgain(ctx, m, name)
		if err == nil || ctx.Err() != nil {
			return
		}
		n.log.Warn("the switch did not take an endpoint; it is tried again", "endpoint", name, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (n *Network) attachAgain(ctx context.Context, m member, name string) error {
	s, err := n.turnOf(ctx, name)
	if err != nil {
		return nil // the Network ends
	}
	defer n.endTurn(name, s)
	n.mu.Lock()
	e, had := s.want, s.attached
	n.mu.Unlock()
	if !had {
		return nil
	}
	return n.attachMember(ctx, m, e)
}
