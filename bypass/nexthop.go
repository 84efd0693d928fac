package bypass

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/viasnet/vias/tap"
)

// The kernel confirms neighbours for what it sends itself, and bypassed packets it does
// not send: a next hop that gets another MAC without saying so (a router's failover, a
// replaced card) stays in its table as it was. So we ask on its behalf, by ARP or
// neighbour discovery, and the kernel takes the answer: it comes to its own address like
// any other. Underlay.Watch tells of what changed, and one change of the hop leads all
// flows to the new MAC.

// Times of asking for a next hop.
const (
	// hopAsk is how often a hop may be asked for by broadcast: at each ping while the one
	// before is unanswered, until the proof has gone stale. An answer may be lost, or
	// ignored (see hopConfirm).
	hopAsk = 200 * time.Millisecond
	// hopConfirm is how often the hop is asked at the MAC it has while flows depend on it.
	// It keeps the kernel's entry reachable, that is, unchanged: for a second after a
	// change of its own Linux takes no other MAC from an ARP reply (arp locktime).
	hopConfirm = 5 * time.Second
	// hopDoubt is after how many unanswered probes of a round its hop is asked for.
	hopDoubt = 3
)

// hopAsked is when a hop was last asked for.
type hopAsked struct{ anywhere, there time.Time }

// askHop asks for the next hop of a peer, if it is time to: of several peers behind it
// one is enough.
func (l *loop) askHop(p *peer, now time.Time) {
	missed := p.proof.missed(now)
	if !missed && !(p.proof.fresh() && p.busy()) {
		return
	}
	if l.hopsAsked == nil {
		l.hopsAsked = make(map[netip.Addr]hopAsked)
	}
	r := p.proof.route
	last := l.hopsAsked[r.Via]
	switch {
	case missed && now.Sub(last.anywhere) >= hopAsk:
		last.anywhere = now
	case !missed && now.Sub(last.there) >= hopConfirm:
		last.there = now
	default:
		return
	}
	l.hopsAsked[r.Via] = last
	if frame := r.Solicit(missed); frame != nil {
		l.emit(frame)
	}
}

// leads takes a route on which nothing but MACs differ from the one before. The pings that
// the old hop lost count against the proof: the next one is not to wait.
func (l *loop) leads(p *peer, r Route) {
	p.proof.route = r
	l.hopFor(r)
	if p.proof.missed(time.Now()) {
		p.proof.nextPing = time.Now()
		l.armProof(p)
	}
}

// missed tells whether the path's next hop is in doubt: a ping was unanswered when the
// next was due, or for so long that the proof has just failed (the last question comes
// after the kernel's lock time in any case); or the first probes of a round were.
func (p *proof) missed(now time.Time) bool {
	for i := range p.half {
		h := &p.half[i]
		switch p.phase {
		case proofFresh, proofFailed:
			if !h.waiting.IsZero() && h.waiting.Before(now) {
				return true
			}
		case proofProbing:
			if !h.ok && h.sent >= hopDoubt {
				return true
			}
		}
	}
	return false
}

// Solicit is the frame that asks for the route's next hop: anywhere on the link, or at
// the MAC that it has. nil: the two addresses are not of one family.
func (r Route) Solicit(anywhere bool) []byte {
	switch {
	case r.Local.Is4() && r.Via.Is4():
		return r.arpRequest(anywhere)
	case r.Local.Is6() && r.Via.Is6():
		return r.neighbourSolicitation(anywhere)
	}
	return nil
}

// host is the MAC at which the host's own stack wants the answer, and which others may
// take from the question.
func (r Route) host() tap.MAC {
	if r.HostMAC != (tap.MAC{}) {
		return r.HostMAC
	}
	return r.Src
}

const (
	etherTypeARP  = 0x0806
	etherTypeIPv6 = 0x86dd
)

// arpRequest is an ARP request (RFC 826), padded to the least Ethernet frame.
func (r Route) arpRequest(anywhere bool) []byte {
	const shortest = 60
	dst, local, via, src := r.NextHop, r.Local.As4(), r.Via.As4(), r.host()
	if anywhere {
		dst = tap.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	}
	f := ethernet(shortest, dst, src, etherTypeARP)
	f = append(f, 0, 1, 8, 0, 6, 4, 0, 1) // Ethernet, IPv4, lengths of addresses, request
	f = append(append(f, src[:]...), local[:]...)
	f = append(append(f, make([]byte, len(tap.MAC{}))...), via[:]...)
	return f[:shortest]
}

// neighbourSolicitation is one of RFC 4861, section 4.3, with our MAC as an option.
func (r Route) neighbourSolicitation(anywhere bool) []byte {
	const text = 4 + 4 + 16 + 8 // type to checksum, reserved, target, option
	target, local, src := r.Via.WithZone("").As16(), r.Local.WithZone("").As16(), r.host()
	dst, to := r.NextHop, target
	if anywhere { // the solicited-node address (RFC 4291, 2.7.1) and its MAC (RFC 2464, 7)
		to = [16]byte{0xff, 0x02, 11: 0x01, 12: 0xff, 13: target[13], 14: target[14], 15: target[15]}
		dst = tap.MAC{0x33, 0x33, to[12], to[13], to[14], to[15]}
	}
	f := ethernet(14+40+text, dst, src, etherTypeIPv6)
	f = append(f, 0x60, 0, 0, 0, 0, text, 58, 255) // routers do not forward a hop limit of 255
	f = append(append(f, local[:]...), to[:]...)
	at := len(f)
	f = append(f, 135, 0, 0, 0, 0, 0, 0, 0)
	f = append(append(f, target[:]...), 1, 1)
	f = append(f, src[:]...)
	binary.BigEndian.PutUint16(f[at+2:], checksumICMPv6(f[at-32:at], f[at:]))
	return f
}

// ethernet begins a frame; it has room for size bytes.
func ethernet(size int, dst, src tap.MAC, kind uint16) []byte {
	f := append(append(make([]byte, 0, size), dst[:]...), src[:]...)
	return binary.BigEndian.AppendUint16(f, kind)
}

// checksumICMPv6 is that of RFC 4443, section 2.3. Both parts are of even length.
func checksumICMPv6(addresses, text []byte) uint16 {
	sum := uint32(len(text)) + 58
	for _, part := range [][]byte{addresses, text} {
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
