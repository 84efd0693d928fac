package vias

import (
	"context"
	"iter"
	"net/netip"
	"sync"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// Event is a hint that something changed: PeerUp, PeerDown, EndpointUp,
// EndpointDown, Conflict, FlowChanged or Lagged. The truth is in the snapshots
// (Peers, Flows): by the time an event is read, more may have happened.
type Event interface{ event() }

// PeerUp: there is a link to the peer, and frames pass.
type PeerUp struct{ Peer overlay.PeerID }

// PeerDown: the link is gone, and why.
type PeerDown struct {
	Peer overlay.PeerID
	Err  error
}

// EndpointUp: a peer announced an endpoint, or changed it.
type EndpointUp struct {
	Peer overlay.PeerID
	Name string
	MAC  tap.MAC
}

// EndpointDown: an endpoint of a peer is no more, or somebody else's.
type EndpointDown struct {
	Peer overlay.PeerID
	Name string
	MAC  tap.MAC
}

// Conflict: a peer announced, or published in the directory, an address that somebody else
// holds (zero Holder: we do). It does not get it while the holder keeps it. The Claimer may be
// this node: then peers take nothing of our endpoint's from that address. IP is invalid when it
// is the MAC that is in conflict.
type Conflict struct {
	Claimer, Holder overlay.PeerID
	MAC             tap.MAC
	IP              netip.Addr
}

// FlowChanged: a flow moved, or failed to.
type FlowChanged struct {
	Flow   bypass.Flow // Src is the local workload
	Peer   overlay.PeerID
	State  bypass.State
	Reason bypass.Reason
}

// Lagged: N events were lost here because they were not read in time. Look at the
// snapshots.
type Lagged struct{ N uint64 }

func (PeerUp) event()       {}
func (PeerDown) event()     {}
func (EndpointUp) event()   {}
func (EndpointDown) event() {}
func (Conflict) event()     {}
func (FlowChanged) event()  {}
func (Lagged) event()       {}

// eventBuffer is how many events wait for one subscriber.
const eventBuffer = 256

// hub gives events to subscribers without ever waiting for one.
type hub struct {
	mu          sync.Mutex // guards everything below
	closed      bool
	subscribers map[*subscriber]struct{}
}

// subscriber is one call of Events.
type subscriber struct {
	hub  *hub
	wake chan struct{}

	// Guarded by hub.mu.
	queue []Event
	lost  uint64 // events dropped behind those in queue
	ended bool
}

// Events are what happens from this call on, until ctx ends or the Network does.
// The sequence can be read once. At most 256 events wait to be read; when there
// are more, the newest are dropped and a Lagged says how many.
func (n *Network) Events(ctx context.Context) iter.Seq[Event] {
	s := &subscriber{hub: &n.hub, wake: make(chan struct{}, 1)}
	n.hub.add(s)
	// A sequence that is never read must not be remembered for ever.
	stop := context.AfterFunc(ctx, s.end)
	return func(yield func(Event) bool) {
		defer s.end()
		defer stop()
		for {
			batch, ended := s.take()
			for _, e := range batch {
				if ctx.Err() != nil || !yield(e) {
					return
				}
			}
			if ended && len(batch) == 0 {
				return
			}
			if len(batch) == 0 {
				<-s.wake
			}
		}
	}
}

func (h *hub) add(s *subscriber) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		s.ended = true
		s.signal()
		return
	}
	if h.subscribers == nil {
		h.subscribers = map[*subscriber]struct{}{}
	}
	h.subscribers[s] = struct{}{}
}

// emit never blocks.
func (h *hub) emit(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subscribers {
		if s.lost > 0 || len(s.queue) == eventBuffer {
			s.lost++
			continue
		}
		s.queue = append(s.queue, e)
		s.signal()
	}
}

// close ends all sequences, once they have been read to their end.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for s := range h.subscribers {
		s.ended = true
		s.signal()
	}
	h.subscribers = nil
}

func (s *subscriber) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *subscriber) end() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	delete(s.hub.subscribers, s)
	s.ended = true
	s.signal()
}

// take empties the queue.
func (s *subscriber) take() (batch []Event, ended bool) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	batch, s.queue = s.queue, nil
	if s.lost > 0 {
		batch, s.lost = append(batch, Lagged{s.lost}), 0
	}
	return batch, s.ended
}
