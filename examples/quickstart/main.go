// Command quickstart shows what vias does, in one process and without privileges:
// two Networks link over real DTLS and ICE on loopback; the switches, the
// provider's network between them and the two guests are in memory. One TCP
// connection of the guests goes overlay → bypass → overlay, several times, and
// each claim is checked against counters and against the frames on the provider's
// network.
//
// It ends by itself within seconds. The exit code is 1 when a claim does not hold;
// the last line says which.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/viasnet/vias"
	"github.com/viasnet/vias/bypass"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "FAILED:", err)
		os.Exit(1)
	}
}

// run sets everything up, tells the story, and takes everything down.
func run(ctx context.Context, out io.Writer) (err error) {
	s, err := setUp(ctx, out)
	if err != nil {
		return err
	}
	return errors.Join(s.tell(ctx), s.takeDown())
}

// tell is the story: each step is checked before the next one begins.
func (s *story) tell(ctx context.Context) error {
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"link", s.link},
		{"overlay", s.overlay},
		{"bypass", s.bypass},
		{"lost rule", s.lostRule},
		{"policy withdrawn at alice", func(ctx context.Context) error { return s.withdraw(ctx, s.alice) }},
		{"policy withdrawn at bob", func(ctx context.Context) error { return s.withdraw(ctx, s.bob) }},
	} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	segments, repeated := s.alice.guest.counts()
	s.say("", "%d segments from alice's guest on one TCP connection, %d of them repetitions", segments, repeated)
	return nil
}

// link waits until both ends know each other, and opens the guests' connection.
func (s *story) link(ctx context.Context) error {
	err := s.wait(ctx, "both are linked and know each other's guest", func() bool {
		return linked(s.alice) && linked(s.bob)
	})
	if err != nil {
		return err
	}
	p := s.alice.network.Peers()[0]
	s.say("link", "alice %s and bob %s: DTLS over ICE, %v", s.alice.network.ID().Short(), p.ID.Short(), p.Path.Remote)
	if err := s.alice.guest.connect(ctx); err != nil {
		return err
	}
	return s.alice.guest.say(ctx, marker())
}

func linked(h *host) bool {
	p := h.network.Peers()
	return len(p) == 1 && p[0].State == vias.PeerLinked && len(p[0].Endpoints) == 1
}

// overlay: no policy allows a bypass, so links carry everything.
func (s *story) overlay(ctx context.Context) error {
	seen, err := s.exchange(ctx, 10)
	if err != nil {
		return err
	}
	if err := seen.onOverlay(); err != nil {
		return err
	}
	s.say("overlay", "policy says no: %v", seen)
	return nil
}

// bypass: both ends' policies allow it, so the switches carry everything.
func (s *story) bypass(ctx context.Context) error {
	start := time.Now()
	s.alice.network.SetPolicy(bypass.Always)
	s.bob.network.SetPolicy(bypass.Always)
	if err := s.until(ctx, bypass.Bypassed); err != nil {
		return err
	}
	took := time.Since(start).Round(time.Millisecond)
	seen, err := s.exchange(ctx, 1000)
	if err != nil {
		return err
	}
	if err := seen.onWire(); err != nil {
		return err
	}
	s.say("bypass", "both policies say yes (%v for proof and transaction): %v", took, seen)
	s.say("", "what the guests see:  %v", s.alice.guest.flow)
	s.say("", "what the wire shows:  %v", seen.headers)
	return nil
}

// lostRule: somebody deletes the inbound rule in bob's switch.
func (s *story) lostRule(ctx context.Context) error {
	for _, r := range s.bob.sw.Rules() {
		if r.Rule.Direction == bypass.Inbound {
			s.bob.sw.Forget(r.Epoch, bypass.Inbound, r.Rule.ID)
		}
	}
	if err := s.until(ctx, bypass.OnOverlay); err != nil {
		return err
	}
	seen, err := s.exchange(ctx, 10)
	if err != nil {
		return err
	}
	if seen.link == 0 {
		return errors.New("no frame went by the link")
	}
	s.say("lost rule", "bob's inbound rule is gone, the connection is not: %v", seen)
	return s.again(ctx)
}

// withdraw: one end changes its mind, which is enough.
func (s *story) withdraw(ctx context.Context, h *host) error {
	h.network.SetPolicy(bypass.Never)
	if err := s.until(ctx, bypass.OnOverlay); err != nil {
		return err
	}
	seen, err := s.exchange(ctx, 10)
	if err != nil {
		return err
	}
	if err := seen.onOverlay(); err != nil {
		return err
	}
	x := s.alice.network.Explain(s.alice.guest.flow)
	s.say("withdrawn", "by %s: %v", h.name, seen)
	s.say("", "alice, why? %q", x.What)
	if want := map[*host]bypass.Reason{s.alice: bypass.ReasonPolicy, s.bob: bypass.ReasonPeerPolicy}[h]; x.Reason != want {
		return fmt.Errorf("alice explains it with %q, not %q", x.Reason, want)
	}
	h.network.SetPolicy(bypass.Always)
	return s.again(ctx)
}

// again waits until the flow is back on the bypass.
func (s *story) again(ctx context.Context) error {
	if err := s.until(ctx, bypass.Bypassed); err != nil {
		return err
	}
	seen, err := s.exchange(ctx, 10)
	if err != nil {
		return err
	}
	if err := seen.onWire(); err != nil {
		return err
	}
	s.say("bypass", "and back: %v", seen)
	return nil
}

// until talks on until both ends see the flow in a state.
func (s *story) until(ctx context.Context, want bypass.State) error {
	return s.wait(ctx, fmt.Sprintf("both ends have the flow in state %q", want), func() bool {
		if err := s.alice.guest.say(ctx, marker()); err != nil {
			return false
		}
		f := s.alice.guest.flow
		return s.alice.network.Explain(f).State == want && s.bob.network.Explain(f).State == want
	})
}

// wait polls ok.
func (s *story) wait(ctx context.Context, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			f := s.alice.guest.flow
			return fmt.Errorf("not in time: %s (alice: %+v; bob: %+v)", what, s.alice.network.Explain(f), s.bob.network.Explain(f))
		}
	}
	return nil
}

func (s *story) say(head, format string, args ...any) {
	fmt.Fprintf(s.out, "%-10s "+format+"\n", append([]any{head}, args...)...)
}
