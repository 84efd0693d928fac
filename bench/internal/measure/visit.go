//go:build linux

package measure

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
	o      Options
	peer   Peer
	mode   string
	round  int
	report *bench.Report

	wire    wire
	target  string // b's address, as tests have it
	local   string // a's
	flooded int    // datagrams that arrived in floodTime of as many as went
}

// maxForeign is how many processors other programs may take during a TCP test, or it is
// made again, twice at most.
const maxForeign = 0.25

func (v *visit) run(ctx context.Context) (err error) {
	fmt.Fprintf(v.o.Progress, "%s, round %d, %s\n", v.mode, v.round, v.peer.name)
	defer func() { err = errors.Join(err, v.wire.close()) }()
	if err := v.up(ctx); err != nil {
		return err
	}
	for _, test := range v.tests() {
		if err := test(ctx); err != nil {
			return err
		}
	}
	if peak := v.wire.peak(); peak > 0 {
		v.note(bench.RSS, peak, 0)
	}
	return nil
}

// up makes the wire and has the peer carry packets over it.
func (v *visit) up(ctx context.Context) error {
	if err := v.wire.begin(); err != nil {
		return err
	}
	if v.wire.middle = v.peer.middle; !v.peer.lab {
		if err := v.wire.open(ctx, v.mode); err != nil {
			return err
		}
	}
	if err := v.peer.up(ctx, &v.wire, v.o.Bin); err != nil {
		return fmt.Errorf("it does not come up: %w", err)
	}
	v.local, v.target = v.wire.addr(0), v.wire.addr(1)
	if v.peer.bare {
		v.local, v.target = wireA, wireB
	}
	err := poll(ctx, 15*time.Second, func() bool {
		_, err := v.wire.in(ctx, 0, "ping", "-c1", "-W1", "-I", v.local, v.target)
		return err == nil
	})
	if err != nil {
		return fmt.Errorf("no answer to ping: %s", v.wire.logs())
	}
	if v.wire.crossed == nil {
		return nil
	}
	// A bypass is to be had when its path is proven.
	err = poll(ctx, 15*time.Second, func() bool {
		_, _, e := v.iperf(ctx, 1, 1)
		return !errors.Is(e, errWay)
	})
	if err != nil {
		return fmt.Errorf("packets do not take the way that they should: %w", err)
	}
	return nil
}

// tests are what is measured in the visit's mode: small packets are no different without
// super-frames, so the search for their best rate is made once.
func (v *visit) tests() []func(context.Context) error {
	list := []func(context.Context) error{
		func(ctx context.Context) error { return v.tcp(ctx, 1, bench.TCP1, bench.TCP1CPU) },
		func(ctx context.Context) error { return v.tcp(ctx, 4, bench.TCP4, bench.TCP4CPU) },
	}
	switch {
	case v.mode == bench.ModeIntra || v.mode == bench.ModeInter:
		return append(list, v.udpBulk, v.roundTrips)
	case bench.Loss(v.mode) > 0:
		return list
	}
	list = append(list, v.udp)
	if v.mode == bench.ModeDefault {
		list = append(list, v.udpRate)
	}
	return append(list, v.roundTrips)
}

func (v *visit) note(test string, value, foreign float64) {
	v.report.Rows = append(v.report.Rows, bench.Row{Mode: v.mode, Round: v.round, Peer: v.peer.name, Test: test, Value: value, Foreign: foreign})
	fmt.Fprintf(v.o.Progress, "  %-12s %10.1f\n", test, value)
}

// tcp has iperf3 send for some seconds.
func (v *visit) tcp(ctx context.Context, streams int, test, cpu string) error {
	for try := 1; ; try++ {
		mbit, u, err := v.iperf(ctx, streams, v.o.Seconds)
		if err != nil {
			return fmt.Errorf("%s: %w", test, err)
		}
		foreign := u.foreign / u.took.Seconds()
		if foreign > maxForeign && try < 3 {
			continue
		}
		v.note(test, mbit, foreign)
		if mbit > 0 {
			v.note(cpu, u.ours/(mbit*float64(v.o.Seconds)/8000), foreign)
		}
		return nil
	}
}

// errWay: packets went over the overlay, or did not, against what the peer is to show.
var errWay = errors.New("packets went another way")

func (v *visit) iperf(ctx context.Context, streams, seconds int) (mbit float64, u usage, err error) {
	var crossed uint64
	if v.wire.crossed != nil {
		if crossed, err = v.wire.crossed(); err != nil {
			return 0, u, err
		}
	}
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
	limit, cancel := context.WithTimeout(ctx, time.Duration(seconds+15)*time.Second)
	defer cancel()
	out, self, err := v.wire.counted(limit, 0, "iperf3", "-J", "-c", v.target, "-B", v.local, "-t", fmt.Sprint(seconds), "-P", fmt.Sprint(streams))
	if err != nil {
		return 0, u, err
	}
	u = v.wire.usage().since(before, self)
	if mbit, err = received([]byte(out)); err != nil || v.wire.crossed == nil {
		return mbit, u, err
	}
	after, err := v.wire.crossed()
	share := float64(after-crossed) / max(1, mbit*1e6/8*float64(seconds))
	if least, most := v.peer.tunnelled[0], v.peer.tunnelled[1]; err == nil && (share < least || share > most) {
		err = fmt.Errorf("%w: the overlay carried %.3f of the bytes", errWay, share)
	}
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

// udp floods.
func (v *visit) udp(ctx context.Context) (err error) {
	f, err := v.flood(ctx, 0, smallDatagram)
	v.flooded = f.got
	if err == nil {
		v.note(bench.UDPFlood, float64(f.got)/floodTime.Seconds(), 0)
	}
	return err
}

// udpBulk looks for the most that datagrams of some length carry, with 1 % of loss beside what
// the wire loses.
func (v *visit) udpBulk(ctx context.Context) error {
	f, err := v.flood(ctx, 0, bulkDatagram)
	if err != nil {
		return err
	}
	best, cpu, err := v.search(ctx, 0, 2*float64(f.got)/floodTime.Seconds(), bulkDatagram, 0.01+float64(bench.Loss(v.mode))/100)
	if err != nil {
		return err
	}
	if best == 0 {
		return fmt.Errorf("%s: the search found no rate that arrives", bench.UDPBulk)
	}
	v.note(bench.UDPBulk, best*bulkDatagram*8/1e6, 0)
	v.note(bench.UDPBulkCPU, cpu/(best*bulkDatagram/1e9), 0)
	return nil
}

// udpRate looks for the highest rate that arrives, around that of the flood.
func (v *visit) udpRate(ctx context.Context) error {
	rate := float64(v.flooded) / floodTime.Seconds()
	best, _, err := v.search(ctx, rate/4, 2*rate, smallDatagram, 0.01)
	if err != nil {
		return err
	}
	v.note(bench.UDPLoss1, best, 0)
	return nil
}

// moreSteps are made while no rate was low enough.
const moreSteps = 4

// search looks for the highest rate of which no more than a share is lost, and for the CPU time
// that a second of it takes.
func (v *visit) search(ctx context.Context, low, high float64, size int, lost float64) (best, cpu float64, err error) {
	for i := 0; i < v.o.Steps || low == 0 && i < v.o.Steps+moreSteps; i++ {
		try := (low + high) / 2
		f, err := v.flood(ctx, int(try), size)
		if err != nil {
			return 0, 0, err
		}
		if f.sent == 0 || float64(f.got) < (1-lost)*float64(f.sent) || float64(f.sent) <= 0.9*try*floodTime.Seconds() {
			high = try
			continue
		}
		if low = try; float64(f.got)/floodTime.Seconds() > best {
			best, cpu = float64(f.got)/floodTime.Seconds(), f.cpu/floodTime.Seconds()
		}
	}
	return best, cpu, nil
}

// flooding is what became of datagrams.
type flooding struct {
	sent, got int
	cpu       float64 // seconds: both ends, the overlay, interrupts
}

// flood sends datagrams, rate a second (0 = as many as go), and counts what arrives.
func (v *visit) flood(ctx context.Context, rate, size int) (f flooding, err error) {
	sink, err := v.talk(1, "sink", v.target+":6001")
	if err != nil {
		return f, err
	}
	defer v.wire.end(sink.proc)
	before := v.wire.usage()
	out, self, err := v.wire.counted(ctx, 0, v.self(), childMark, "flood", v.local+":0", v.target+":6001", fmt.Sprint(rate), fmt.Sprint(size))
	if err != nil {
		return f, err
	}
	f.cpu = v.wire.usage().since(before, self).ours
	if _, err := fmt.Sscan(out, &f.sent); err != nil {
		return f, fmt.Errorf("flood said %q: %w", out, err)
	}
	line, err := sink.finish()
	if err != nil {
		return f, err
	}
	_, err = fmt.Sscan(line, &f.got)
	return f, err
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
