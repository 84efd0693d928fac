package discover

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/viasnet/vias/ofctl/ovs/ovsdb"
	"github.com/viasnet/vias/tap"
)

// port is one port of the bridge. It belongs to the Discoverer's loop.
type port struct {
	name   string
	uuid   string // of its interface; another one is another port
	ofport uint32 // 0 = not known
	gone   bool
	broken string // why the switch has no number for it
	why    string // why it is no workload; "" = it is one
	ids    identity
	// skipped: the host program attaches it by itself.
	skipped bool

	// What its frames told. claims are the addresses in the order in which they came,
	// also those that somebody else has for now.
	mac    tap.MAC
	claims []netip.Addr
	full   uint64

	held    map[netip.Addr]bool // of claims, and of the MAC (invalid address): refused now
	refused uint64
	blocked string // which of them are, and whose

	want     *Endpoint // what should be attached
	told     string    // the name that the Sink knows it by; "" = it does not
	attached *Endpoint // what is, for certain
	failed   string    // what the Sink said
}

// update takes over what the database says of the port. What was learned is good as
// long as it is the same interface at the same place.
func (p *port) update(cfg *Config, b ovsdb.Bridge, row ovsdb.Port) {
	face := row.Interfaces[0]
	p.ids = identify(row)
	p.why = cfg.foreign(b, row, &p.ids)
	ofport := uint32(0)
	p.broken = ""
	switch {
	case face.Ofport > 0:
		ofport = uint32(face.Ofport)
	case face.Ofport < 0:
		p.broken = "the switch could not open it: " + short(face.Error)
	case p.uuid == face.UUID:
		ofport = p.ofport // a switch that starts will say it again
	}
	if p.uuid != face.UUID || p.ofport != ofport {
		p.mac, p.claims, p.full, p.refused = tap.MAC{}, nil, 0, 0
	}
	p.uuid, p.ofport = face.UUID, ofport
}

// workload tells whether an endpoint belongs at the port.
func (p *port) workload() bool { return !p.gone && !p.skipped && p.why == "" && p.ofport != 0 }

// learning tells whether frames have something to tell that external_ids do not.
func (p *port) learning() bool {
	return p.workload() && p.ids.bad == "" && (p.ids.mac.IsZero() || len(p.ids.ips) == 0)
}

// station is the MAC; zero: not known yet.
func (p *port) station() tap.MAC {
	if !p.ids.mac.IsZero() {
		return p.ids.mac
	}
	return p.mac
}

// take takes a claim. false: nothing is new.
func (p *port) take(c claim, most int) bool {
	if mac := p.station(); !mac.IsZero() && mac != c.mac {
		p.full++
		return false
	}
	fresh := p.station().IsZero()
	if fresh {
		p.mac = c.mac
	}
	switch {
	case !c.ip.IsValid() || len(p.ids.ips) > 0 || slices.Contains(p.claims, c.ip):
		return fresh
	case len(p.claims) >= most:
		p.full++
		return fresh
	}
	p.claims = append(p.claims, c.ip)
	return true
}

// judge says what should be attached at p.
func (d *Discoverer) judge(p *port) {
	p.want = nil
	if p.skipped = d.cfg.Skip(p.name); p.skipped {
		return
	}
	mac := p.station()
	if !p.workload() || p.ids.bad != "" || mac.IsZero() {
		return
	}
	before := p.held
	p.held, p.blocked = map[netip.Addr]bool{}, ""
	if p.ids.mac.IsZero() && d.taken(p, before, netip.Addr{}) {
		return
	}
	e := Endpoint{Name: p.ids.name, Port: p.name, Ofport: p.ofport, MAC: mac, IPs: p.ids.ips, Tag: p.ids.tag, Known: FromIDs}
	if e.Name == "" {
		e.Name = p.name
	}
	if p.ids.mac.IsZero() {
		e.Known = Learned
	}
	if len(p.ids.ips) == 0 {
		for _, ip := range p.claims {
			if !d.taken(p, before, ip) {
				e.IPs = append(e.IPs, ip)
			}
		}
		// With no address it could use any: only somebody who named the endpoint may say so.
		if len(e.IPs) == 0 && (!p.ids.named() || len(p.claims) > 0) {
			return
		}
		if len(e.IPs) > 0 {
			e.Known = Learned
		}
	}
	p.want = &e
}

// taken tells whether somebody else has what p claims: the MAC, if ip is invalid.
func (d *Discoverer) taken(p *port, before map[netip.Addr]bool, ip netip.Addr) bool {
	mac := p.station()
	who := ""
	for _, o := range d.ports {
		if o == p || !o.workload() {
			continue
		}
		// Whoever is attached came first; what external_ids say comes before all.
		if !ip.IsValid() && (o.ids.mac == mac || o.attached != nil && o.attached.MAC == mac) ||
			ip.IsValid() && (slices.Contains(o.ids.ips, ip) || o.attached != nil && slices.Contains(o.attached.IPs, ip)) {
			who = "port " + o.name
		}
	}
	if who == "" {
		who = d.cfg.Holder(mac, ip)
	}
	if who == "" {
		return false
	}
	what := ip.String()
	if !ip.IsValid() {
		what = mac.String()
	}
	p.held[ip] = true
	p.blocked = fmt.Sprintf("%s is learned, but %s has it", what, who)
	if !before[ip] {
		p.refused++
		d.cfg.Logger.Warn("discover: learned address refused", "port", p.name, "address", what, "holder", who)
	}
	return true
}

// refuse notes a failure, and logs it when it is another one than before.
func (p *port) refuse(log *slog.Logger, why string) {
	if p.failed != why {
		log.Warn("discover: endpoint not attached or detached; it is tried again", "port", p.name, "err", why)
	}
	p.failed = why
}

func (p *port) status() PortStatus {
	s := PortStatus{Port: p.name, Learning: p.learning(), Refused: p.refused, Full: p.full}
	if p.attached != nil {
		e := *p.attached
		e.IPs = slices.Clone(e.IPs)
		s.Endpoint = &e
	}
	if p.skipped && p.why == "" {
		s.Reason = "attached by configuration"
	}
	for _, why := range []string{p.why, p.broken, p.ids.bad, p.failed, p.blocked} {
		if s.Reason == "" {
			s.Reason = why
		}
	}
	if s.Reason == "" && s.Learning && s.Endpoint == nil {
		s.Reason = "nothing was heard of it yet"
	}
	return s
}
