package bypasstest

import "time"

// Lag makes the counters of rules lag: they are collected once every d, as real switches
// do whose packets are forwarded by caches; 0 ends that.
func (s *Switch) Lag(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lag = d
}

// shownCounts is what a rule shows of its counters.
type shownCounts struct {
	packets, bytes uint64
	round          int64 // of collecting, in which the last hit was
}

// collect shows what was counted in earlier rounds. It is called before each hit.
func (r *rule) collect(now time.Time, lag time.Duration) {
	if lag <= 0 {
		return
	}
	if round := now.UnixNano() / int64(lag); round != r.shown.round {
		r.shown = shownCounts{r.packets, r.bytes, round}
	}
}

// counts is what the rule shows.
func (r *rule) counts(now time.Time, lag time.Duration) (packets, bytes uint64) {
	if lag <= 0 {
		return r.packets, r.bytes
	}
	r.collect(now, lag)
	return r.shown.packets, r.shown.bytes
}
