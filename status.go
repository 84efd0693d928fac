package vias

import (
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/flowtable"
	"github.com/viasnet/vias/overlay"
)

// PeerState is where a peer is.
type PeerState uint8

// States of a peer.
const (
	PeerConnecting PeerState = iota // no link yet, or not again; see Err and RetryAt
	PeerLinked                      // frames pass
)

func (s PeerState) String() string { return [...]string{"connecting", "linked"}[min(s, PeerLinked)] }

// PeerStatus is a snapshot of one peer.
type PeerStatus struct {
	ID    overlay.PeerID
	State PeerState
	Since time.Time // of State
	// Added: by AddPeer; else it is here because Config.Admission let it in.
	Added bool
	// Path is how the link reaches it; zero without a link. RTT is the core's own
	// measure when the link has none.
	Path overlay.Path
	// Link counts what the current link did, below the frames: zero without a link.
	Link overlay.LinkStats
	// Err is what went wrong last, nil if nothing did; RetryAt when we dial next,
	// zero while linked or when the peer has to.
	Err     error
	RetryAt time.Time
	// Endpoints that it announced and that nobody else holds, by MAC.
	Endpoints []Endpoint
	// Sent and Received count frames on the current link.
	Sent, Received Count
}

// Count is frames and their bytes, Ethernet headers included.
type Count struct{ Frames, Bytes uint64 }

func count(c *flowtable.Counter) Count { return Count{c.Packets(), c.Bytes()} }

// Peers is a snapshot of all peers, by ID.
func (n *Network) Peers() []PeerStatus {
	n.mu.Lock()
	list := make([]PeerStatus, 0, len(n.peers))
	peers := make([]*peer, 0, len(n.peers))
	for _, p := range n.peers {
		if !p.removed() {
			peers = append(peers, p)
			list = append(list, PeerStatus{ID: p.id, Added: p.added})
		}
	}
	n.mu.Unlock()
	for i, p := range peers {
		p.fill(&list[i])
	}
	slices.SortFunc(list, func(a, b PeerStatus) int { return a.ID.Compare(b.ID) })
	return list
}

func (p *peer) fill(s *PeerStatus) {
	p.mu.Lock()
	c := p.conn
	s.State, s.Since, s.Err, s.RetryAt = p.state, p.since, p.err, p.retry
	p.mu.Unlock()
	for _, e := range p.network.shared.Stations.Of(p.id) {
		s.Endpoints = append(s.Endpoints, Endpoint{Name: e.Name, MAC: e.MAC, IPs: slices.Clone(e.IPs), Tag: e.Tag})
	}
	if c == nil {
		return
	}
	s.Path = c.link.Path()
	if s.Path.RTT == 0 {
		c.mu.Lock()
		s.Path.RTT = c.session.RTT()
		c.mu.Unlock()
	}
	s.Link = c.link.Stats()
	s.Sent, s.Received = count(&c.port.Out), count(&c.port.In)
}

// FlowStatus is a snapshot of one flow.
type FlowStatus struct {
	Flow   bypass.Flow // Src is the local workload
	Peer   overlay.PeerID
	State  bypass.State
	Reason bypass.Reason // why it is not bypassed
	Since  time.Time     // of State, or when the flow was seen first
	// Sent and Received are what the overlay carried. What was bypassed is not in
	// them: it never came here.
	Sent, Received Count
	// Local and Remote are the underlay's addresses and ports while it is bypassed.
	Local, Remote netip.AddrPort
	// RetryAt is when a bypass is tried next; zero = as soon as the flow asks.
	RetryAt time.Time
}

// Flows are the flows that could be bypassed and that were seen lately, in no
// order. At most 65,536 are remembered; those on a bypass always are.
func (n *Network) Flows() iter.Seq[FlowStatus] {
	return func(yield func(FlowStatus) bool) {
		n.shared.Flows.Each(func(e *flowtable.Entry) bool { return yield(flowStatus(e)) })
	}
}

func flowStatus(e *flowtable.Entry) FlowStatus {
	s, _ := e.Status()
	f := FlowStatus{
		Flow: e.Flow(), Peer: e.Peer(), Since: s.Since, RetryAt: s.RetryAt,
		Local: s.Local, Remote: s.Remote,
		Sent: count(&e.Out), Received: count(&e.In),
	}
	f.State, f.Reason = e.State()
	return f
}

// MTU is the largest layer-3 packet in bytes that the devices of this node and of all linked peers
// take, and so what workloads should be set to at most. What no datagram of a link holds is cut on
// the way, and put together again: a link's own limit (PeerStatus.Path) costs some speed, no more.
// Before Run it is 0.
func (n *Network) MTU() int {
	r := n.running.Load()
	if r == nil {
		return 0
	}
	mtu := r.device.MTU()
	for _, p := range n.shared.Ports.List() {
		mtu = p.DeviceMTU(mtu)
	}
	return mtu
}
