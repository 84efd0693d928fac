package bypass

import (
	"crypto/rand"
	"encoding/binary"
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
	rng  PortRange
	rest time.Duration // quarantine
	used map[tuple]time.Time
	draw func() uint16
}

// live is the expiry of a tuple that is in use.
var live = time.Time{}

func newPorts(r PortRange, rest time.Duration) *ports {
	return &ports{rng: r, rest: rest, used: make(map[tuple]time.Time), draw: randomUint16}
}

func randomUint16() uint16 {
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return binary.BigEndian.Uint16(b[:])
}

// firstProbe is the first of the ports that belong to probes.
func (p *ports) firstProbe() uint16 { return p.rng.Last() - uint16(p.rng.Len()/16) + 1 }

// flowPort tells whether port may carry a flow.
func (p *ports) flowPort(port uint16) bool {
	return p.rng.Contains(port) && port < p.firstProbe()
}

// probePort tells whether port may carry probes.
func (p *ports) probePort(port uint16) bool {
	return p.rng.Contains(port) && port >= p.firstProbe()
}

// propose draws a port for a flow; the peer picks the other one.
func (p *ports) propose() uint16 {
	return p.rng.First() + p.draw()%uint16(p.rng.Len()-p.rng.Len()/16)
}

// probe draws n different ports for probes.
func (p *ports) probe(n int) []uint16 {
	size := uint16(p.rng.Len() / 16)
	start := p.draw()
	out := make([]uint16, n)
	for i := range out { // one random start each, kept apart by their slots
		slot := size / uint16(n)
		out[i] = p.firstProbe() + uint16(i)*slot + (start+p.draw())%slot
	}
	return out
}

// pick draws our port for a tuple whose remote end is given, and takes the tuple;
// false when all are in use.
func (p *ports) pick(proto Proto, local netip.Addr, remote netip.AddrPort, now time.Time) (uint16, bool) {
	n := uint16(p.rng.Len() - p.rng.Len()/16)
	start := p.draw() % n
	for i := range n {
		port := p.rng.First() + (start+i)%n
		if p.take(tuple{proto, netip.AddrPortFrom(local, port), remote}, now) {
			return port, true
		}
	}
	return 0, false
}

// take makes t live; false if it is live or rests.
func (p *ports) take(t tuple, now time.Time) bool {
	until, known := p.used[t]
	if known && (until == live || now.Before(until)) {
		return false
	}
	p.used[t] = live
	return true
}

// free sends t into quarantine.
func (p *ports) free(t tuple, now time.Time) { p.used[t] = now.Add(p.rest) }

// sweep forgets tuples that have rested.
func (p *ports) sweep(now time.Time) {
	for t, until := range p.used {
		if until != live && !now.Before(until) {
			delete(p.used, t)
		}
	}
}
