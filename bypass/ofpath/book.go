package ofpath

import (
	"slices"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/ofctl"
)

// ruleKey names a rule of this epoch.
type ruleKey struct {
	dir bypass.Direction
	id  uint32
}

// matchKey is what makes two flows of rules the same one: their match, but for the
// uplink's port, which may move. A listen rule's unspecified source is any.
type matchKey struct {
	dir    bypass.Direction
	proto  bypass.Proto
	sp, dp uint16
	ends
}

// keyOf is the key of a flow in the switch.
func keyOf(dir bypass.Direction, m ofctl.Match) matchKey {
	h := headerOf(m)
	k := matchKey{dir: dir, proto: h.proto, sp: h.sp, dp: h.dp, ends: ends{src: h.sender(), dst: h.dst}}
	if dir == bypass.Outbound {
		k.ofport, k.smac, k.dmac = h.inPort, h.smac, h.dmac
	}
	return k
}

// keyOfRule is the key of r's flow.
func keyOfRule(r *bypass.Rule) matchKey {
	from, to := r.Remote, r.Local
	k := matchKey{dir: r.Direction, proto: r.Flow.Proto}
	if r.Direction == bypass.Outbound {
		from, to = r.Flow.Src, r.Flow.Dst
		k.ofport, k.smac, k.dmac = r.Ofport, r.LocalMAC, r.RemoteMAC
	}
	k.src, k.sp, k.dst, k.dp = from.Addr(), from.Port(), to.Addr(), to.Port()
	return k
}

// entry is a rule that should be in the switch.
type entry struct {
	matchKey
	id    uint32
	peer  uint32
	since int64 // when it was added last, or before: ns since clock's beginning
}

func (e *entry) key() ruleKey { return ruleKey{e.dir, e.id} }

// lessee is whose tether it is.
type lessee struct {
	peer uint32
	traffic
}

func lesseeOf(e bypass.Lease) lessee { return lessee{e.Peer, trafficOf(e.Proto, e.Local)} }

// tethers of one peer.
func tethers(peer uint32) (list [4]lessee) {
	for i := range list {
		list[i] = lessee{peer, traffic{[]bypass.Proto{bypass.TCP, bypass.UDP}[i%2], []bypass.Family{bypass.IPv4, bypass.IPv6}[i/2]}}
	}
	return list
}

// booking is a change on its way into what is known of the switch. Its methods are
// called with the datapath's mu.
type booking struct {
	d    *datapath
	l    layout
	now  time.Time
	mods []ofctl.Mod
	tied []uint32    // peers whose tethers must be added anew, behind all rules
	last []ofctl.Mod // deletions, which come after all additions
	// What there was, of what may have changed.
	rules map[ruleKey]*entry // nil = none
	held  map[lessee]time.Time
	lent  []uint32 // the peers of held
}

// prepare is c as modifications. From now on the rules that c removes are not
// missed when they vanish, and those that it adds are; undo takes that back.
func (d *datapath) prepare(l layout, c bypass.Change) (mods []ofctl.Mod, undo func()) {
	b := &booking{
		d: d, l: l, now: time.Now(), rules: map[ruleKey]*entry{}, held: map[lessee]time.Time{},
		mods: make([]ofctl.Mod, 0, 3*len(c.Leases)+len(c.Add)+len(c.Remove)+len(c.Purge)),
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range c.Leases {
		b.lease(e)
	}
	for _, r := range c.Add {
		b.add(r)
	}
	b.tie()
	for _, r := range c.Remove {
		b.remove(r)
	}
	for _, s := range c.Purge {
		b.last = append(b.last, l.purge(s)...)
	}
	for _, e := range c.Leases {
		if !l.outer() {
			b.untether(e)
		}
	}
	return append(b.mods, b.last...), func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		b.restore()
	}
}

// lease opens, renews or closes the gates, and renews the tether.
func (b *booking) lease(e bypass.Lease) {
	if b.l.outer() {
		owner := b.l.cfg.owner().Mask
		b.mods = append(b.mods, gate(b.l.steer(e), owner), gate(b.l.wayOut(e), owner))
		return
	}
	if !slices.Contains(b.lent, e.Peer) {
		b.lent = append(b.lent, e.Peer)
		for _, k := range tethers(e.Peer) {
			if until, there := b.d.held[k]; there {
				b.held[k] = until
			}
		}
	}
	owner, k := b.l.cfg.owner().Mask, lesseeOf(e)
	b.mods = append(b.mods, gate(b.l.inboundGate(e), owner), gate(b.l.outboundGate(e), owner))
	if t := b.l.tether(k, holds(e)); t.HardTimeout > 0 {
		b.d.held[k] = b.now.Add(time.Duration(t.HardTimeout) * time.Second)
		b.retie(e.Peer)
	} else {
		delete(b.d.held, k)
	}
}

// holds is for how long e's tether does.
func holds(e bypass.Lease) time.Duration { return max(e.Outbound, e.Inbound) }

func (b *booking) retie(peer uint32) {
	if !slices.Contains(b.tied, peer) {
		b.tied = append(b.tied, peer)
	}
}

// tie adds tethers anew, with the time that they have left, behind the rules that
// they hold. Open vSwitch (3.1) looks for flows that have run out in the order in
// which they were added; if a tether runs out and deletes a rule that comes later in
// that order and has run out by itself too, ovs-vswitchd fails an assertion and dies.
// So a tether must always be younger than all rules with a time-out that it holds.
func (b *booking) tie() {
	for _, peer := range b.tied {
		for _, k := range tethers(peer) {
			left := b.d.held[k].Sub(b.now)
			if left <= 0 {
				continue
			}
			whole := (left + time.Second - 1).Truncate(time.Second)
			b.mods = append(b.mods, ofctl.FlowMod{Command: ofctl.Add, Flow: b.l.tether(k, whole)})
		}
	}
}

// untether cuts the tether of a lease that has ended. If no other one holds the
// peer's rules they go with it, and are not missed.
func (b *booking) untether(e bypass.Lease) {
	t := b.l.tether(lesseeOf(e), holds(e))
	if t.HardTimeout > 0 {
		return
	}
	for _, k := range tethers(e.Peer) {
		if b.d.held[k].After(b.now) {
			b.last = append(b.last, remove(t, b.l.cfg.owner().Mask))
			return
		}
	}
	// By its cookie: another tether, that should have run out just now, must not
	// outlive this one.
	b.last = append(b.last, ofctl.FlowMod{
		Command: ofctl.Delete, CookieMask: ^uint64(0), Flow: ofctl.Flow{Table: t.Table, Cookie: t.Cookie},
	})
	was := false
	for _, k := range tethers(e.Peer) {
		_, held := b.held[k]
		was = was || held
		delete(b.d.held, k)
	}
	for r := range b.d.installed.all() {
		if was && r.dir != bypass.Listen && r.peer == e.Peer {
			b.keep(r.key())
			b.d.installed.drop(r.key())
		}
	}
}

func (b *booking) add(r bypass.Rule) {
	b.mods = append(b.mods, ofctl.FlowMod{Command: ofctl.Add, Flow: b.l.rule(r)})
	e := entry{keyOfRule(&r), r.ID, r.Peer, b.d.clock(b.now)}
	b.keep(e.key())
	if old, there := b.d.installed.get(e.key()); there && old.matchKey != e.matchKey {
		b.last = append(b.last, remove(b.l.named(&old), cookieOfRule)) // the rule gets another match
	}
	if other, taken := b.d.installed.owner(e.matchKey); taken {
		b.keep(ruleKey{e.dir, other})
	}
	b.d.installed.put(e)
	if r.Direction != bypass.Listen {
		b.retie(r.Peer)
	}
}

// remove deletes r's flow, unless it has become another rule's, and the flow that has
// its ID.
func (b *booking) remove(r bypass.Rule) {
	e := entry{matchKey: keyOfRule(&r), id: r.ID, peer: r.Peer}
	k := e.key()
	if owner, taken := b.d.installed.owner(e.matchKey); !taken || owner == r.ID {
		b.last = append(b.last, remove(b.l.named(&e), cookieOfRule))
	}
	old, there := b.d.installed.get(k)
	if !there {
		return
	}
	if old.matchKey != e.matchKey {
		b.last = append(b.last, remove(b.l.named(&old), cookieOfRule))
	}
	b.keep(k)
	b.d.installed.drop(k)
}

// cookieOfRule is the part of a rule's cookie that does not depend on the epoch: a
// removal takes what an earlier run left, but never a rule of another peer.
const cookieOfRule = 0xffff_0000_ffff_ffff

// keep notes how things stand with k, to be restored.
func (b *booking) keep(k ruleKey) {
	if _, kept := b.rules[k]; kept {
		return
	}
	b.rules[k] = nil
	if old, there := b.d.installed.get(k); there {
		b.rules[k] = &old
	}
}

// restore undoes all that was booked.
func (b *booking) restore() {
	for k := range b.rules {
		b.d.installed.drop(k)
	}
	for _, old := range b.rules {
		if old != nil {
			b.d.installed.put(*old)
		}
	}
	for _, peer := range b.lent {
		for _, k := range tethers(peer) {
			delete(b.d.held, k)
			if until, there := b.held[k]; there {
				b.d.held[k] = until
			}
		}
	}
}
