package bypasstest

import (
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/tap"
)

// verdict is where a frame goes.
type verdict uint8

const (
	drop         verdict = iota
	toTap                // the overlay
	toWire               // out of the uplink, rewritten
	toPort               // to a workload, rewritten
	toController         // a PacketIn
	toHost               // the host's own stack
	toHostGuard          // dropped just before it
)

// decision is what the tables say about a frame.
type decision struct {
	verdict verdict
	kind    bypass.PacketKind
	rule    *rule
	port    uint32
	rewrite rewriting
	until   time.Time // when what it rests on ends by itself; zero = never
}

// cacheKey is what a decision depends on: one entry of a real switch's cache.
type cacheKey struct {
	ofport   uint32
	src, dst tap.MAC
	vlan     uint16
	odd      bool
	later    bool
	flow     bypass.Flow
}

// cached is a decision of earlier. stale is until when it holds though the tables
// have changed since; zero = they have not.
type cached struct {
	decision
	stale time.Time
}

func frameKey(ofport uint32, p Packet) cacheKey {
	return cacheKey{ofport, p.SrcMAC, p.DstMAC, p.VLAN, p.odd(), p.Fragment != 0, p.Flow}
}

// decideLocked is lookup's decision or, in stale-cache mode, an earlier one.
func (s *Switch) decideLocked(k cacheKey, lookup func(time.Time) decision) decision {
	now := time.Now()
	if s.staleFor <= 0 {
		return lookup(now)
	}
	if c := s.cache[k]; c != nil {
		ended := !c.until.IsZero() && now.After(c.until.Add(s.staleFor))
		changed := !c.stale.IsZero() && now.After(c.stale)
		if !ended && !changed {
			return c.decision
		}
	}
	d := lookup(now)
	s.cache[k] = &cached{decision: d}
	return d
}

// changedLocked marks what is cached as out of date.
func (s *Switch) changedLocked() {
	until := time.Now().Add(s.staleFor)
	for _, c := range s.cache {
		if c.stale.IsZero() {
			c.stale = until
		}
	}
}
