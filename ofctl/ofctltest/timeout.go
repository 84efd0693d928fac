package ofctltest

import (
	"time"

	"github.com/viasnet/vias/ofctl"
)

// deadline is when f runs out if nothing happens, and why; zero = never.
func (f *flow) deadline() (at time.Time, why ofctl.RemovedReason) {
	if f.HardTimeout != 0 {
		at, why = f.modified.Add(time.Duration(f.HardTimeout)*time.Second), ofctl.RemovedHard
	}
	if f.IdleTimeout != 0 {
		idle := f.used.Add(time.Duration(f.IdleTimeout) * time.Second)
		if at.IsZero() || idle.Before(at) {
			at, why = idle, ofctl.RemovedIdle
		}
	}
	return at, why
}

// armLocked starts f's timer, if it has a time-out. The timer is not moved when f
// is used or modified: it looks again when it fires.
func (s *Switch) armLocked(f *flow) {
	at, _ := f.deadline()
	if f.gone || at.IsZero() {
		return
	}
	f.timer = time.AfterFunc(time.Until(at), func() { s.expire(f) })
}

func (f *flow) stopTimer() {
	if f.timer != nil {
		f.timer.Stop()
	}
}

// expire removes f if it has run out.
func (s *Switch) expire(f *flow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.gone || s.closed {
		return
	}
	now := time.Now()
	at, why := f.deadline()
	if now.Before(at) {
		s.armLocked(f)
		return
	}
	t := &transaction{sw: s, now: now}
	t.remove(f, why)
	t.commit()
}

// flowRemovedLocked tells the controllers, if f asked for it.
func (s *Switch) flowRemovedLocked(f *flow, why ofctl.RemovedReason, now time.Time) {
	if !f.SendFlowRemoved {
		return
	}
	st := f.stat(now)
	st.Apply, st.Write = nil, nil
	st.Clear, st.Metadata, st.Goto = false, ofctl.MetadataWrite{}, 0
	s.eventLocked(ofctl.FlowRemoved{
		Flow: st.Flow, Reason: why, Packets: st.Packets, Bytes: st.Bytes,
		DurationSeconds: st.AgeSeconds, DurationNanosecs: st.AgeNanosecs,
	})
}
