package bypass

import (
	"context"
	"time"
)

// ICMP errors about bypassed packets come to us, since our address is what routers see.
// They quote headers that no guest knows. One that quotes a packet which a live rule of
// ours sends is translated for the guest that sent it, as if there were no underlay: what
// its kernel needs to know is that its segments are too long, or that nobody takes them.
//
// Whoever can send to us can forge one, if it guesses addresses and ports. So a guest gets
// few, a too-big is believed by the proof only when its own probes show the same, and
// looking at one costs the same however many flows there are.

// How many errors are looked at, and how many of them guests get, all in all and of one
// flow. A guest's kernel sends no more than a few packets for each.
const (
	icmpLookEvery, icmpLookBurst = time.Millisecond, 256
	icmpEvery, icmpBurst         = 5 * time.Millisecond, 100
	icmpFlowEvery, icmpFlowBurst = 250 * time.Millisecond, 4
	maxICMPFlows                 = 512
	icmpMeasures                 = proofFull // full-size pings before the path counts as narrow
	icmpMeasureRest              = time.Second
	icmpDeliverTimeout           = 100 * time.Millisecond
)

// icmpPaces limits what guests get.
type icmpPaces struct {
	all   pace
	flows map[uint32]*pace // by rule
}

// allow tells whether the flow with that rule may have another error.
func (i *icmpPaces) allow(rule uint32, now time.Time) bool {
	p := i.flows[rule]
	if p == nil {
		if len(i.flows) >= maxICMPFlows {
			i.sweep(now)
		}
		if len(i.flows) >= maxICMPFlows {
			return false
		}
		p = &pace{}
	}
	if !p.allow(now, icmpFlowEvery, icmpFlowBurst) || !i.all.allow(now, icmpEvery, icmpBurst) {
		return false
	}
	if i.flows == nil {
		i.flows = make(map[uint32]*pace)
	}
	i.flows[rule] = p
	return true
}

// sweep forgets flows that have had no error for a while.
func (i *icmpPaces) sweep(now time.Time) {
	for rule, p := range i.flows {
		if !p.next.After(now) {
			delete(i.flows, rule)
		}
	}
}

// icmpError takes an ICMP error that came to an address of ours.
func (l *loop) icmpError(frame []byte, now time.Time) {
	i, ok := parseICMPError(frame)
	if !ok {
		return
	}
	e := l.byRule[l.ports.rule(tuple{i.wire.Proto, i.wire.Src, i.wire.Dst})]
	switch {
	case e == nil, !e.t.phase.sends(), e.t.detached, !l.attached(e.member, e.t.ends.Ofport):
		return // the packet is not, or no longer, one of a guest's: the host has the error too
	case i.mtu == 0 && i.from == i.wire.Dst.Addr():
		return // the peer's host has no such port. But the packet is not for it
	}
	if i.mtu > 0 && i.mtu < e.member.cfg.MTU {
		e.peer.proof.doubt(now)
		l.armProof(e.peer)
	}
	if !l.icmp.allow(e.t.rule, now) {
		return
	}
	out, ofport := i.translate(e.flow(), e.t.ends.LocalMAC, e.t.ends.RemoteMAC), e.t.ends.Ofport
	// In its place among the changes: whoever detaches the workload waits until the flow's
	// rules are off, and from then on nothing of the flow may come out of the port.
	l.change.post(pending{call: func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, icmpDeliverTimeout)
		defer cancel()
		// A router's error may be lost like any other packet: the next one brings another.
		_ = l.dp.Deliver(ctx, ofport, out)
	}})
}

// sends tells whether the flow's outbound rule is in the switch, or may be, and is
// wanted there.
func (p phase) sends() bool {
	switch p {
	case phaseInstalling, phaseConfirming, phaseCompleting, phaseActive:
		return true
	}
	return false
}

// doubt has full-size probes measure a proven path again, of which somebody says that it
// is narrower.
func (p *proof) doubt(now time.Time) {
	if p.phase != proofFresh || p.measures > 0 || now.Before(p.measured.Add(icmpMeasureRest)) {
		return
	}
	p.measures, p.nextPing = icmpMeasures+1, now
}

// measure goes with the pings. It fails the proof when those come back and what is of
// full size does not: there is a way, but not for all that guests send.
func (p *proof) measure(now time.Time) []proofAction {
	if p.measures == 0 {
		return nil
	}
	if p.measures--; p.measures > 0 {
		h := &p.half[0] // over UDP: size is size
		h.n++
		h.sentAt[h.n%8] = now
		pr := probe{proto: UDP, src: p.from(), dst: p.to()}
		p.key.seal(&pr, probeRequest, p.round, h.n, p.cfg.mtu)
		return p.emit(&pr)
	}
	if !p.half[0].waiting.Equal(now) { // the last ping is not back: what is silent is not narrow
		p.measures = 1
		return nil
	}
	return p.fail(ReasonMTU, now)
}

// isWide ends the doubt when a full-size probe was answered.
func (p *proof) isWide(pr *probe, now time.Time) {
	if p.measures > 0 && pr.size >= p.cfg.mtu {
		p.measures, p.measured = 0, now
	}
}
