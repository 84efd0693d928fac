package vias

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/viasnet/vias/internal/control"
	"github.com/viasnet/vias/overlay"
)

// errNotAdded is the allow-list's answer.
var errNotAdded = errors.New("it is not among the peers that were added")

// admission is the overlay.Admission that the transport gets.
type admission struct{ *Network }

// Credential is the rule's.
func (a admission) Credential() []byte {
	if a.config.Admission == nil {
		return nil
	}
	return a.config.Admission.Credential()
}

// Admit is the rule's, or the allow-list's of the peers that were added.
func (a admission) Admit(id overlay.PeerID, credential []byte) error { return a.admit(id, credential) }

func (n *Network) admit(id overlay.PeerID, credential []byte) error {
	if n.config.Admission != nil {
		return n.config.Admission.Admit(id, credential)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if p := n.peers[id]; p == nil || !p.added || p.removed() {
		return errNotAdded
	}
	return nil
}

// checkAdmission ends the link of a peer that is not admitted any more, and shows ours
// when it has changed. It is called by watchLinks.
func (c *conn) checkAdmission() error {
	rule := c.network.config.Admission
	if rule == nil {
		return nil // RemovePeer ends links itself
	}
	if err := rule.Admit(c.peer.id, nil); err != nil {
		return fmt.Errorf("%w: %w", overlay.ErrNotAdmitted, err)
	}
	if !c.isUp() {
		return nil
	}
	if now := rule.Credential(); !bytes.Equal(now, c.shown) && c.queue(control.ChannelCredential, now) {
		c.shown = now
	}
	return nil
}

// credential takes what the peer shows over the link. One that is not good takes nothing
// away: what it showed before counts for as long as it does.
func (c *conn) credential(shown []byte) {
	n := c.network
	if n.config.Admission == nil || len(shown) == 0 || len(shown) > overlay.MaxCredential {
		return
	}
	if err := n.admit(c.peer.id, shown); err != nil {
		n.log.Warn("a linked peer shows a credential that is not good", "peer", c.peer.id.Short(), "err", err)
	}
}

// watchAdmission expels peers that have no link: conns see to those that have one.
func (n *Network) watchAdmission(ctx context.Context, r *running) error {
	rule := n.config.Admission
	if rule == nil {
		return nil
	}
	tick := time.NewTicker(refreshTime)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, p := range n.unlinked() {
			if err := rule.Admit(p.id, nil); err != nil {
				p.expel(r, err)
			}
		}
	}
}

// unlinked are the peers that were linked and are not now.
func (n *Network) unlinked() []*peer {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []*peer
	for _, p := range n.peers {
		if p.met.Load() && !p.linked() {
			list = append(list, p)
		}
	}
	return list
}

func (p *peer) linked() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn != nil
}

// expel leaves nothing of a peer that is not admitted any more but the wish to link to
// it, if it was added. A bypass outlives its link, but not this.
func (p *peer) expel(r *running, err error) {
	if !p.met.Swap(false) {
		return
	}
	n := p.network
	n.log.Warn("peer no longer admitted", "peer", p.id.Short(), "err", err)
	n.stationsChanged(n.shared.Stations.Forget(p.id))
	if r.member != nil {
		r.member.Forget(p.id)
	}
}
