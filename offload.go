package vias

import (
	"context"
	"errors"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/control"
	"github.com/viasnet/vias/internal/flowtable"
	"github.com/viasnet/vias/internal/pump"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// member is a bypass.Member; tests have others.
type member interface {
	LinkUp(overlay.PeerID)
	LinkDown(overlay.PeerID)
	Forget(overlay.PeerID)
	Receive(overlay.PeerID, []byte)
	SetPolicy(bypass.Policy)
	Attach(context.Context, bypass.Workload) error
	Detach(ctx context.Context, ofport uint32) error
	Recheck()
	Request(bypass.Flow, bypass.Verdict)
	Inject(ctx context.Context, ofport uint32, frame []byte) error
	Flows() []bypass.Status
	Status(bypass.Flow) (bypass.Status, bool)
	Leave(context.Context) error
}

// joiner is a bypass.Host; tests have others.
type joiner interface {
	join(context.Context, bypass.MemberConfig) (member, error)
}

type hostJoiner struct{ host *bypass.Host }

func (h hostJoiner) join(ctx context.Context, c bypass.MemberConfig) (member, error) {
	m, err := h.host.Join(ctx, c)
	if err != nil {
		return nil, err // not a member that is a nil *Member
	}
	return m, nil
}

// resolve is MemberConfig.Resolve.
func (n *Network) resolve(f bypass.Flow) (bypass.Ends, bool) {
	v := n.shared.Stations.View()
	local, remote := v.IP(f.Src.Addr()), v.IP(f.Dst.Addr())
	if local == nil || remote == nil || !local.Local() || remote.Local() || local.Ofport == 0 {
		return bypass.Ends{}, false
	}
	return bypass.Ends{
		Peer:     remote.Peer,
		Ofport:   local.Ofport,
		LocalMAC: local.MAC, RemoteMAC: remote.MAC,
		LocalTag: local.Tag, RemoteTag: remote.Tag,
	}, true
}

// sendBypass is MemberConfig.Send.
func (n *Network) sendBypass(id overlay.PeerID, msg []byte) bool {
	c := n.connOf(id)
	return c != nil && c.queue(control.ChannelBypass, msg)
}

// flowChanged is MemberConfig.Changed.
func (n *Network) flowChanged(s bypass.Status) {
	if e, _ := n.shared.Flows.Track(s.Flow, time.Now()); e != nil {
		e.SetStatus(s)
		e.SetPeer(&s.Peer)
		if from := n.shared.Stations.View().IP(s.Flow.Src.Addr()); from != nil && s.State == bypass.Bypassed {
			n.shared.Opened(e, from.MAC)
		}
	}
	switch s.State {
	case bypass.Bypassed:
		if h, ok := n.holds.Take(s.Flow); ok {
			n.held.put(n, n.held.native, h)
		}
	case bypass.OnOverlay, bypass.Leaving:
		if h, ok := n.holds.Take(s.Flow); ok {
			n.held.put(n, n.held.overlay, h)
		}
	}
	n.hub.emit(FlowChanged{s.Flow, s.Peer, s.State, s.Reason})
}

// released are frames that were taken out of the hold queue: by the outcome of
// their flow's bypass, or by time. Each was taken by one, so each goes one way.
type released struct {
	native  chan flowtable.Held // to be injected into the switch
	overlay chan flowtable.Held
	wake    chan struct{} // a frame was held
}

func (r *released) init() {
	r.native = make(chan flowtable.Held, flowtable.MaxHeld)
	r.overlay = make(chan flowtable.Held, flowtable.MaxHeld)
	r.wake = make(chan struct{}, 1)
}

// added says that a frame was held. It does not block.
func (r *released) added() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// put hands a frame over without blocking. The SYN of a flow that finds no room is
// dropped, as on a full wire: its sender repeats it.
func (r *released) put(n *Network, to chan flowtable.Held, h flowtable.Held) {
	select {
	case to <- h:
	default:
		n.shared.Counters.Drop(pump.OutReleased)
	}
}

// expireHeld releases over the overlay what was held long enough, or whose bypass
// came to nothing.
func (n *Network) expireHeld(ctx context.Context) error {
	b := tap.NewBatch(1, 2*flowtable.MaxHeldFrame)
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case h := <-n.held.overlay:
			n.overlayHeld(h, b)
			continue
		case <-n.held.wake:
		case <-t.C:
		}
		due, next := n.holds.Expire(time.Now())
		for _, h := range due {
			n.shared.Counters.Expired.Add(1)
			n.overlayHeld(h, b)
		}
		if !next.IsZero() {
			t.Reset(timeTo(next))
		}
	}
}

func (n *Network) overlayHeld(h flowtable.Held, b *tap.Batch) {
	p := n.shared.Ports.Get(h.Peer)
	if p == nil || p.SendFrame(h.Frame, b) != nil {
		n.shared.Counters.Drop(pump.OutReleased)
	}
}

// injectTime bounds one Inject, so that a stalled switch does not keep later ones.
const injectTime = time.Second

// injectHeld releases frames whose flow is bypassed.
func (n *Network) injectHeld(ctx context.Context, m member) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case h := <-n.held.native:
			c, cancel := context.WithTimeout(ctx, injectTime)
			err := m.Inject(c, h.Ofport, h.Frame)
			cancel()
			switch {
			case err == nil:
				n.shared.Counters.Injected.Add(1)
			case errors.Is(err, bypass.ErrUnconfirmed):
				// It may be out. Sending it again could only confuse; TCP repeats it.
				n.shared.Counters.Drop(pump.OutReleased)
			default:
				n.held.put(n, n.held.overlay, h)
			}
		}
	}
}

// releaseAll counts what was still held when Run ended.
func (n *Network) releaseAll() {
	due, _ := n.holds.Expire(time.Now().Add(time.Hour))
	left := len(due) + len(n.held.native) + len(n.held.overlay)
	n.shared.Counters.DropN(pump.OutReleased, left)
}
