package chaos

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"
)

// event is a fault that is going to happen.
type event struct {
	fault *Fault
	at    time.Duration // after the storm began
	lasts time.Duration
}

// draw is the next storm: events in the order of their times. Each kind comes once before
// any comes again, as far as targets are free.
func (r *run) draw() []event {
	var list []event
	for range r.Events {
		if len(r.bag) == 0 {
			r.bag = kinds(r.Faults)
			r.rng.Shuffle(len(r.bag), func(i, k int) { r.bag[i], r.bag[k] = r.bag[k], r.bag[i] })
		}
		kind := r.bag[0]
		r.bag = r.bag[1:]
		if e, ok := drawOf(r.rng, kind, r.Faults, r.Storm, list); ok {
			list = append(list, e)
		}
	}
	slices.SortStableFunc(list, func(a, b event) int { return int(a.at - b.at) })
	return list
}

// kinds lists them, each once, in an order that is always the same.
func kinds(faults []Fault) []string {
	set := map[string]bool{}
	for _, f := range faults {
		set[f.Kind] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// drawOf draws one event of a kind that meets none of the others at its target.
func drawOf(rng *rand.Rand, kind string, faults []Fault, storm time.Duration, others []event) (event, bool) {
	var of []*Fault
	for i := range faults {
		if faults[i].Kind == kind {
			of = append(of, &faults[i])
		}
	}
	for range 20 {
		f := of[rng.IntN(len(of))]
		e := event{fault: f, at: time.Duration(rng.Int64N(int64(storm))), lasts: f.Min + time.Duration(rng.Int64N(int64(f.Max-f.Min)+1))}
		if !slices.ContainsFunc(others, e.meets) {
			return e, true
		}
	}
	return event{}, false
}

// apart is what lies between two faults of one target: what mends takes its time.
const apart = 3 * time.Second

func (e event) meets(o event) bool {
	return e.fault.Target == o.fault.Target && e.at < o.at+o.lasts+apart && o.at < e.at+e.lasts+apart
}
