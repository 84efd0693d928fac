package ofctltest

import "time"

// cacheLimit is how many decisions are kept; a full cache is emptied.
const cacheLimit = 1 << 16

// cache is what Open vSwitch's megaflows are: decisions that outlive the tables
// that they were made from, for a while. Switch.mu guards it.
type cache struct {
	lag       time.Duration // 0 = no cache
	decisions map[key]*decision
}

// decision is what was done to the first frame of a five-tuple.
type decision struct {
	steps []step
	// stale is when the tables first changed after it was made; zero = not yet.
	stale time.Time
}

// SetStale makes the switch lag its tables: a frame whose headers were seen before
// a change goes on being forwarded as before it, until lag after the change. (Open
// vSwitch: 232 ms were seen with 37,000 megaflows.) What was not seen before takes
// the new tables at once. 0, the default, turns it off.
func (s *Switch) SetStale(lag time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cache = cache{lag: lag, decisions: make(map[key]*decision)}
}

// cacheKey is k without what changes inside one five-tuple.
func cacheKey(k key) key {
	k[atTTL], k[atIPDSCP], k[atIPECN] = 0, 0, 0
	return k
}

// find is a decision that is still in force, or nil.
func (c *cache) find(k *key, now time.Time) *decision {
	if c.lag == 0 {
		return nil
	}
	ck := cacheKey(*k)
	d := c.decisions[ck]
	if d != nil && !d.stale.IsZero() && now.Sub(d.stale) >= c.lag {
		delete(c.decisions, ck)
		return nil
	}
	return d
}

func (c *cache) keep(k *key, steps []step) {
	if len(c.decisions) >= cacheLimit {
		clear(c.decisions)
	}
	c.decisions[cacheKey(*k)] = &decision{steps: steps}
}

// changed marks all decisions: their time is running.
func (c *cache) changed(now time.Time) {
	for _, d := range c.decisions {
		if d.stale.IsZero() {
			d.stale = now
		}
	}
}

// replay does to the frame what was decided for an earlier one.
func (r *run) replay(steps []step) {
	var saved []packet
	for _, s := range steps {
		switch {
		case s.hit:
			r.at = s.at
			s.at.hit(r.size, r.now)
		case s.save:
			r.p.owned = false
			saved = append(saved, r.p)
		case s.restore:
			r.p, saved = saved[len(saved)-1], saved[:len(saved)-1]
			r.dead = false
		case s.meter != 0:
			r.dead = r.dead || !r.sw.passesLocked(s.meter, r.size, r.now)
		case s.action != nil && !r.dead:
			r.at = s.at
			r.primitive(s.action)
		}
	}
}
