package l2

import (
	"encoding/binary"
	"net/netip"

	"github.com/viasnet/vias/tap"
)

// Next headers, neighbour discovery's messages and their options (RFC 8200, RFC 4861).
const (
	nextHopByHop    = 0
	nextRouting     = 43
	nextFragment    = 44
	nextICMPv6      = 58
	nextDestination = 60

	routerSolicitation    = 133
	routerAdvertisement   = 134
	neighborSolicitation  = 135
	neighborAdvertisement = 136
	redirect              = 137

	optionSourceMAC = 1
	optionTargetMAC = 2
)

// checkIPv6 holds a packet's source against the station, and what neighbour discovery says
// besides, as checkARP does.
func (v *View) checkIPv6(p []byte, s *Station) Cause {
	if len(p) < 40 || p[0]>>4 != 6 {
		return Malformed
	}
	if c := v.checkIP(netip.AddrFrom16([16]byte(p[8:])), s); c != OK {
		return c
	}
	next, rest := p[6], p[40:min(len(p), 40+int(binary.BigEndian.Uint16(p[4:])))]
	fragmented := false
	// However many headers there are, what stands behind them must not escape the check. Each is
	// 8 bytes at least, so that this ends.
	for len(rest) >= 8 {
		switch next {
		case nextHopByHop, nextRouting, nextDestination:
			next, rest = rest[0], rest[min(len(rest), 8+8*int(rest[1])):]
			continue
		case nextFragment:
			if binary.BigEndian.Uint16(rest[2:])&^7 != 0 {
				return OK // a later fragment; no first one passes with what could be harmful
			}
			next, rest, fragmented = rest[0], rest[8:], true
			continue
		case nextICMPv6:
			if kind := rest[0]; kind < routerSolicitation || kind > redirect {
				return OK
			}
			if fragmented {
				return Malformed // RFC 6980
			}
			return v.checkND(rest, s)
		}
		return OK
	}
	return OK
}

// checkND: a station gives no MAC address but its own away, and speaks for no IP address but those
// that it may use. m has 8 bytes at least.
func (v *View) checkND(m []byte, s *Station) Cause {
	fixed := 8
	switch m[0] {
	case routerAdvertisement:
		fixed = 16
	case neighborSolicitation, neighborAdvertisement:
		fixed = 24
	case redirect:
		fixed = 40
	}
	if len(m) < fixed {
		return Malformed
	}
	if m[0] == neighborAdvertisement {
		target := netip.AddrFrom16([16]byte(m[8:]))
		if target.IsUnspecified() || target.IsMulticast() {
			return Malformed
		}
		if c := v.checkIP(target, s); c != OK {
			return c
		}
	}
	for o := m[fixed:]; len(o) > 0; {
		if len(o) < 2 || o[1] == 0 || 8*int(o[1]) > len(o) {
			return Malformed
		}
		if (o[0] == optionSourceMAC || o[0] == optionTargetMAC) && tap.MAC(o[2:8]) != s.MAC {
			return ForeignMAC
		}
		o = o[8*int(o[1]):]
	}
	return OK
}
