package vias

import "github.com/viasnet/vias/bypass"

type policy struct {
	decide     bypass.Policy
	generation uint64
}

// SetPolicy replaces the policy; nil = bypass.Never. Flows that it no longer
// allows come back to the overlay now; those that it newly allows are moved as
// their packets come by. Without a bypass host it changes nothing.
func (n *Network) SetPolicy(p bypass.Policy) {
	if p == nil {
		p = bypass.Never
	}
	n.setting.Lock()
	defer n.setting.Unlock()
	n.policy.Store(&policy{p, n.policy.Load().generation + 1})
	if r := n.running.Load(); r != nil && r.member != nil {
		r.member.SetPolicy(p)
	}
}

// giveMemberPolicy makes up for a SetPolicy while the host was being joined.
func (n *Network) giveMemberPolicy(r *running) {
	n.setting.Lock()
	defer n.setting.Unlock()
	if p := n.policy.Load(); r.member != nil && p.generation > 1 {
		r.member.SetPolicy(p.decide)
	}
}

func (n *Network) policyNow() (bypass.Policy, uint64) {
	p := n.policy.Load()
	return p.decide, p.generation
}
