package ofpath

import (
	"net/netip"
	"slices"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/ofctl"
)

// ICMP errors: the types that say that a packet did not arrive (RFC 792: unreachable and
// too big, time exceeded, parameter problem; RFC 4443: unreachable, too big, time exceeded,
// parameter problem).
func errorTypes(f bypass.Family) []uint8 {
	if f == bypass.IPv4 {
		return []uint8{3, 11, 12}
	}
	return []uint8{1, 2, 3, 4}
}

// errors is what an ICMP error to a guarded address of ours meets. The host must get each
// of them, we want some. A meter drops whatever its flow would do, so there are two flows:
// the one in table 0 forwards as if we were not there and goes on to the inbound table,
// where the other one, with the meter, makes the copy. What the meter drops there has left
// already.
func (l layout) errors(guard []bypass.AddrPair) []ofctl.Flow {
	var flows []ofctl.Flow
	var ours []netip.Addr
	copied := map[bypass.Family]bool{}
	for _, g := range guard {
		if slices.Contains(ours, g.Local) {
			continue
		}
		ours = append(ours, g.Local)
		family := bypass.FamilyOf(g.Local)
		icmp, typed := ofctl.ICMP4, ofctl.ICMPType
		if family == bypass.IPv6 {
			icmp, typed = ofctl.ICMP6, ofctl.ICMP6Type
		}
		if !copied[family] {
			copied[family] = true
			flows = append(flows, ofctl.Flow{
				Table: l.cfg.InboundTable, Priority: errorCopy, Cookie: l.cookie(erring), Match: icmp(),
				Meter: l.meter(meterErrors), Apply: []ofctl.Action{ofctl.ToController(whole)},
			})
		}
		for _, typ := range errorTypes(family) {
			flows = append(flows, ofctl.Flow{
				Table: tableClassify, Priority: l.cfg.Priority - guardBelow,
				Match: l.unmarked(icmp(ofctl.InPort(l.uplink), ofctl.Untagged(), ofctl.NotFragment(), dst(g.Local), typed(typ))),
				Apply: l.restOfCopy(), Goto: l.cfg.InboundTable,
			})
		}
	}
	return flows
}
