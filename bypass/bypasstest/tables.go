package bypasstest

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/tap"
)

// tables is what a Switch holds. The Switch's mu guards it.
type tables struct {
	base     bypass.Base
	baseEnd  time.Time
	rules    map[ruleKey]*rule
	byMatch  map[matchKey]*rule
	outGates map[outGate]time.Time
	inGates  map[inGate]time.Time
	leases   map[leaseKey]bypass.Lease // what the gates were made of
	tethers  map[peerKey]*tether
	cache    map[cacheKey]*cached
	errors   bucket // what is left of the rate of ICMP errors
}

// ruleKey is what makes two rules the same one.
type ruleKey struct {
	epoch uint16
	dir   bypass.Direction
	id    uint32
}

// matchKey is what a rule matches. Two rules with one matchKey cannot be in a
// switch at once.
type matchKey struct {
	dir                 bypass.Direction
	ofport              uint32
	localMAC, remoteMAC tap.MAC
	flow                bypass.Flow // as on the wire where it comes in
}

// outGate has an epoch: a peer's number means nothing to the rules of another run.
type outGate struct {
	peerKey
	kind
}

// kind is what a lease is for.
type kind struct {
	proto  bypass.Proto
	family bypass.Family
}

// gate is the outbound gate of r.
func (r *rule) gate() outGate {
	return outGate{peerKey{r.epoch, r.Peer}, kind{r.Flow.Proto, bypass.FamilyOf(r.Local.Addr())}}
}

// peerKey names a peer of one run.
type peerKey struct {
	epoch uint16
	peer  uint32
}

// tether holds a peer's rules: they go when its last lease ends. There is none
// before the first one.
type tether struct {
	ends  map[kind]time.Time
	timer *time.Timer
}

// left is for how long the tether holds.
func (t *tether) left(now time.Time) (d time.Duration) {
	for _, end := range t.ends {
		d = max(d, end.Sub(now))
	}
	return d
}

type leaseKey struct {
	outGate
	inGate
}

type inGate struct {
	proto         bypass.Proto
	local, remote netip.Addr
}

type rule struct {
	bypass.Rule
	epoch          uint16
	packets, bytes uint64
	shown          shownCounts
	lastHit        time.Time
	hardEnd        time.Time // zero = never
	timer          *time.Timer
}

func (r *rule) hit(n int, lag time.Duration) {
	r.collect(time.Now(), lag)
	r.packets++
	r.bytes += uint64(n)
	r.lastHit = time.Now()
}

func (t *tables) clear() {
	for _, r := range t.rules {
		r.stop()
	}
	for _, h := range t.tethers {
		h.timer.Stop()
	}
	*t = tables{
		rules: map[ruleKey]*rule{}, byMatch: map[matchKey]*rule{},
		outGates: map[outGate]time.Time{}, inGates: map[inGate]time.Time{},
		leases: map[leaseKey]bypass.Lease{}, tethers: map[peerKey]*tether{},
		cache: map[cacheKey]*cached{},
	}
}

func (r *rule) stop() {
	if r.timer != nil {
		r.timer.Stop()
	}
}

func (r *rule) key() ruleKey { return ruleKey{r.epoch, r.Direction, r.ID} }

func match(r bypass.Rule) matchKey {
	switch r.Direction {
	case bypass.Outbound:
		return matchKey{r.Direction, r.Ofport, r.LocalMAC, r.RemoteMAC, r.Flow}
	case bypass.Listen:
		return matchKey{dir: r.Direction, flow: bypass.Flow{Proto: r.Flow.Proto, Src: r.Remote, Dst: r.Local}}
	}
	return matchKey{dir: bypass.Inbound, flow: bypass.Flow{Proto: r.Flow.Proto, Src: r.Remote, Dst: r.Local}}
}

// put makes nr a rule, in place of what has its ID or its match.
func (t *tables) put(nr *rule) {
	if nr.Direction == bypass.Inbound {
		nr.Idle = 0
	}
	nr.lastHit = time.Now()
	if nr.Hard > 0 {
		nr.hardEnd = time.Now().Add(nr.Hard)
	}
	m := match(nr.Rule)
	if old := t.byMatch[m]; old != nil {
		nr.packets, nr.bytes = old.packets, old.bytes
		t.drop(old)
	}
	if old := t.rules[nr.key()]; old != nil {
		t.drop(old)
	}
	t.rules[nr.key()] = nr
	t.byMatch[m] = nr
}

func (t *tables) drop(r *rule) {
	r.stop()
	delete(t.rules, r.key())
	delete(t.byMatch, match(r.Rule))
}

// purge removes the rules that have p's epoch, direction and peer.
func (t *tables) purge(p bypass.RuleStat) {
	for _, r := range t.sortedRules() {
		if r.epoch == p.Epoch && r.Direction == p.Rule.Direction && r.Peer == p.Rule.Peer {
			t.drop(r)
		}
	}
}

// find is the rule that a removal means: the one with r's match and ID, of any
// epoch, or else the one with r's ID in this epoch.
func (t *tables) find(epoch uint16, r bypass.Rule) *rule {
	if f := t.byMatch[match(r)]; f != nil && f.ID == r.ID {
		return f
	}
	return t.rules[ruleKey{epoch, r.Direction, r.ID}]
}

func kindOf(l bypass.Lease) kind { return kind{l.Proto, bypass.FamilyOf(l.Local)} }

func (t *tables) lease(now time.Time, epoch uint16, l bypass.Lease) {
	og := outGate{peerKey{epoch, l.Peer}, kindOf(l)}
	ig := inGate{l.Proto, l.Local, l.Remote}
	t.leases[leaseKey{og, ig}] = l
	if t.outGates[og] = now.Add(l.Outbound); l.Outbound <= 0 {
		delete(t.outGates, og)
	}
	if t.inGates[ig] = now.Add(l.Inbound); l.Inbound <= 0 {
		delete(t.inGates, ig)
	}
}

// outbound decides on a packet of the workload at ofport.
func (t *tables) outbound(now time.Time, ofport uint32, p Packet) decision {
	plain := decision{verdict: toTap}
	if p.odd() || !t.baseEnd.After(now) || !t.workload(ofport, p.SrcMAC, p.Flow.Src.Addr()) {
		return plain
	}
	r := t.byMatch[matchKey{bypass.Outbound, ofport, p.SrcMAC, p.DstMAC, p.Flow}]
	if r == nil {
		return plain
	}
	// An exact rule behind a dead gate is hit all the same, as on a real switch.
	end := t.outGates[r.gate()]
	if !end.After(now) {
		plain.rule = r
		return plain
	}
	hop := slices.IndexFunc(t.base.Hops, func(h bypass.Hop) bool { return h.ID == r.Hop })
	if hop < 0 {
		return decision{verdict: drop, rule: r}
	}
	h := t.base.Hops[hop]
	if t.baseEnd.Before(end) {
		end = t.baseEnd
	}
	return decision{
		verdict: toWire, rule: r, until: end,
		rewrite: rewriting{h.Src, h.Dst, r.Local, r.Remote},
	}
}

func (t *tables) workload(ofport uint32, mac tap.MAC, ip netip.Addr) bool {
	return slices.ContainsFunc(t.base.Workloads, func(w bypass.Workload) bool {
		return w.Ofport == ofport && w.MAC == mac && slices.Contains(w.IPs, ip)
	})
}

// inbound decides on a packet from the uplink.
func (t *tables) inbound(now time.Time, p Packet) decision {
	host := decision{verdict: toHost}
	if p.Fragment != 0 || p.More || len(p.Ext) > 0 {
		return host // fragments have no ports to match, on a real switch not even the first
	}
	if r := t.listener(now, p); r != nil && p.VLAN == 0 {
		return decision{verdict: toController, kind: bypass.PacketProbe, rule: r, until: r.hardEnd}
	}
	if !t.base.Ports.Contains(p.Flow.Dst.Port()) {
		return host
	}
	local, remote := p.Flow.Dst.Addr(), p.Flow.Src.Addr()
	if end := t.inGates[inGate{p.Flow.Proto, local, remote}]; end.After(now) && p.VLAN == 0 {
		r := t.byMatch[matchKey{dir: bypass.Inbound, flow: p.Flow}]
		if r == nil {
			return decision{verdict: toController, kind: bypass.PacketOrphan, until: end}
		}
		return decision{
			verdict: toPort, rule: r, port: r.Ofport, until: end,
			rewrite: rewriting{r.RemoteMAC, r.LocalMAC, r.Flow.Dst, r.Flow.Src},
		}
	}
	if t.baseEnd.After(now) && slices.Contains(t.base.Guard, bypass.AddrPair{Local: local, Remote: remote}) {
		return decision{verdict: toController, kind: bypass.PacketGuard, until: t.baseEnd}
	}
	return host
}

// listener is the live listen rule that takes p.
func (t *tables) listener(now time.Time, p Packet) *rule {
	m := matchKey{dir: bypass.Listen, flow: p.Flow}
	r := t.byMatch[m]
	if r == nil {
		m.flow.Src = netip.AddrPortFrom(p.Flow.Src.Addr(), 0)
		r = t.byMatch[m]
	}
	if r == nil {
		m.flow.Src = netip.AddrPortFrom(anyOf(p.Flow.Src.Addr()), 0)
		r = t.byMatch[m]
	}
	if r == nil || !r.hardEnd.IsZero() && !r.hardEnd.After(now) {
		return nil
	}
	return r
}

// anyOf stands for any address of a's family.
func anyOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// guards tells whether local is one of the addresses that the guard is for.
func (t *tables) guards(now time.Time, local netip.Addr) bool {
	return t.baseEnd.After(now) && slices.ContainsFunc(t.base.Guard, func(p bypass.AddrPair) bool { return p.Local == local })
}

// statsLocked lists the live rules by epoch, direction and ID, with the counters that
// they show when these lag.
func (t *tables) statsLocked(now time.Time, lag time.Duration) []bypass.RuleStat {
	list := make([]bypass.RuleStat, 0, len(t.rules))
	for _, r := range t.rules {
		if r.hardEnd.IsZero() || r.hardEnd.After(now) {
			packets, bytes := r.counts(now, lag)
			list = append(list, bypass.RuleStat{Epoch: r.epoch, Rule: r.Rule, Packets: packets, Bytes: bytes})
		}
	}
	slices.SortFunc(list, func(a, b bypass.RuleStat) int {
		return cmp.Or(cmp.Compare(a.Epoch, b.Epoch),
			cmp.Compare(a.Rule.Direction, b.Rule.Direction), cmp.Compare(a.Rule.ID, b.Rule.ID))
	})
	return list
}
