package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/overlay"
)

// nodesTimeout bounds how long all nodes may take to start and to find each other.
const nodesTimeout = 30 * time.Second

// DefaultPolicy bypasses everything, but for the ports of the overlay's own rows;
// port 5204 (TriggerLate) shows a flow that moves after 64 KiB.
func DefaultPolicy() nodecfg.Policy {
	return nodecfg.Policy{Default: nodecfg.Bypass, Rules: []nodecfg.Rule{
		{Port: Overlay.iperfPort(), Action: nodecfg.Overlay},
		{Port: Overlay.pingPort(), Action: nodecfg.Overlay},
		{Port: TriggerNever.port(), Action: nodecfg.Overlay},
		{Port: TriggerLate.port(), Action: nodecfg.Bypass, After: 64 << 10},
	}}
}

// StartNodes writes a configuration and a key for each host, starts the program
// there as `PROGRAM -config FILE`, and returns when all nodes are linked.
func (l *Lab) StartNodes(ctx context.Context, program string) error {
	return l.startNodesAs(ctx, program, func(*Host, *nodecfg.Config) {})
}

// startNodesAs lets edit change each configuration. Keys that are there are kept.
func (l *Lab) startNodesAs(ctx context.Context, program string, edit func(*Host, *nodecfg.Config)) error {
	peers := make([]nodecfg.Peer, len(l.hosts))
	for i, h := range l.hosts {
		id, err := overlay.OpenIdentity(h.Identity())
		if err != nil {
			return err
		}
		peers[i] = nodecfg.Peer{ID: id.ID(), Name: fmt.Sprintf("h%d", h.Index)}
	}
	for i, h := range l.hosts {
		cfg := l.nodeConfig(h)
		cfg.Peers = append(append(cfg.Peers, peers[:i]...), peers[i+1:]...)
		edit(h, cfg)
		if err := l.startNode(h, cfg, program); err != nil {
			return fmt.Errorf("host %d: %w", h.Index, err)
		}
	}
	return l.awaitLinks(ctx)
}

// awaitLinks returns when all nodes are linked.
func (l *Lab) awaitLinks(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, nodesTimeout, errors.New("lab: the nodes did not link in time"))
	defer cancel()
	for i, h := range l.hosts {
		var last string
		err := poll(ctx, 50*time.Millisecond, func() (bool, error) {
			select {
			case <-l.nodes[i].exited:
				return false, fmt.Errorf("lab: its node ended (%v): %s", l.nodes[i].err, logTail(h.Log()))
			default:
			}
			last = l.notLinked(ctx, h)
			return last == "", nil
		})
		if err != nil {
			return fmt.Errorf("host %d: %w (%s)", h.Index, err, last)
		}
	}
	return nil
}

// notLinked says what keeps a node from being linked with all others; "" = nothing.
func (l *Lab) notLinked(ctx context.Context, h *Host) string {
	s, err := l.Node(h.Index).Status(ctx)
	switch {
	case err != nil:
		return err.Error()
	case !s.Ready:
		return "the node is not ready"
	}
	for _, p := range s.Peers {
		if p.State != nodeapi.PeerUp {
			return fmt.Sprintf("peer %s is %s: %s", p.Name, p.State, p.Reason)
		}
	}
	if d := s.Discovery; d != nil && l.cfg.Found == ByIDs && len(localOf(s)) < len(h.Containers) {
		return fmt.Sprintf("it has found %d endpoints of %d: %+v", len(localOf(s)), len(h.Containers), d.Ports)
	}
	if len(s.Peers) != len(l.hosts)-1 {
		return fmt.Sprintf("the node has %d peers", len(s.Peers))
	}
	return ""
}

// localOf are the endpoints of the node itself.
func localOf(s *nodeapi.Status) []nodeapi.Endpoint {
	return slices.DeleteFunc(slices.Clone(s.Endpoints), func(e nodeapi.Endpoint) bool { return !e.Peer.IsZero() })
}

// Node asks the node of host number i, counted from 1.
func (l *Lab) Node(i int) nodeapi.Client { return nodeapi.Client{Socket: l.hosts[i-1].Status()} }

// NodePID is the process of that node; 0 = it was not started.
func (l *Lab) NodePID(i int) int {
	if len(l.nodes) < i {
		return 0
	}
	return l.nodes[i-1].proc.PID
}

func (l *Lab) startNode(h *Host, cfg *nodecfg.Config, program string) error {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("lab: node configuration: %w", err)
	}
	text, err := cfg.JSON()
	if err != nil {
		return err
	}
	if err := os.WriteFile(h.Config(), text, 0o600); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	log, err := os.OpenFile(h.Log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	defer log.Close() // the child has its own
	c, err := l.spawn(h.Namespace, nil, log, log, program, "-config", h.Config())
	if err != nil {
		return err
	}
	l.nodes = append(l.nodes, c)
	return nil
}

// nodeConfig is a host's configuration but for its peers.
func (l *Lab) nodeConfig(h *Host) *nodecfg.Config {
	rendezvous := netip.AddrPortFrom(l.hosts[0].Addr, signalPort)
	c := &nodecfg.Config{
		Identity: h.Identity(),
		Network:  "lab",
		Signal:   nodecfg.Signal{TCP: rendezvous},
		Listen:   netip.AddrPortFrom(h.Addr, overlayPort),
		Bridge:   bridge,
		OpenFlow: l.OVS(h.Index).Mgmt(bridge),
		OVSDB:    l.OVS(h.Index).DB(),
		Uplink:   uplink,
		TAP:      nodecfg.TAP{Name: tapName, MTU: l.cfg.MTU},
		Policy:   DefaultPolicy(),
		// Two hosts, their switches and their guests share the cores of one machine:
		// a probe waits for its turn longer than in any network.
		Trust:  nodecfg.Trust{MaxRTT: nodecfg.Duration(l.cfg.MaxRTT)},
		Status: h.Status(),
	}
	if h.Index == 1 {
		c.Signal.Serve = rendezvous
	}
	l.layOut(h, c)
	if l.cfg.Found == ByIDs || l.cfg.Found == ByLearning {
		c.OpenFlow, c.Uplink = "", "" // they are found, too
		return c
	}
	for _, w := range h.Containers {
		c.Endpoints = append(c.Endpoints, nodecfg.Endpoint{Name: w.Name, Port: w.Port, Ofport: w.Ofport,
			MAC: w.MAC, IPs: []netip.Addr{w.Addr, w.Addr6}})
	}
	return c
}
