package discover

import (
	"encoding/binary"
	"net/netip"

	"github.com/viasnet/vias/tap"
)

// claim is what a frame of a workload's says of its own addresses.
type claim struct {
	mac tap.MAC
	ip  netip.Addr // invalid: none
}

// Numbers of the protocols that are read.
const (
	etherARP  = 0x0806
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	protoUDP  = 17
	protoICMP = 58

	neighbourSolicitation  = 135
	neighbourAdvertisement = 136
)

// readClaim reads a frame that a workload sent: ARP, neighbour discovery or a DHCP
// request. false: it is none of these, or not well-formed, or speaks for another station.
func readClaim(b []byte) (claim, bool) {
	if len(b) < 14 {
		return claim{}, false
	}
	c := claim{mac: tap.MAC(b[6:12])}
	if c.mac.IsZero() || c.mac.IsMulticast() {
		return claim{}, false
	}
	ok := false
	switch binary.BigEndian.Uint16(b[12:]) {
	case etherARP:
		ok = c.arp(b[14:])
	case etherIPv4:
		ok = c.dhcp(b[14:])
	case etherIPv6:
		ok = c.nd(b[14:])
	}
	return c, ok
}

// arp reads RFC 826 for IPv4 over Ethernet. The sender's address is its own, but for a
// probe (RFC 5227), which has none yet.
func (c *claim) arp(p []byte) bool {
	if len(p) < 28 || [6]byte(p) != [6]byte{0, 1, 8, 0, 6, 4} {
		return false
	}
	if op := binary.BigEndian.Uint16(p[6:]); op != 1 && op != 2 || tap.MAC(p[8:14]) != c.mac {
		return false
	}
	c.claim(netip.AddrFrom4([4]byte(p[14:18])))
	return true
}

func (c *claim) claim(ip netip.Addr) {
	if usable(ip) {
		c.ip = ip
	}
}

// nd reads neighbour solicitations and advertisements (RFC 4861, sections 4.3 and 4.4).
// Who asks by no address of its own wants the target (duplicate address detection,
// RFC 4862): the first to do so is taken for its owner, as RFC 6620 has it.
func (c *claim) nd(p []byte) bool {
	if len(p) < 40+24 || p[0]>>4 != 6 || p[6] != protoICMP || p[7] != 255 {
		return false // a hop limit of 255: nobody routed it (RFC 4861, 7.1)
	}
	body := p[40:]
	src, target := netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(body[8:24]))
	if body[1] != 0 || target.IsMulticast() {
		return false
	}
	switch {
	case body[0] == neighbourSolicitation && src.IsUnspecified():
		c.claim(target)
	case body[0] == neighbourSolicitation:
		c.claim(src)
	case body[0] == neighbourAdvertisement:
		c.claim(target)
	default:
		return false
	}
	return true
}

// dhcp reads what a client sends (RFC 2131): its MAC, and the address that it has
// (ciaddr). What it asks for is not its own yet; it will say so by ARP.
func (c *claim) dhcp(p []byte) bool {
	if len(p) < 20 || p[0]>>4 != 4 || p[9] != protoUDP || binary.BigEndian.Uint16(p[6:])&0x3fff != 0 {
		return false
	}
	header := int(p[0]&15) * 4
	if header < 20 || len(p) < header+8+240 {
		return false
	}
	udp := p[header:]
	if binary.BigEndian.Uint16(udp) != 68 || binary.BigEndian.Uint16(udp[2:]) != 67 {
		return false
	}
	boot := udp[8:]
	if [4]byte(boot[236:]) != [4]byte{99, 130, 83, 99} { // RFC 2131: the magic cookie
		return false
	}
	if boot[0] != 1 || boot[1] != 1 || boot[2] != 6 || tap.MAC(boot[28:34]) != c.mac {
		return false
	}
	c.claim(netip.AddrFrom4([4]byte(boot[12:16])))
	return true
}
