package lab

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Times of Survive.
const (
	survivePort  = 5205 // DefaultPolicy has no rule for it
	bypassedTime = 30 * time.Second
	finishTime   = 20 * time.Second
	nodeDown     = time.Second
	// unplugged is longer than a path may be silent (2.5 s) before it is left.
	unplugged = 4 * time.Second
)

// blow is something to be survived.
type blow struct {
	what string
	do   func(context.Context) error
}

func (l *Lab) blows() []blow {
	return []blow{
		{"node of host 2 killed and started again", func(ctx context.Context) error {
			if err := l.killNode(2); err != nil {
				return err
			}
			return errors.Join(pause(ctx, nodeDown), l.restartNode(2, nil))
		}},
		{"ovs-vswitchd of host 1 killed and restarted", func(ctx context.Context) error {
			return l.OVS(1).RestartVswitchd(ctx, true)
		}},
		{fmt.Sprintf("underlay of host 2 cut for %.0f s", unplugged.Seconds()), func(ctx context.Context) error {
			return l.unplug(ctx, 2, unplugged)
		}},
	}
}

// Survive runs one TCP transfer between the first containers of the first two hosts,
// in both directions, through all that breaks the bypass or the overlay: a killed node,
// a killed switch, a cut underlay. After each blow it waits until the transfer flows
// again and both nodes have it bypassed again, and tells progress; at the end it
// compares checksums. An error says what the transfer did not survive. The nodes must
// run.
func (l *Lab) Survive(ctx context.Context, progress func(Blow)) (r Survival, err error) {
	s, err := l.startStream(Kind{}, survivePort)
	if err != nil {
		return r, err
	}
	defer s.abort()
	if err := l.awaitBypassed(ctx, s, time.Time{}); err != nil {
		return r, err
	}
	for _, b := range l.blows() {
		at := time.Now()
		if err := b.do(ctx); err != nil {
			return r, fmt.Errorf("lab: %s: %w", b.what, err)
		}
		if err := l.awaitBypassed(ctx, s, at); err != nil {
			return r, fmt.Errorf("%s: %w", b.what, err)
		}
		done := Blow{What: b.what, Gap: s.gap(at), Back: time.Since(at)}
		r.Blows = append(r.Blows, done)
		if progress != nil {
			progress(done)
		}
	}
	r.There, r.Back, err = s.finish(finishTime)
	if err != nil {
		return r, fmt.Errorf("lab: the transfer: %w", err)
	}
	return r, nil
}

// awaitBypassed is bypassedSince with a limit.
func (l *Lab) awaitBypassed(ctx context.Context, s *stream, after time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, bypassedTime)
	defer cancel()
	_, err := l.bypassedSince(ctx, s, after)
	return err
}
