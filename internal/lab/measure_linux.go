package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"
)

// MeasureConfig says what is measured between the first containers of the first
// two hosts.
type MeasureConfig struct {
	Duration time.Duration // of each iperf3 run, whole seconds; 0 = 5 s
	Rounds   int           // 0 = 5
	// NativeOnly leaves out the rows that need nodes.
	NativeOnly bool
	// Progress is called after each sample; nil = not.
	Progress func(round int, m Mode, s Sample)
}

// settle is how long counters may lag behind the packets: Open vSwitch collects
// them from its datapath twice a second.
const settle = 3 * time.Second

// Measure runs all modes in turn, round by round: what else the machine does then
// falls on all of them alike. A sample without its proof is no error but a Fail.
func (l *Lab) Measure(ctx context.Context, cfg MeasureConfig) (Report, error) {
	if cfg.Duration == 0 {
		cfg.Duration = 5 * time.Second
	}
	if cfg.Rounds == 0 {
		cfg.Rounds = 5
	}
	run := []Mode{Native, Overlay, Bypass}
	if cfg.NativeOnly {
		run = run[:1]
	}
	samples := map[Mode][]Sample{}
	err := l.withServers(ctx, run, func() error {
		for round := 1; round <= cfg.Rounds; round++ {
			for _, m := range run {
				s, err := l.sample(ctx, m, cfg.Duration)
				if err != nil {
					return fmt.Errorf("round %d, %s: %w", round, m, err)
				}
				samples[m] = append(samples[m], s)
				if cfg.Progress != nil {
					cfg.Progress(round, m, s)
				}
			}
		}
		return nil
	})
	if err != nil {
		return Report{}, err
	}
	return newReport(samples, l.machine(ctx)), nil
}

// withServers runs f while the servers of all modes listen in the second host's
// first container.
func (l *Lab) withServers(ctx context.Context, run []Mode, f func() error) (err error) {
	server := l.hosts[1].Containers[0]
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	in, hold, err := os.Pipe() // the ping-pong servers end with this pipe
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	defer func() { err = errors.Join(err, in.Close(), hold.Close()) }()
	for _, m := range run {
		ping := fmt.Sprintf("%s:%d", server.Addr, m.pingPort())
		for port, args := range map[uint16][]string{
			m.iperfPort(): {"iperf3", "-s", "-p", strconv.Itoa(int(m.iperfPort()))},
			m.pingPort():  {self, childMark, "serve", ping},
		} {
			c, err := l.spawn(server.Namespace, in, nil, nil, args...)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, l.stop(c)) }()
			if err := c.waitListening(ctx, port); err != nil {
				return fmt.Errorf("lab: %s: %w", args[0], err)
			}
		}
	}
	return f()
}

func (c *child) waitListening(ctx context.Context, port uint16) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Second, errors.New("it does not listen"))
	defer cancel()
	return poll(ctx, 10*time.Millisecond, func() (bool, error) {
		select {
		case <-c.exited:
			return false, fmt.Errorf("it ended: %w", c.err)
		default:
			return listening(c.proc.PID, port), nil
		}
	})
}

// sample measures one mode once.
func (l *Lab) sample(ctx context.Context, m Mode, d time.Duration) (s Sample, err error) {
	err = l.inMode(ctx, m, func() error {
		if s.RTT, s.Fail, err = l.rtt(ctx, m); err != nil || s.Fail != "" {
			return err
		}
		s.Proof, s.Fail, err = l.prove(ctx, m, l.pair(Kind{}, m), func() (moved uint64, err error) {
			moved, s.Mbps, err = l.iperf(ctx, l.pair(Kind{}, m), d)
			return moved, err
		})
		return err
	})
	return s, err
}

// inMode runs f while the workloads may talk natively, if that is the mode.
func (l *Lab) inMode(ctx context.Context, m Mode, f func() error) (err error) {
	if m == Native {
		if err := l.NativeOn(ctx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, l.NativeOff(context.WithoutCancel(ctx))) }()
	}
	return f()
}

// prove runs f, which moves bytes between a pair and says how many, and waits until the
// counters show that they took the mode's way. What f could not do is a fail, as is a
// missing proof.
func (l *Lab) prove(ctx context.Context, m Mode, p pair, f func() (moved uint64, err error)) (proof Proof, fail string, err error) {
	before, err := l.count(ctx, m, p)
	if err != nil {
		return proof, "", err
	}
	moved, err := f()
	if ctx.Err() != nil {
		return proof, "", context.Cause(ctx)
	}
	if err != nil {
		return proof, err.Error(), nil
	}
	limit, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	err = poll(limit, 100*time.Millisecond, func() (bool, error) {
		after, err := l.count(ctx, m, p)
		if err != nil {
			return false, err
		}
		proof = after.since(before, moved)
		fail = proof.check(m)
		return fail == "", nil
	})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = nil // the counters had their time; fail says it
	}
	return proof, fail, err
}

func (l *Lab) pair(k Kind, m Mode) pair {
	a, b := l.hosts[0], l.hosts[1]
	return pair{kind: k, client: a.Containers[0].addr(k), server: b.Containers[0].addr(k),
		clientHost: a.addr(k), serverHost: b.addr(k), port: m.iperfPort()}
}

// iperf runs one TCP stream from the first host's container to the second's.
func (l *Lab) iperf(ctx context.Context, p pair, d time.Duration) (moved uint64, mbps float64, err error) {
	return l.iperfBy(ctx, []string{"ip", "netns", "exec", l.hosts[0].Containers[0].Namespace}, p, d)
}

// iperfBy is iperf with its client run by another command.
func (l *Lab) iperfBy(ctx context.Context, by []string, p pair, d time.Duration) (moved uint64, mbps float64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d+15*time.Second, errors.New("iperf3 did not end in time"))
	defer cancel()
	args := append(slices.Clone(by), "iperf3", "-J", "-c", p.server.String(),
		"-p", strconv.Itoa(int(p.port)), "-t", strconv.Itoa(max(1, int(d.Seconds()))), "--connect-timeout", "3000")
	l.cfg.Logger.Debug("run", "args", args)
	out, err := command(ctx, args[0], args[1:]...)
	if err != nil {
		return 0, 0, err
	}
	var r struct {
		Error string
		End   struct {
			Received struct {
				Bytes uint64
				Rate  float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return 0, 0, fmt.Errorf("iperf3's JSON: %w", err)
	}
	if r.Error != "" {
		return 0, 0, errors.New("iperf3: " + r.Error)
	}
	return r.End.Received.Bytes, r.End.Received.Rate / 1e6, nil
}
