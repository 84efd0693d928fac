package bypass

import (
	"math"
	"net/netip"
	"time"
)

// tuple is an underlay five-tuple as this host sees it: what must be unique, and
// what a stale inbound rule on some host may still lead somewhere.
type tuple struct {
	proto         Proto
	local, remote netip.AddrPort
}

// ports knows which tuples are live or in quarantine. A tuple rests after use, so
// that no packet or rule of its old flow can meet the new one. Ports are drawn at
// random: a guess must not be better than chance.
//
// The range is split: the top sixteenth is for probes, the rest for flows, so that
// a Listen rule never takes a flow's packets.
type ports struct {
	rng     PortRange
	used    map[fiveTuple]use
	held    map[netip.Addr]int // how many of used have that remote address
	started time.Time
	draw    func() uint64 // chance
}

// use is what a tuple is taken for.
type use struct {
	until time.Duration // since ports.started; live = its flow says when
	rule  uint32        // that sends by it; 0 = none
}

// live is the expiry of a tuple that is in use.
const live time.Duration = math.MaxInt64

func newPorts(r PortRange, draw func() uint64) *ports {
	return &ports{
		rng: r, used: make(map[fiveTuple]use), held: make(map[netip.Addr]int),
		started: time.Now(), draw: draw,
	}
}

// below draws a number from 0 to n-1.
func (p *ports) below(n int) uint16 { return uint16(p.draw() % uint64(n)) }

// firstProbe is the first of the ports that belong to probes.
func (p *ports) firstProbe() uint16 { return p.rng.Last() - uint16(p.rng.Len()/16) + 1 }

// flowPorts is how many ports may carry flows.
func (p *ports) flowPorts() int { return p.rng.Len() - p.rng.Len()/16 }

// flowPort tells whether port may carry a flow.
func (p *ports) flowPort(port uint16) bool {
	return p.rng.Contains(port) && port < p.firstProbe()
}

// probePort tells whether port may carry probes.
func (p *ports) probePort(port uint16) bool {
	return p.rng.Contains(port) && port >= p.firstProbe()
}

// probe draws n different ports for probes, which are not taken unless all are: a
// Listen rule matches no sender, so two with one port are one rule, and whoever is
// done first would take it from the other. nil = none is taken.
func (p *ports) probe(n int, taken func(port uint16) bool) []uint16 {
	slot := p.rng.Len() / 16 / n
	out := make([]uint16, n)
	for i := range out { // kept apart by their slots
		first, start := p.firstProbe()+uint16(i*slot), p.below(slot)
		out[i] = first + start
		for k := 1; taken != nil && k < slot && taken(out[i]); k++ {
			out[i] = first + (start+uint16(k))%uint16(slot)
		}
	}
	return out
}

// draws is how often chance decides, before the ports are tried one after the other:
// with so many pairs, the next draw almost always finds a free one.
const draws = 16

// propose draws both ports of a pair, and takes it; false when none was found free, or
// too many are in use with that remote host.
func (p *ports) propose(proto Proto, local, remote netip.Addr, now time.Time) (tuple, bool) {
	port := func(n uint16) uint16 { return p.rng.First() + n%uint16(p.flowPorts()) }
	draw := func() tuple {
		ours, theirs := p.below(p.flowPorts()), p.below(p.flowPorts())
		return tuple{proto, netip.AddrPortFrom(local, port(ours)), netip.AddrPortFrom(remote, port(theirs))}
	}
	for range draws {
		if t := draw(); p.take(t, now) {
			return t, true
		}
	}
	t := draw()
	start := t.remote.Port() - p.rng.First()
	for i := range uint16(p.flowPorts()) {
		t.remote = netip.AddrPortFrom(remote, port(start+i))
		if p.take(t, now) {
			return t, true
		}
	}
	return tuple{}, false
}

// take makes t live; false if it is live or rests, or if there are too many.
func (p *ports) take(t tuple, now time.Time) bool {
	k, ok := t.key()
	u, known := p.used[k]
	if !ok || known && u.until > now.Sub(p.started) {
		return false
	}
	if !known && p.held[t.remote.Addr()] >= maxTuples {
		return false
	}
	p.set(k, t, use{until: live})
	return true
}

// bind notes the rule that t is used by, for as long as it is live.
func (p *ports) bind(t tuple, rule uint32) {
	if k, ok := t.key(); ok {
		p.set(k, t, use{live, rule})
	}
}

// rule is the rule that uses t now; 0 = none.
func (p *ports) rule(t tuple) uint32 {
	k, ok := t.key()
	if !ok {
		return 0
	}
	return p.used[k].rule
}

// key is t in short; false if none like it can be used.
func (t tuple) key() (fiveTuple, bool) { return compact(Flow{t.proto, t.local, t.remote}) }

// free sends t into quarantine.
func (p *ports) free(t tuple, until time.Time) {
	if k, ok := t.key(); ok {
		p.set(k, t, use{until: until.Sub(p.started)})
	}
}

func (p *ports) set(k fiveTuple, t tuple, u use) {
	if _, known := p.used[k]; !known {
		p.held[t.remote.Addr()]++
	}
	p.used[k] = u
}

// sweep forgets tuples that have rested.
func (p *ports) sweep(now time.Time) {
	for t, u := range p.used {
		if u.until <= now.Sub(p.started) {
			delete(p.used, t)
			remote := t.tuple().remote.Addr()
			if p.held[remote]--; p.held[remote] == 0 {
				delete(p.held, remote)
			}
		}
	}
}
