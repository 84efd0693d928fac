package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/viasnet/vias/bypass"
)

// seen is what n round trips of the guests left: frames of their connection on links, and
// segments with the guests' words on the provider's network.
type seen struct {
	round   uint64
	link    uint64 // frames of the connection, counted at both ends
	rules   uint64 // frames that the switches' rules rewrote
	wire    uint64 // segments on the provider's network
	headers string // of one of them
	strange string // one that is not rewritten
}

func (s seen) String() string {
	return fmt.Sprintf("%d round trips, link frames %d, rewritten %d, in clear on the wire %d", s.round, s.link, s.rules, s.wire)
}

// onOverlay: the provider's network saw nothing of it, the links carried it.
func (s seen) onOverlay() error {
	switch {
	case s.wire != 0:
		return fmt.Errorf("the guests' words stand on the wire in clear, %d times: %s", s.wire, s.headers)
	case s.link < 4*s.round: // there and back, each counted at both ends
		return fmt.Errorf("links carried %d frames for %d round trips", s.link, s.round)
	case s.rules != 0:
		return fmt.Errorf("rules took %d frames", s.rules)
	}
	return nil
}

// onWire: the provider's network saw all of it, as the hosts' own; links saw
// nothing.
func (s seen) onWire() error {
	switch {
	case s.strange != "":
		return errors.New("a segment on the wire has other headers than the hosts': " + s.strange)
	case s.wire < 2*s.round: // more, if the guests repeated some
		return fmt.Errorf("%d segments on the wire for %d round trips", s.wire, s.round)
	case s.rules < 4*s.round: // out and in, there and back
		return fmt.Errorf("rules took %d frames for %d round trips", s.rules, s.round)
	case s.link != 0:
		return fmt.Errorf("links carried %d of its frames meanwhile", s.link)
	}
	return nil
}

// exchange has the guests say n words of 32 random bytes, each of which comes back,
// and counts where they went.
func (s *story) exchange(ctx context.Context, n uint64) (seen, error) {
	words := make([]string, n)
	for i := range words {
		words[i] = marker()
	}
	before, err := s.quiet(ctx)
	if err != nil {
		return seen{}, err
	}
	s.wire.start(words)
	for _, w := range words {
		if err := s.alice.guest.say(ctx, w); err != nil {
			return seen{}, err
		}
	}
	after := s.count()
	r := seen{round: n, link: after.link - before.link, rules: after.rules - before.rules}
	for _, p := range s.wire.stop() {
		r.wire++
		if p.Flow.Src.Addr() == s.alice.underlay || r.headers == "" {
			r.headers = p.Flow.String()
		}
		if !s.rewritten(p.Flow) {
			r.strange = p.Flow.String()
		}
	}
	return r, nil
}

// rewritten: the segment has the hosts' addresses and ports of the reserved range.
func (s *story) rewritten(f bypass.Flow) bool {
	if f.Src.Addr() == s.bob.underlay {
		f = f.Reverse()
	}
	return f.Src.Addr() == s.alice.underlay && f.Dst.Addr() == s.bob.underlay &&
		bypass.DefaultPorts.Contains(f.Src.Port()) && bypass.DefaultPorts.Contains(f.Dst.Port())
}

// quiet waits until nothing is under way any more: repeated segments may be.
func (s *story) quiet(ctx context.Context) (last seen, err error) {
	last = s.count()
	since := time.Now()
	err = s.wait(ctx, "the counters stand still", func() bool {
		now := s.count()
		if now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > 10*time.Millisecond
	})
	return last, err
}

// count adds up both ends' counters.
func (s *story) count() (c seen) {
	for _, h := range []*host{s.alice, s.bob} {
		for f := range h.network.Flows() {
			if f.Flow.Canonical() == s.alice.guest.flow.Canonical() {
				c.link += f.Sent.Frames + f.Received.Frames
			}
		}
		k := h.sw.Counters()
		c.rules += k.Outbound + k.Inbound
	}
	return c
}
