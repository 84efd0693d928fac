package bypass

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/viasnet/vias/tap"
)

// A message can be lost with its session, or to a full queue. What then differs
// between the two ends is put right by Alive: each end says which transactions are
// active here, and the other closes those that it has nothing of. It is sent on each
// new link, and when the peer asks, which it does when packets come for a flow that it
// does not know.

// Times and sizes of a resync.
const (
	aliveBurst  = 8                      // Alive messages at once
	alivePause  = 100 * time.Millisecond // between two bursts
	aliveRetry  = time.Second            // when the link took no more
	syncEvery   = 3 * time.Second        // at most, for one peer
	orphanEvery = 10 * time.Millisecond  // at most, is one looked at
)

// announce tells the peer which of its transactions are active here.
func (l *loop) announce(p *peer, now time.Time) {
	if len(p.unsaid) > 0 {
		return // under way
	}
	for id, e := range p.txns {
		if e.t.phase == phaseActive {
			p.unsaid = append(p.unsaid, id)
		}
	}
	l.announceMore(p, now)
}

func (l *loop) announceMore(p *peer, now time.Time) {
	pause := alivePause
	for range aliveBurst {
		n := min(len(p.unsaid), maxAlive)
		if n == 0 || !p.linked {
			return
		}
		if !l.send(p, message{Kind: msgAlive, IDs: slices.Clone(p.unsaid[:n])}) {
			pause = aliveRetry
			break
		}
		p.unsaid = p.unsaid[n:]
	}
	if len(p.unsaid) > 0 {
		l.timers.add(now.Add(pause), func() { l.announceMore(p, time.Now()) })
	}
}

// onAlive closes what the peer believes to be active and we have nothing of, or have
// taken for ended.
func (l *loop) onAlive(p *peer, m message, now time.Time) {
	for _, id := range m.IDs {
		e := p.txns[id]
		if e == nil || e.t.phase == phaseDraining || e.t.phase == phaseRemoving {
			l.send(p, message{Kind: msgClose, ID: id, Reason: ReasonFlowLost})
		}
	}
}

// askAlive asks the peer for its active transactions.
func (l *loop) askAlive(p *peer, now time.Time) {
	if now.Sub(p.asked) >= syncEvery && l.send(p, message{Kind: msgSync}) {
		p.asked = now
	}
}

// orphan is a packet of a bypassed flow that no rule of ours took, though its sender's
// leases live: the sender may believe in a flow that we have nothing of. Anybody on
// the provider's network can make us ask, so we ask seldom.
func (l *loop) orphan(frame []byte, now time.Time) {
	src, dst, ok := parseOrphan(frame)
	if !ok {
		return
	}
	for _, p := range l.sortedPeers() {
		if p.pair == (AddrPair{dst, src}) {
			l.askAlive(p, now)
		}
	}
}

// parseOrphan reads the addresses of a packet of which only the head may be there.
func parseOrphan(frame []byte) (src, dst netip.Addr, ok bool) {
	const ip = tap.HeaderLen
	if len(frame) < ip+lenIPv4 {
		return src, dst, false
	}
	switch kind := binary.BigEndian.Uint16(frame[12:]); {
	case kind == etherIPv4:
		return netip.AddrFrom4([4]byte(frame[ip+12:])), netip.AddrFrom4([4]byte(frame[ip+16:])), true
	case kind == etherIPv6 && len(frame) >= ip+lenIPv6:
		return netip.AddrFrom16([16]byte(frame[ip+8:])), netip.AddrFrom16([16]byte(frame[ip+24:])), true
	}
	return src, dst, false
}
