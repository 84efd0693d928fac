package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/viasnet/vias"
	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/overlay"
)

// snapshot is the node's status now.
func (n *node) snapshot(ctx context.Context) nodeapi.Status {
	peers := n.network.Peers()
	n.mu.Lock()
	policy := n.policy
	n.mu.Unlock()
	return nodeapi.Status{
		ID:      n.network.ID(),
		Network: n.cfg.Network,
		PID:     os.Getpid(),
		Since:   n.since,
		Ready:   n.ready.Load(),
		MTU:     n.network.MTU(),
		Bridge:  n.cfg.Bridge,

		FinishFrames: n.finishFrames,

		Endpoints: n.endpoints(peers),
		Peers:     n.peers(peers),
		Flows:     n.flows(ctx),
		Policy:    policy,
		Stats:     n.stats(peers),

		Membership: n.membership(),
		Directory:  n.directoryStatus(),
		DNS:        n.dnsAddr(),
		Discovery:  n.discoveryStatus(),
	}
}

// directoryStatus is how it is with the directory, if there is one.
func (n *node) directoryStatus() *nodeapi.Directory {
	s := n.network.Directory()
	if s.Since.IsZero() {
		return nil
	}
	d := &nodeapi.Directory{Since: s.Since, Published: s.Published, Searches: s.Searches}
	if s.Err != nil {
		d.Reason = s.Err.Error()
	}
	for _, c := range s.Conflicts {
		d.Conflicts = append(d.Conflicts, nodeapi.Conflict{Claimer: n.whose(c.Claimer), Holder: n.whose(c.Holder), MAC: c.MAC, IP: c.IP})
	}
	return d
}

// whose is a node's ID; zero is this one.
func (n *node) whose(id overlay.PeerID) overlay.PeerID {
	if id.IsZero() {
		return n.network.ID()
	}
	return id
}

// membership is ours, if an authority says who is a member.
func (n *node) membership() *nodeapi.Membership {
	if n.member == nil {
		return nil
	}
	s := n.member.Status()
	return &nodeapi.Membership{Until: s.Until, Warnings: s.Warnings(time.Now())}
}

func (n *node) endpoints(peers []vias.PeerStatus) []nodeapi.Endpoint {
	list := []nodeapi.Endpoint{}
	n.mu.Lock()
	for _, e := range n.wanted {
		list = append(list, nodeapi.Endpoint{Name: e.Name, MAC: e.MAC, IPs: e.IPs, Tag: e.Tag, Ofport: n.ofports[e.Name], Known: nodeapi.Configured})
	}
	for _, name := range slices.Sorted(maps.Keys(n.found)) {
		e := n.found[name]
		list = append(list, nodeapi.Endpoint{Name: name, MAC: e.MAC, IPs: e.IPs, Tag: e.Tag, Ofport: e.Ofport, Known: string(e.Known)})
	}
	n.mu.Unlock()
	for _, p := range peers {
		for _, e := range p.Endpoints {
			list = append(list, nodeapi.Endpoint{MAC: e.MAC, IPs: e.IPs, Tag: e.Tag, Peer: p.ID})
		}
	}
	return list
}

func (n *node) peers(peers []vias.PeerStatus) []nodeapi.Peer {
	list := []nodeapi.Peer{}
	for _, p := range peers {
		s := nodeapi.Peer{ID: p.ID, Name: n.peerName(p.ID), State: nodeapi.PeerConnecting}
		switch {
		case p.State == vias.PeerLinked:
			s.State = nodeapi.PeerUp
			s.Path = fmt.Sprintf("%v %v > %v", p.Path.Kind, p.Path.Local, p.Path.Remote)
			s.RTTMicros, s.MTU = p.Path.RTT.Microseconds(), p.Path.MTU
			s.Link = link(p)
		case p.Err != nil:
			s.State, s.Reason = nodeapi.PeerDown, oneLine(p.Err)
		default:
			s.Reason = "no link yet"
		}
		list = append(list, s)
	}
	return list
}

func link(p vias.PeerStatus) *nodeapi.Link {
	s := p.Link
	return &nodeapi.Link{
		Kind: p.Path.Kind.String(), Local: p.Path.Local, Remote: p.Path.Remote, Epoch: s.Epoch, Paths: s.Paths,
		MTU: p.Path.MTU, Shrunk: s.Shrunk,
		OutDatagrams: s.Sent.Datagrams, OutBytes: s.Sent.Bytes, InDatagrams: s.Received.Datagrams, InBytes: s.Received.Bytes,
		Drops: nodeapi.Drops(s.Drops),
	}
}

// way is how a bypassed flow looks on the underlay.
type way struct{ local, remote netip.AddrPort }

// rulesTime bounds the look at the switch: a status must come from a stalled one too.
const rulesTime = time.Second

// ruleBytes asks the switch what went by its rules.
func (n *node) ruleBytes(ctx context.Context) map[way]uint64 {
	d := n.datapath.Load()
	if d == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, rulesTime)
	defer cancel()
	rules, err := (*d).Rules(ctx)
	if err != nil {
		n.log.Debug("status without the rules' counters", "err", err)
		return nil
	}
	sums := map[way]uint64{}
	for _, r := range rules {
		if r.Rule.Direction != bypass.Listen {
			sums[way{r.Rule.Local, r.Rule.Remote}] += r.Bytes
		}
	}
	return sums
}

func (n *node) flows(ctx context.Context) []nodeapi.Flow {
	list := []nodeapi.Flow{}
	var rules map[way]uint64
	asked := false
	for f := range n.network.Flows() {
		s := nodeapi.Flow{
			Flow: f.Flow.String(), Peer: f.Peer, State: f.State.String(), Since: f.Since, RetryAt: f.RetryAt,
			Local: f.Local, Remote: f.Remote, OverlayBytes: f.Sent.Bytes + f.Received.Bytes,
		}
		if f.State != bypass.Bypassed {
			x := n.network.Explain(f.Flow)
			s.Reason, s.Remedy = x.What, x.Remedy
		}
		if f.Local.IsValid() {
			if !asked {
				rules, asked = n.ruleBytes(ctx), true
			}
			s.RuleBytes = rules[way{f.Local, f.Remote}]
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b nodeapi.Flow) int { return cmp.Compare(a.Flow, b.Flow) })
	return list
}

func (n *node) stats(peers []vias.PeerStatus) nodeapi.Stats {
	s := n.network.Stats()
	r := nodeapi.Stats{
		DeviceOutFrames: s.Sent.Frames, DeviceOutBytes: s.Sent.Bytes,
		DeviceInFrames: s.Received.Frames, DeviceInBytes: s.Received.Bytes,
		Refused: s.Transport.Refused + s.Transport.WrongKey,
		Dropped: s.Drops.Total() + s.Transport.Dropped + s.Device.ReadDropped + s.Device.WriteDropped,
	}
	r.TransportDrops = nodeapi.Drops(s.Transport.Drops)
	r.Offloads, r.Missing = nodeapi.Offloads(s.Offload, s.Transport.Socket)
	r.Socket = nodeapi.Socket{
		OutDatagrams: s.Transport.Socket.Sent, OutCalls: s.Transport.Socket.Sends,
		InDatagrams: s.Transport.Socket.Received, InCalls: s.Transport.Socket.Receives,
	}
	for _, p := range peers { // a frame is a datagram; a new link counts from 0
		r.LinkOutDatagrams += p.Sent.Frames
		r.LinkInDatagrams += p.Received.Frames
	}
	return r
}
