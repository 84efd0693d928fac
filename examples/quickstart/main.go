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
	"strings"
	"time"

	"github.com/viasnet/vias"
	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
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
	s.say("", "%d segments on one TCP connection, %d of them sent twice", segments, repeated)
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
	return s.alice.guest.connect(ctx)
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
	s.say("", "guests say  %v", s.alice.guest.flow)
	s.say("", "wire shows  %v", seen.headers)
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

// seen is what n round trips of the guests left: frames on links and devices, and
// segments with the guests' words on the provider's network.
type seen struct {
	round, link, device, rules uint64
	wire                       int
	headers                    string // of one segment on the wire
	strange                    string // a segment on the wire that is not rewritten
}

func (s seen) String() string {
	return fmt.Sprintf("%d round trips, %d frames on links, %d on the wire, %d hits of rules", s.round, s.link, s.wire, s.rules)
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

// onWire: the provider's network saw all of it, as the hosts' own; links and
// devices saw nothing.
func (s seen) onWire() error {
	switch {
	case s.strange != "":
		return errors.New("a segment on the wire has other headers than the hosts': " + s.strange)
	case s.wire != int(2*s.round):
		return fmt.Errorf("%d segments on the wire for %d round trips", s.wire, s.round)
	case s.rules != 4*s.round: // out and in, there and back
		return fmt.Errorf("rules took %d frames for %d round trips", s.rules, s.round)
	case s.link != 0 || s.device != 0:
		return fmt.Errorf("%d frames moved on links and %d on devices meanwhile", s.link, s.device)
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
	s.wire.start(words)
	before := s.count()
	for _, w := range words {
		if err := s.alice.guest.say(ctx, w); err != nil {
			return seen{}, err
		}
	}
	after := s.count()
	r := seen{round: n, link: after.link - before.link, device: after.device - before.device, rules: after.rules - before.rules}
	for _, p := range s.wire.stop() {
		r.wire++
		r.headers = p.Flow.String()
		if !s.rewritten(p.Flow) {
			r.strange = r.headers
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

// count adds up both ends' counters.
func (s *story) count() (c seen) {
	for _, h := range []*host{s.alice, s.bob} {
		for _, p := range h.network.Peers() {
			c.link += p.Sent.Frames + p.Received.Frames
		}
		st := h.network.Stats()
		c.device += st.Sent.Frames + st.Received.Frames
		k := h.sw.Counters()
		c.rules += k.Outbound + k.Inbound
	}
	return c
}

// contains finds the words in a segment.
func contains(p bypasstest.Packet, words []string) bool {
	for _, w := range words {
		if strings.Contains(string(p.Payload), w) {
			return true
		}
	}
	return false
}
