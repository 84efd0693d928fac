package ofctltest

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/viasnet/vias/ofctl"
)

// Open vSwitch's defaults (mac-aging-time, mac-table-size).
const (
	macAge   = 300 * time.Second
	macLimit = 8192
)

// station is a MAC address in a VLAN.
type station struct {
	vlan uint16
	mac  [6]byte
}

// sighting is where a station was seen, and when.
type sighting struct {
	port uint32
	at   time.Time
}

// carries tells whether p has frames of vlan.
func (p *port) carries(vlan uint16) bool {
	if p.Tag != 0 {
		return p.Tag == vlan
	}
	return len(p.Trunks) == 0 || slices.Contains(p.Trunks, vlan)
}

// vlanOf is the VLAN of a frame that came in by p; ok is false if p does not admit it.
func (p *port) vlanOf(pk *packet) (vlan uint16, ok bool) {
	if pk.tagged() {
		vlan = binary.BigEndian.Uint16(pk.key[atVLAN:]) & 0xfff
	}
	if p.Tag == 0 {
		return vlan, p.carries(vlan)
	}
	// An access port takes untagged and priority-tagged (VLAN 0) frames.
	return p.Tag, vlan == 0
}

// normal is the NORMAL action: a learning switch with VLANs.
func (r *run) normal() {
	s, in := r.sw, r.p.inPort()
	dst, src := [6]byte(r.p.frame[0:6]), [6]byte(r.p.frame[6:12])
	if dst[0] == 0x01 && dst[1] == 0x80 && dst[2] == 0xc2 && dst[3] == 0 && dst[4] == 0 && dst[5]&0xf0 == 0 {
		return // reserved (IEEE 802.1Q, table 8-1): not for bridges to forward
	}
	from := s.ports[in]
	if from == nil {
		if in != ofctl.PortController {
			return
		}
		from = &port{} // a packet-out: a trunk of all VLANs that learns nothing
	}
	vlan, ok := from.vlanOf(&r.p)
	if !ok {
		return
	}
	if src[0]&1 == 0 && in != ofctl.PortController {
		s.learnLocked(station{vlan, src}, in, r.now)
	}
	if seen, ok := s.macs[station{vlan, dst}]; ok && dst[0]&1 == 0 && r.now.Sub(seen.at) < macAge {
		if p := s.ports[seen.port]; p != nil && p.carries(vlan) {
			if seen.port != in {
				r.sendVLAN(seen.port, vlan)
			}
			return
		}
	}
	for _, no := range s.portNumbersLocked() {
		if no != in && s.ports[no].carries(vlan) {
			r.sendVLAN(no, vlan)
		}
	}
}

func (s *Switch) learnLocked(st station, in uint32, now time.Time) {
	if _, known := s.macs[st]; !known && len(s.macs) >= macLimit {
		for old := range s.macs { // any one
			delete(s.macs, old)
			break
		}
	}
	s.macs[st] = sighting{in, now}
}

// sendVLAN sends the frame with the tag that vlan has on port no: none on its
// access ports.
func (r *run) sendVLAN(no uint32, vlan uint16) {
	p := r.p
	p.owned = false
	if r.sw.ports[no].Tag != 0 {
		vlan = 0
	}
	switch {
	case vlan == 0:
		p.popVLAN()
	case !p.tagged():
		p.pushVLAN()
		fallthrough
	default:
		p.setVID(vlan)
	}
	r.sendFrame(no, p.frame)
}
