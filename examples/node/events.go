package main

import (
	"iter"
	"log/slog"
	"time"

	"github.com/viasnet/vias"
	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/overlay"
)

// logEvents logs what happens until the Network ends.
func (n *node) logEvents(events iter.Seq[vias.Event]) {
	var lines flowLines
	for e := range events {
		if f, ok := e.(vias.FlowChanged); ok {
			if lines.room(n.log, time.Now()) {
				n.logFlow(f)
			}
			continue
		}
		n.logEvent(e)
	}
}

// flowLines counts lines about flows in the log. Workloads make flows, as many as they
// like: there are no more than maxFlowLines a second, and one that says how many more.
type flowLines struct {
	since     time.Time
	n, unsaid int
}

const maxFlowLines = 50

// room tells whether one more line may be written now.
func (l *flowLines) room(log *slog.Logger, now time.Time) bool {
	if now.Sub(l.since) >= time.Second {
		if l.unsaid > 0 {
			log.Info("more flows have changed; see node status", "count", l.unsaid)
		}
		*l = flowLines{since: now}
	}
	if l.n >= maxFlowLines {
		l.unsaid++
		return false
	}
	l.n++
	return true
}

func (n *node) logEvent(e vias.Event) {
	switch e := e.(type) {
	case vias.PeerUp: // the Network logs these two itself, by ID
		n.log.Debug("peer is linked", "peer", n.peerName(e.Peer))
	case vias.PeerDown:
		n.log.Debug("peer is not linked any more", "peer", n.peerName(e.Peer), "err", e.Err)
	case vias.EndpointUp:
		n.log.Info("endpoint is up", "peer", n.peerName(e.Peer), "endpoint", e.Name, "mac", e.MAC.String())
	case vias.EndpointDown:
		n.log.Info("endpoint is down", "peer", n.peerName(e.Peer), "endpoint", e.Name, "mac", e.MAC.String())
	case vias.Conflict:
		n.log.Warn("a peer announced an address that is taken", "claimer", n.peerName(e.Claimer), "holder", n.peerName(e.Holder),
			"mac", e.MAC.String(), "ip", e.IP)
	case vias.Lagged:
		n.log.Warn("events were lost; see node status", "count", e.N)
	}
}

func (n *node) logFlow(e vias.FlowChanged) {
	words := []any{"flow", e.Flow.String(), "peer", n.peerName(e.Peer), "state", e.State.String()}
	switch {
	case e.State == bypass.Bypassed:
		n.log.Info("flow is bypassed", words...)
	case e.State == bypass.OnOverlay && e.Reason != bypass.ReasonNone:
		n.log.Info("flow is on the overlay", append(words, "reason", e.Reason.String())...)
	default:
		n.log.Debug("flow changes", words...)
	}
}

// peerName is how the configuration calls a peer; "us" for the zero ID.
func (n *node) peerName(id overlay.PeerID) string {
	if id.IsZero() {
		return "us"
	}
	for _, p := range n.cfg.Peers {
		if p.ID == id {
			return p.Name
		}
	}
	return id.Short()
}
