package bypasstest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/viasnet/vias/bypass"
)

// ErrRefused is what a Switch that was told to fail says.
var ErrRefused = errors.New("bypasstest: the switch was told to refuse this")

// faults is what a Switch was told to do wrong. The Switch's mu guards it.
type faults struct {
	fail        int
	unconfirmed int
	lie         bool // unconfirmed changes are not made
	down        bool
	stalled     bool
	waiting     []*request
	staleFor    time.Duration
	lag         time.Duration
}

// request is a call that waits for a stalled switch.
type request struct {
	answer func() error
	done   chan error // of length 1
}

// FailNext makes the next n calls of Set or Apply, on any connection, fail with
// ErrRefused and change nothing.
func (s *Switch) FailNext(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = n
}

// UnconfirmedNext makes the next n calls of Set or Apply return ErrUnconfirmed, and
// the connection come back right after. Their changes are made if made is true.
func (s *Switch) UnconfirmedNext(n int, made bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unconfirmed, s.lie = n, !made
}

// Stall makes the switch answer nothing; it forwards as before. A call that gives
// up meanwhile returns ErrUnconfirmed, and its change is still made on Resume.
func (s *Switch) Stall() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stalled = true
}

// Resume ends Stall: what waits is done, in order.
func (s *Switch) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stalled = false
	for _, r := range s.waiting {
		r.done <- r.answer()
	}
	s.waiting = nil
}

// Waiting is how many calls a stalled switch has not answered.
func (s *Switch) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiting)
}

// Down loses every connection. The switch forwards as before.
func (s *Switch) Down() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return
	}
	s.down = true
	s.emitLocked(bypass.DatapathDown{Err: bypass.ErrSwitchDown})
}

// Up ends Down. With fresh the switch has restarted: it holds nothing any more. Without,
// rules that went meanwhile are reported as lost.
func (s *Switch) Up(fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if fresh {
		s.clear()
	}
	if !s.down {
		return
	}
	s.down = false
	s.emitLocked(bypass.DatapathUp{Fresh: fresh})
	for c := range s.conns {
		for _, e := range c.missed {
			if !fresh {
				c.emitLocked(e)
			}
		}
		c.missed = nil
	}
}

// Stale makes decisions of earlier hold for d after what they rest on has changed,
// as caches of real switches do; 0 ends that.
func (s *Switch) Stale(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.staleFor = d
	clear(s.cache)
}

// Forget deletes a rule as a foreign controller would: RuleLost is reported. It is
// false if there is no such rule.
func (s *Switch) Forget(epoch uint16, dir bypass.Direction, id uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rules[ruleKey{epoch, dir, id}]
	if r == nil {
		return false
	}
	s.lostLocked(r)
	return true
}

// Wipe deletes all that is in the switch as a foreign controller would: RuleLost is
// reported for each rule, and nothing for base and leases.
func (s *Switch) Wipe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	rules := slices.Collect(maps.Values(s.rules))
	s.clear()
	for _, r := range rules {
		s.emitEpochLocked(r.epoch, bypass.RuleLost{ID: r.ID, Direction: r.Direction})
	}
}

// RemoveRule deletes a rule and tells nobody. It is false if there is no such rule.
func (s *Switch) RemoveRule(epoch uint16, dir bypass.Direction, id uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rules[ruleKey{epoch, dir, id}]
	if r == nil {
		return false
	}
	s.tables.drop(r)
	s.changedLocked()
	return true
}

// lostLocked removes r and reports it as lost.
func (s *Switch) lostLocked(r *rule) {
	s.tables.drop(r)
	s.changedLocked()
	s.emitEpochLocked(r.epoch, bypass.RuleLost{ID: r.ID, Direction: r.Direction})
}

// makeLocked does a change, or what the faults say instead.
func (s *Switch) makeLocked(c *conn, make func() error) error {
	if err := c.usableLocked(); err != nil {
		return err
	}
	switch {
	case s.fail > 0:
		s.fail--
		return ErrRefused
	case s.unconfirmed > 0:
		s.unconfirmed--
		s.counters.Changes++
		if !s.lie {
			if err := make(); err != nil {
				return err
			}
		}
		c.emitLocked(bypass.DatapathDown{Err: bypass.ErrUnconfirmed})
		c.emitLocked(bypass.DatapathUp{})
		return fmt.Errorf("bypasstest: %w", bypass.ErrUnconfirmed)
	}
	s.counters.Changes++
	return make()
}
