// Package chaos breaks things at random, by a seed, while transfers go on, and says what
// came of them. What can be broken, and what carries the transfers, is the caller's: this
// package draws, waits, counts and judges.
//
// A run is storms with calms between. In a storm faults come at random, several at once, but
// never two at one target; each mends what it broke. Then nothing is broken, and within
// Config.Recover every transfer must move again, and whatever else Config.Whole asks for must
// be so. A connection may end only by a time-out, while or soon after a fault that is Fatal;
// its transfer goes on where it was by another.
package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Fault is something that can be broken.
type Fault struct {
	// Kind is counted: "node killed". Target is what it happens to: "h1".
	Kind, Target string
	// Break and Mend are called once each, in this order, from a goroutine of the fault's
	// own. Mend may be nil. It is called with a context that does not end with the run's.
	Break, Mend func(context.Context) error
	// Min and Max bound the time between the two.
	Min, Max time.Duration
	// Fatal: it may last longer than a connection waits.
	Fatal bool
}

// Config is a run. Faults and Transfers are required.
type Config struct {
	Seed     uint64
	Duration time.Duration // the last storm begins before it is over; 0 = 5 min
	// Storms, if not 0, is how many there are, whatever Duration is.
	Storms int
	// Storm is how long faults begin in one; 0 = 8 s. Events are how many do; 0 = 5.
	Storm  time.Duration
	Events int
	// Recover is how long everything may take to be whole once nothing is broken; 0 = 60 s.
	Recover time.Duration
	// Patience is how long a connection waits for an answer before it ends. Only what judges
	// ends of connections uses it; 0 = 30 s.
	Patience time.Duration
	Faults   []Fault
	// Transfers are running. Run leaves them so.
	Transfers []*Transfer
	// Whole, if not nil, says what is not yet as it should be; nil = nothing.
	Whole func(context.Context) error
	// Progress is told what happens, a line each; nil = not. Calls do not overlap.
	Progress func(string)
}

// moves is what each transfer must bring in both directions before it counts as whole.
const moves = 16 * chunkSize

// ErrChaos matches what Run finds wrong.
var ErrChaos = errors.New("chaos")

func (c *Config) complete() error {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&c.Duration, 5 * time.Minute}, {&c.Storm, 8 * time.Second}, {&c.Recover, time.Minute}, {&c.Patience, 30 * time.Second}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.Events == 0 {
		c.Events = 5
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	if len(c.Faults) == 0 || len(c.Transfers) == 0 {
		return fmt.Errorf("%w: nothing to break, or nothing to carry", ErrChaos)
	}
	for _, f := range c.Faults {
		if f.Break == nil || f.Min > f.Max || f.Min < 0 {
			return fmt.Errorf("%w: fault %q of %q cannot be", ErrChaos, f.Kind, f.Target)
		}
	}
	return nil
}

// run is one Run.
type run struct {
	Config
	started time.Time
	rng     *rand.Rand
	bag     []string // kinds that are yet to come before any comes again

	mu     sync.Mutex // guards what follows, and Progress
	happen []*happening
	report Report
}

// happening is an event that has begun.
type happening struct {
	*Fault
	from  time.Time
	to    time.Time // zero = not mended
	until time.Time // everything was whole again; zero = not yet
}

// Run breaks things until Duration is over, and then waits until all is whole. The report
// has what happened until then, also beside an error, which matches ErrChaos if something
// was found and not only the caller's functions failed.
func Run(ctx context.Context, cfg Config) (Report, error) {
	if err := cfg.complete(); err != nil {
		return Report{}, err
	}
	r := newRun(cfg)
	err := r.calm(ctx) // what does not work before it is broken needs no storm
	for err == nil && r.more() {
		if err = r.storm(ctx); err == nil {
			err = r.calm(ctx)
		}
	}
	r.summarise()
	return r.report, err
}

// more tells whether there is to be another storm.
func (r *run) more() bool {
	if r.Storms > 0 {
		return r.report.Storms < r.Storms
	}
	return time.Since(r.started) < r.Duration
}

func newRun(cfg Config) *run {
	return &run{Config: cfg, started: time.Now(), rng: rand.New(rand.NewPCG(cfg.Seed, 0)), report: Report{Seed: cfg.Seed}}
}

func (r *run) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Progress(fmt.Sprintf("%6.1f  ", time.Since(r.started).Seconds()) + fmt.Sprintf(format, args...))
}

// storm lets the events of one storm happen, and returns when all is mended.
func (r *run) storm(ctx context.Context) error {
	r.report.Storms++
	events := r.draw()
	errs := make([]error, len(events))
	var all sync.WaitGroup
	for i, e := range events {
		all.Go(func() { errs[i] = r.happens(ctx, e) })
	}
	all.Wait()
	return errors.Join(append(errs, context.Cause(ctx))...)
}

func (r *run) happens(ctx context.Context, e event) error {
	if !sleep(ctx, e.at) {
		return nil
	}
	f := e.fault
	h := &happening{Fault: f, from: time.Now()}
	r.mu.Lock()
	r.happen = append(r.happen, h)
	r.mu.Unlock()
	r.say("%s: %s (%.1f s)", f.Target, f.Kind, e.lasts.Seconds())
	mending := context.WithoutCancel(ctx)
	err := f.Break(mending)
	sleep(ctx, e.lasts)
	if f.Mend != nil {
		err = errors.Join(err, f.Mend(mending))
	}
	r.mu.Lock()
	h.to = time.Now()
	r.mu.Unlock()
	if f.Mend != nil {
		r.say("%s: mended: %s", f.Target, f.Kind)
	}
	if err != nil {
		return fmt.Errorf("%s: %s: %w", f.Target, f.Kind, err)
	}
	return nil
}

// sleep tells whether it was not cut short.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// calm waits until everything is whole, and judges the ends of connections.
func (r *run) calm(ctx context.Context) error {
	start := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := r.judge(); err != nil {
			return err
		}
		why := r.whole(ctx, start)
		if why == nil {
			break
		}
		if time.Since(start) > r.Recover {
			return fmt.Errorf("%w: not whole %v after everything was mended: %w", ErrChaos, r.Recover, why)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	took := time.Since(start)
	r.mu.Lock()
	r.report.Recovery = max(r.report.Recovery, took)
	for _, h := range r.happen {
		if h.until.IsZero() {
			h.until = time.Now()
		}
	}
	r.mu.Unlock()
	r.say("all is whole, %.1f s after the last was mended", took.Seconds())
	return nil
}

// whole says what is not.
func (r *run) whole(ctx context.Context, start time.Time) error {
	for _, t := range r.Transfers {
		if n := t.moved(start); n < moves {
			return fmt.Errorf("%s: %d bytes have arrived in %.1f s", t.Name, n, time.Since(start).Seconds())
		}
	}
	if r.Whole == nil {
		return nil
	}
	return r.Whole(ctx)
}

// judge says what no transfer may do: bring other bytes than were sent, or lose a connection
// without a cause.
func (r *run) judge() error {
	for _, t := range r.Transfers {
		if err := t.Wrong(); err != nil {
			return fmt.Errorf("%w: %w", ErrChaos, err)
		}
		for _, b := range t.breaks() {
			if !r.timedOut(b) || !r.excused(b.at) {
				return fmt.Errorf("%w: %s: its connection ended after %.1f s of silence: %w", ErrChaos, t.Name, b.silence.Seconds(), b.err)
			}
		}
	}
	return nil
}

// timedOut: the connection waited as long as it does. The kernel's reason is then the last
// soft error, if there was one: nobody answered for the address.
func (r *run) timedOut(b brokenConn) bool {
	return errors.Is(b.err, syscall.ETIMEDOUT) || errors.Is(b.err, syscall.EHOSTUNREACH) && b.silence >= r.Patience
}

// excused: something Fatal happened so recently that a connection may have ended by it.
func (r *run) excused(at time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.happen, func(h *happening) bool {
		return h.Fatal && at.After(h.from) && (h.to.IsZero() || at.Before(h.to.Add(r.Patience)))
	})
}
