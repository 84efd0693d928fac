package l2

import (
	"net/netip"
	"slices"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// address is a MAC or an IP that is claimed.
type address struct {
	mac tap.MAC // zero: it is ip
	ip  netip.Addr
}

// SetHolder says whose a MAC address is, or an IP address if that is valid: no other peer gets it,
// whoever announced it first. Zero: there is nothing to say of it. It is remembered only as long as
// it matters: disputed tells that another peer announces the address, and must be asked
// for again then, by calling SetHolder, for who announces later.
func (t *Table) SetHolder(mac tap.MAC, ip netip.Addr, holder overlay.PeerID) (c Change, disputed bool) {
	a := address{mac: mac}
	if ip.IsValid() {
		a = address{ip: ip}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	disputed = !holder.IsZero() && t.disputedLocked(a, holder)
	before, had := t.held[a]
	switch {
	case disputed && had && before == holder, !disputed && !had:
		return Change{}, disputed
	case disputed:
		t.held[a] = holder
	default:
		delete(t.held, a)
	}
	return t.rebuildLocked(), disputed
}

func (t *Table) disputedLocked(a address, holder overlay.PeerID) bool {
	for p, c := range t.peers {
		if p == holder {
			continue
		}
		if _, ok := c.list[a.mac]; ok {
			return true
		}
		if !a.ip.IsValid() {
			continue
		}
		for _, e := range c.list {
			if slices.Contains(e.IPs, a.ip) {
				return true
			}
		}
	}
	return false
}
