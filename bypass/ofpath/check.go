package ofpath

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/viasnet/vias/bypass"
)

// longest is the longest time-out that OpenFlow has.
const longest = math.MaxUint16 * time.Second

func timeout(d time.Duration) error {
	if d < 0 || d > longest || d%time.Second != 0 {
		return fmt.Errorf("time-out %v is not in whole seconds up to %v", d, longest)
	}
	return nil
}

func checkBase(b bypass.Base) error {
	if !b.Ports.Valid() {
		return fmt.Errorf("ports %#04x/%#04x are no aligned range", b.Ports.Base, b.Ports.Mask)
	}
	if err := timeout(b.Lease); err != nil {
		return fmt.Errorf("lease of %v: %w", b.Lease, err)
	}
	if b.Lease == 0 && len(b.Workloads)+len(b.Hops)+len(b.Guard) > 0 {
		return errors.New("without a lease it must be empty")
	}
	for i, h := range b.Hops {
		same := func(o bypass.Hop) bool { return o.ID == h.ID }
		if h.ID == 0 || h.ID >= groupCount || slices.ContainsFunc(b.Hops[:i], same) {
			return fmt.Errorf("hop %d: its ID must be unique, from 1 to %d", h.ID, groupCount-1)
		}
	}
	for _, g := range b.Guard {
		if !oneFamily(g.Local, g.Remote) {
			return fmt.Errorf("guard %v - %v is not of one family", g.Local, g.Remote)
		}
	}
	for _, w := range b.Workloads {
		if w.Ofport == 0 || w.MAC.IsZero() {
			return fmt.Errorf("workload %v at port %d lacks one of both", w.MAC, w.Ofport)
		}
	}
	return nil
}

// oneFamily tells whether all addresses can be matched, without zones and IPv4 inside of
// IPv6, and are of one family.
func oneFamily(addrs ...netip.Addr) bool {
	return !slices.ContainsFunc(addrs, func(a netip.Addr) bool {
		return !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.Is4() != addrs[0].Is4()
	})
}

func checkLease(l bypass.Lease) error {
	switch {
	case l.Peer == 0 || l.Peer >= 1<<24:
		return fmt.Errorf("peer number %d is not in 1 to 2^24-1", l.Peer)
	case l.Proto != bypass.TCP && l.Proto != bypass.UDP:
		return fmt.Errorf("%v has no ports", l.Proto)
	case !oneFamily(l.Local, l.Remote):
		return fmt.Errorf("addresses %v and %v are not of one family", l.Local, l.Remote)
	}
	return errors.Join(timeout(max(l.Outbound, 0)), timeout(max(l.Inbound, 0)))
}

func checkRule(r bypass.Rule) error {
	switch {
	case r.ID == 0:
		return errors.New("it has no ID")
	case r.Direction > bypass.Listen:
		return fmt.Errorf("direction %d is unknown", r.Direction)
	case r.Flow.Proto != bypass.TCP && r.Flow.Proto != bypass.UDP:
		return fmt.Errorf("%v has no ports", r.Flow.Proto)
	case !oneFamily(r.Local.Addr(), r.Remote.Addr()):
		return fmt.Errorf("underlay addresses %v and %v are not of one family", r.Local, r.Remote)
	case r.Direction == bypass.Listen && r.Hard == 0:
		return errors.New("it listens without an end")
	case r.Direction == bypass.Listen:
		return timeout(r.Hard)
	case !oneFamily(r.Local.Addr(), r.Flow.Src.Addr(), r.Flow.Dst.Addr()):
		return fmt.Errorf("flow %v is not of the family of %v", r.Flow, r.Local)
	case r.Ofport == 0 || r.LocalMAC.IsZero() || r.RemoteMAC.IsZero():
		return errors.New("it lacks a port or a MAC")
	case r.Peer == 0 || r.Peer >= 1<<24:
		return fmt.Errorf("peer number %d is not in 1 to 2^24-1", r.Peer)
	case r.Direction == bypass.Outbound && (r.Hop == 0 || r.Hop >= groupCount):
		return fmt.Errorf("hop %d is not in 1 to %d", r.Hop, groupCount-1)
	}
	return timeout(r.Idle)
}
