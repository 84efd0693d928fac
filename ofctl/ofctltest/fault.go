package ofctltest

import (
	"fmt"
	"maps"
	"slices"

	"github.com/viasnet/vias/ofctl"
)

// faults is what was asked for to go wrong. Switch.mu guards it.
type faults struct {
	fail    int // so many Applies fail with err
	err     error
	lose    int // so many Applies take effect and lose the connection
	stalled bool
	waiting []*job
}

// job is one Apply.
type job struct {
	conn   *Conn
	mods   []ofctl.Mod
	result chan error // room for one
}

// FailNext makes the next n Applies fail with err (a *ofctl.SwitchError, say) and
// change nothing; n = 0 cancels.
func (s *Switch) FailNext(n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.fail, s.faults.err = n, err
}

// LoseNext makes the next n Applies take effect and lose their connection before
// the confirmation: they return ErrUnconfirmed.
func (s *Switch) LoseNext(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.lose = n
}

// Stall makes Apply block until Resume: the switch has been asked, and does not
// answer. Frames, dumps and events go on.
func (s *Switch) Stall() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.stalled = true
}

// Resume ends a stall. Applies that came in meanwhile are executed in their order,
// those whose callers gave up too.
func (s *Switch) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.stalled = false
	waiting := s.faults.waiting
	s.faults.waiting = nil
	for _, j := range waiting {
		s.executeLocked(j)
	}
}

// Disconnect loses every connection: Watch returns ErrClosed, an Apply that waits
// ErrUnconfirmed (and is not executed). New connections can be made at once.
func (s *Switch) Disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disconnectLocked()
}

func (s *Switch) disconnectLocked() {
	s.faults.waiting = nil
	for _, c := range slices.Collect(maps.Keys(s.conns)) {
		c.loseLocked()
	}
	s.self = s.connectLocked()
}

// Restart is what a restart of ovs-vswitchd does: every connection is lost, flows,
// groups and learnt addresses are gone, and one flow with priority 0 in table 0
// does NORMAL. No FlowRemoved is sent. Ports keep tags and trunks; those that are
// keys of renumber get new ofports (nil = none does). Ofports that two ports would
// have, or that no port has, are ignored.
func (s *Switch) Restart(renumber map[uint32]uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.wipeLocked()
	s.disconnectLocked()
	moved := make(map[uint32]*port)
	for _, old := range slices.Sorted(maps.Keys(renumber)) {
		p := s.ports[old]
		if no := renumber[old]; p != nil && old != ofctl.PortLocal && no != 0 && no < 0xff00 && moved[no] == nil {
			delete(s.ports, old)
			p.No = no
			moved[no] = p
		}
	}
	for no, p := range s.ports {
		if moved[no] == nil {
			moved[no] = p
		}
	}
	s.ports = moved
	// With tables just emptied there is nothing that could refuse it.
	_ = s.applyLocked([]ofctl.Mod{ofctl.FlowMod{Flow: ofctl.Flow{Apply: []ofctl.Action{ofctl.Normal()}}}})
}

// submit executes mods now, or later if the switch is stalled.
func (s *Switch) submit(c *Conn, mods []ofctl.Mod) *job {
	j := &job{conn: c, mods: slices.Clone(mods), result: make(chan error, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case c.lost:
		j.result <- fmt.Errorf("ofctltest: apply: %w", ofctl.ErrClosed)
	case s.faults.stalled:
		s.faults.waiting = append(s.faults.waiting, j)
	default:
		s.executeLocked(j)
	}
	return j
}

func (s *Switch) executeLocked(j *job) {
	switch {
	case s.faults.fail > 0:
		s.faults.fail--
		j.result <- s.faults.err
	case s.faults.lose > 0:
		s.faults.lose--
		// Whether it took effect is what the caller cannot know.
		_ = s.applyLocked(j.mods)
		if j.conn.loseLocked(); j.conn == s.self {
			s.self = s.connectLocked()
		}
		j.result <- fmt.Errorf("ofctltest: apply: %w", ofctl.ErrUnconfirmed)
	default:
		j.result <- s.applyLocked(j.mods)
	}
}
