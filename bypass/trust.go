package bypass

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// DefaultMaxRTT bounds the round trip of a trusted path.
const DefaultMaxRTT = 2 * time.Millisecond

// check tells why an underlay address, reached by route, is outside the domain;
// ReasonNone: it is inside. An address alone proves nothing: the probes do.
func (t *Trust) check(remote netip.Addr, route Route) Reason {
	if remote == route.Local {
		return ReasonSameHost
	}
	if !remote.IsGlobalUnicast() || remote.Is4In6() || remote.Zone() != "" {
		return ReasonUntrusted
	}
	if t.Prefixes == nil {
		if !remote.IsPrivate() || !route.Local.IsPrivate() || !route.OnLink {
			return ReasonUntrusted
		}
		return ReasonNone
	}
	var local, far bool
	for _, p := range t.Prefixes {
		local = local || p.Contains(route.Local)
		far = far || p.Contains(remote)
	}
	if !local || !far {
		return ReasonUntrusted
	}
	return ReasonNone
}

// home is our underlay address of a family to offer to peers: the first of the uplink's
// that could be trusted at all; or why there is none.
func (t *Trust) home(addrs []netip.Prefix, f Family) home {
	h := home{why: ReasonNoRoute}
	if len(addrs) > 0 {
		h.why = ReasonFamily
	}
	for _, p := range addrs {
		a := p.Addr().WithZone("")
		if !a.IsGlobalUnicast() || a.Is4In6() || FamilyOf(a) != f {
			continue // not by these: a link-local address says nothing of whose link it is
		}
		h.why = ReasonUntrusted
		if t.Prefixes == nil && a.IsPrivate() || slices.ContainsFunc(t.Prefixes, func(q netip.Prefix) bool { return q.Contains(a) }) {
			return home{addr: a}
		}
	}
	return h
}

func (t *Trust) normal() error {
	if t.MaxRTT == 0 {
		t.MaxRTT = DefaultMaxRTT
	}
	if t.MaxHops < 0 || t.MaxHops > 32 || t.MaxRTT < 0 || len(t.Domain) > 255 {
		return fmt.Errorf("bypass: trust: want 0 to 32 hops, a positive RTT and a domain of at most 255 bytes")
	}
	for _, p := range t.Prefixes {
		if !p.IsValid() {
			return fmt.Errorf("bypass: trust: invalid prefix")
		}
	}
	return nil
}
