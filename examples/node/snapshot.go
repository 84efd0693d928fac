package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/viasnet/vias"
	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/nodeapi"
)

// snapshot is the node's status now.
func (n *node) snapshot(ctx context.Context) nodeapi.Status {
	peers := n.network.Peers()
	n.mu.Lock()
	policy := n.policy
	n.mu.Unlock()
	return nodeapi.Status{
		ID:        n.network.ID(),
		Network:   n.cfg.Network,
		PID:       os.Getpid(),
		Since:     n.since,
		Ready:     n.ready.Load(),
		MTU:       n.network.MTU(),
		Endpoints: n.endpoints(peers),
		Peers:     n.peers(peers),
		Flows:     n.flows(ctx),
		Policy:    policy,
		Stats:     n.stats(peers),

		Membership: n.membership(),
	}
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
		list = append(list, nodeapi.Endpoint{Name: e.Name, MAC: e.MAC, IPs: e.IPs, Ofport: n.ofports[e.Name]})
	}
	n.mu.Unlock()
	for _, p := range peers {
		for _, e := range p.Endpoints {
			list = append(list, nodeapi.Endpoint{MAC: e.MAC, IPs: e.IPs, Peer: p.ID})
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
		case p.Err != nil:
			s.State, s.Reason = nodeapi.PeerDown, oneLine(p.Err)
		default:
			s.Reason = "no link yet"
		}
		list = append(list, s)
	}
	return list
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
	for _, p := range peers { // a frame is a datagram; a new link counts from 0
		r.LinkOutDatagrams += p.Sent.Frames
		r.LinkInDatagrams += p.Received.Frames
	}
	return r
}
