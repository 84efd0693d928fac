package discover

import (
	"net/netip"

	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/tap"
)

// lesson is a port that is learned of.
type lesson struct {
	ofport uint32
	meter  uint32 // index
	mac    tap.MAC
	known  []netip.Addr
}

// lessons are the ports that have something to tell, MaxPorts at most.
func (d *Discoverer) lessons(names []string) []lesson {
	var list []lesson
	for _, name := range names {
		p := d.ports[name]
		if p == nil || !p.learning() || len(list) == d.cfg.MaxPorts {
			continue
		}
		list = append(list, lesson{ofport: p.ofport, meter: uint32(len(list)), mac: p.station(), known: p.known()})
	}
	return list
}

// known are the addresses of p that need no copies any more. A claim that is refused is
// among them: it is on the list, and is tried again without being heard again.
func (p *port) known() []netip.Addr { return append([]netip.Addr(nil), p.claims...) }

func (c *Config) owner() ofctl.Owner {
	return ofctl.Owner{Cookie: uint64(c.CookieTag) << 48, Mask: 0xffff << 48}
}

// flows are those of one port: what is to be copied goes on to Config.Table, above it
// what is known is forwarded and no more.
func (c *Config) flows(l lesson, metered bool) []ofctl.Flow {
	cookie := c.owner().Cookie | uint64(l.ofport)
	var list []ofctl.Flow
	add := func(above uint16, m ofctl.Match) {
		f := ofctl.Flow{Table: tableClassify, Priority: c.Priority + above, Cookie: cookie, Apply: []ofctl.Action{ofctl.Normal()},
			Match: append(m, ofctl.InPort(l.ofport), ofctl.Untagged())}
		if above == 0 {
			f.Goto = c.Table
		}
		list = append(list, f)
	}
	add(0, ofctl.ARP())
	add(0, ofctl.ICMP6(ofctl.ICMP6Type(neighbourSolicitation)))
	add(0, ofctl.ICMP6(ofctl.ICMP6Type(neighbourAdvertisement)))
	if l.mac.IsZero() {
		add(0, ofctl.UDP4(ofctl.UDPSrc(68), ofctl.UDPDst(67)))
	} else {
		// Frames that can tell nothing new: probes, and what link-local addresses ask.
		add(1, ofctl.ARP(ofctl.ARPSPA(ofctl.Host(netip.IPv4Unspecified()))))
		local := netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfe, 0x80}), 10)
		add(1, ofctl.ICMP6(ofctl.ICMP6Type(neighbourSolicitation), ofctl.IPv6Src(local)))
		add(1, ofctl.ICMP6(ofctl.ICMP6Type(neighbourAdvertisement), ofctl.NDTarget(local)))
	}
	for _, ip := range l.known {
		if ip.Is4() {
			add(1, ofctl.ARP(ofctl.ARPSPA(ofctl.Host(ip))))
			continue
		}
		add(1, ofctl.ICMP6(ofctl.ICMP6Type(neighbourSolicitation), ofctl.IPv6Src(ofctl.Host(ip))))
		add(1, ofctl.ICMP6(ofctl.ICMP6Type(neighbourAdvertisement), ofctl.NDTarget(ofctl.Host(ip))))
	}
	up := ofctl.Flow{Table: c.Table, Priority: 1, Cookie: cookie, Match: ofctl.Match{ofctl.InPort(l.ofport)},
		Apply: []ofctl.Action{ofctl.ToController(copied)}}
	if metered {
		up.Meter = c.MeterBase + l.meter
	}
	return append(list, up)
}

// copied is how much of a frame is asked for: a DHCP request up to its magic cookie.
const copied = 14 + 60 + 8 + 240
