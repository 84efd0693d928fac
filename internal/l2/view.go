package l2

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// View is a snapshot of the stations in force. It is immutable; the zero value has
// none.
type View struct {
	macs map[tap.MAC]*Station
	ips  map[netip.Addr]*Station
}

// MAC is the station with this address, or nil.
func (v *View) MAC(m tap.MAC) *Station { return v.macs[m] }

// IP is the station that was attached or announced with this address, or nil.
func (v *View) IP(a netip.Addr) *Station { return v.ips[a] }

// Cause says why a frame's source was not accepted.
type Cause uint8

// Causes.
const (
	OK         Cause = iota
	Malformed        // too short for its own headers
	UnknownMAC       // nobody attached, learned or announced the source MAC
	ForeignMAC       // somebody else speaks for it; or it is no station's
	ForeignIP        // the station may not use the source IP address, or that it speaks for by ARP or ND
)

// EtherTypes that carry a source address, and VLAN tags.
const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeVLAN = 0x8100
	typeIPv6 = 0x86dd
	typeQinQ = 0x88a8
)

// CheckSource tells whether whoever speaks for the stations of peer (zero: our own
// device) may have sent frame, and which station it came from. It allocates
// nothing. The station is nil but for OK and ForeignIP.
func (v *View) CheckSource(frame []byte, peer overlay.PeerID) (*Station, Cause) {
	if len(frame) < tap.HeaderLen {
		return nil, Malformed
	}
	src := tap.MAC(frame[6:12])
	if src.IsMulticast() || src.IsZero() {
		return nil, ForeignMAC
	}
	s := v.macs[src]
	switch {
	case s == nil:
		return nil, UnknownMAC
	case s.Peer != peer:
		return nil, ForeignMAC
	}
	return s, v.checkPayload(frame, s)
}

// checkPayload looks behind at most two VLAN tags: what it does not look at must
// not be a way around it.
func (v *View) checkPayload(frame []byte, s *Station) Cause {
	kind, p := binary.BigEndian.Uint16(frame[12:]), frame[14:]
	for range 2 {
		if kind != typeVLAN && kind != typeQinQ {
			break
		}
		if len(p) < tap.TagLen {
			return Malformed
		}
		kind, p = binary.BigEndian.Uint16(p[2:]), p[4:]
	}
	switch kind {
	case typeIPv4:
		if len(p) < 20 || p[0]>>4 != 4 {
			return Malformed
		}
		return v.checkIP(netip.AddrFrom4([4]byte(p[12:])), s)
	case typeARP:
		return v.checkARP(p, s)
	case typeIPv6:
		return v.checkIPv6(p, s)
	case typeVLAN, typeQinQ:
		return Malformed // three tags
	}
	return OK
}

// checkARP holds sender hardware and protocol address against the station (RFC 826).
func (v *View) checkARP(p []byte, s *Station) Cause {
	// Ethernet, IPv4, 6- and 4-byte addresses.
	if len(p) < 28 || [6]byte(p) != [6]byte{0, 1, 8, 0, 6, 4} {
		return Malformed
	}
	if tap.MAC(p[8:14]) != s.MAC {
		return ForeignMAC
	}
	return v.checkIP(netip.AddrFrom4([4]byte(p[14:])), s)
}

func (v *View) checkIP(a netip.Addr, s *Station) Cause {
	if a.IsUnspecified() || a.Is6() && a.IsLinkLocalUnicast() {
		// DHCP, ARP probes (RFC 5227), duplicate address detection; and every IPv6
		// station has link-local addresses that nobody lists.
		return OK
	}
	if s.restricted {
		if slices.Contains(s.IPs, a) {
			return OK
		}
		return ForeignIP
	}
	if o := v.ips[a]; o != nil && o != s {
		return ForeignIP
	}
	return OK
}

// LinkLocal tells whether m is one of the sixteen addresses that no bridge
// forwards (IEEE 802.1Q, table 8-1: spanning tree, pause, LACP, LLDP).
func LinkLocal(m tap.MAC) bool {
	return [5]byte(m[:5]) == [5]byte{0x01, 0x80, 0xc2, 0, 0} && m[5]&0xf0 == 0
}
