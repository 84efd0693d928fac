//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/viasnet/vias/bench"
)

// visit is one peer in one round.
type visit struct {
	o        options
	peer     peer
	mode     string
	round    int
	report   *bench.Report
	progress io.Writer

	wire   wire
	target string // b's address, as tests have it
	local  string // a's
}

// maxForeign is how many processors other programs may take during a TCP test, or it is
// made again, twice at most.
const maxForeign = 0.25

func (v *visit) run(ctx context.Context) (err error) {
	fmt.Fprintf(v.progress, "%s, round %d, %s\n", v.mode, v.round, v.peer.name)
	defer func() { err = errors.Join(err, v.wire.close()) }()
	if err := v.wire.open(ctx, v.mode); err != nil {
		return err
	}
	if err := v.peer.up(ctx, &v.wire, v.o.bin); err != nil {
		return fmt.Errorf("it does not come up: %w", err)
	}
	v.local, v.target = overA, overB
	if v.peer.bare {
		v.local, v.target = wireA, wireB
	}
	err = poll(ctx, 15*time.Second, func() bool {
		_, err := v.wire.in(ctx, 0, "ping", "-c1", "-W1", "-I", v.local, v.target)
		return err == nil
	})
	if err != nil {
		return fmt.Errorf("no answer to ping: %s", v.wire.logs())
	}
	for _, test := range []func(context.Context) error{
		func(ctx context.Context) error { return v.tcp(ctx, 1, bench.TCP1, bench.TCP1CPU) },
		func(ctx context.Context) error { return v.tcp(ctx, 4, bench.TCP4, bench.TCP4CPU) },
		v.udp, v.roundTrips,
	} {
		if err := test(ctx); err != nil {
			return err
		}
	}
	if peak := v.wire.peak(); peak > 0 {
		v.note(bench.RSS, peak, 0)
	}
	return nil
}

func (v *visit) note(test string, value, foreign float64) {
	v.report.Rows = append(v.report.Rows, bench.Row{Mode: v.mode, Round: v.round, Peer: v.peer.name, Test: test, Value: value, Foreign: foreign})
	fmt.Fprintf(v.progress, "  %-12s %10.1f\n", test, value)
}

// tcp has iperf3 send for some seconds.
func (v *visit) tcp(ctx context.Context, streams int, test, cpu string) error {
	for try := 1; ; try++ {
		mbit, u, err := v.iperf(ctx, streams)
		if err != nil {
			return fmt.Errorf("%s: %w", test, err)
		}
		foreign := u.foreign / u.took.Seconds()
		if foreign > maxForeign && try < 3 {
			continue
		}
		v.note(test, mbit, foreign)
		if mbit > 0 {
			v.note(cpu, u.ours/(mbit*float64(v.o.seconds)/8000), foreign)
		}
		return nil
	}
}

func (v *visit) iperf(ctx context.Context, streams int) (mbit float64, u usage, err error) {
	server, err := v.wire.start(1, nil, nil, io.Discard, "iperf3", "-s", "-1", "-B", v.target)
	if err != nil {
		return 0, u, err
	}
	defer v.wire.end(server)
	err = poll(ctx, 5*time.Second, func() bool {
		out, err := v.wire.in(ctx, 1, "ss", "-Hltn", "sport = :5201")
		return err == nil && strings.TrimSpace(out) != ""
	})
	if err != nil {
		return 0, u, fmt.Errorf("iperf3 does not listen: %w", err)
	}
	before := v.wire.usage()
	limit, cancel := context.WithTimeout(ctx, time.Duration(v.o.seconds+15)*time.Second)
	defer cancel()
	out, self, err := v.wire.counted(limit, 0, "iperf3", "-J", "-c", v.target, "-B", v.local, "-t", fmt.Sprint(v.o.seconds), "-P", fmt.Sprint(streams))
	if err != nil {
		return 0, u, err
	}
	u = v.wire.usage().since(before, self)
	mbit, err = received([]byte(out))
	return mbit, u, err
}

// received is what iperf3 -J says that arrived, in Mbit/s.
func received(out []byte) (float64, error) {
	var r struct {
		Error string `json:"error"`
		End   struct {
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return 0, fmt.Errorf("iperf3: %w", err)
	}
	if r.Error != "" {
		return 0, errors.New("iperf3: " + r.Error)
	}
	return r.End.Received.BitsPerSecond / 1e6, nil
}

// floodTime is how long datagrams are sent for each count.
const floodTime = time.Second

// udp floods, and then looks for the highest rate that arrives.
func (v *visit) udp(ctx context.Context) error {
	_, got, err := v.flood(ctx, 0)
	if err != nil {
		return err
	}
	rate := float64(got) / floodTime.Seconds()
	v.note(bench.UDPFlood, rate, 0)
	low, high, best := rate/4, rate*2, 0.0
	for range v.o.steps {
		try := (low + high) / 2
		sent, got, err := v.flood(ctx, int(try))
		if err != nil {
			return err
		}
		if sent > 0 && float64(got) >= 0.99*float64(sent) && float64(sent) > 0.9*try*floodTime.Seconds() {
			low, best = try, max(best, float64(got)/floodTime.Seconds())
		} else {
			high = try
		}
	}
	v.note(bench.UDPLoss1, best, 0)
	return nil
}

// flood sends datagrams, rate a second (0 = as many as go), and counts what arrives.
func (v *visit) flood(ctx context.Context, rate int) (sent, got int, err error) {
	sink, err := v.talk(1, "sink", v.target+":6001")
	if err != nil {
		return 0, 0, err
	}
	defer v.wire.end(sink.proc)
	out, err := v.wire.in(ctx, 0, v.self(), childMark, "flood", v.local+":0", v.target+":6001", fmt.Sprint(rate))
	if err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscan(out, &sent); err != nil {
		return 0, 0, fmt.Errorf("flood said %q: %w", out, err)
	}
	line, err := sink.finish()
	if err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscan(line, &got)
	return sent, got, err
}

func (v *visit) roundTrips(ctx context.Context) error {
	pong, err := v.talk(1, "pong", v.target+":6002")
	if err != nil {
		return err
	}
	defer v.wire.end(pong.proc)
	out, err := v.wire.in(ctx, 0, v.self(), childMark, "ping", v.local+":0", v.target+":6002")
	if err != nil {
		return err
	}
	var p50, p99 float64
	if _, err := fmt.Sscan(out, &p50, &p99); err != nil {
		return fmt.Errorf("ping said %q: %w", out, err)
	}
	v.note(bench.RTT50, p50, 0)
	v.note(bench.RTT99, p99, 0)
	return nil
}

// self is this program, which also is its own traffic.
func (v *visit) self() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}
