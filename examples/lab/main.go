// Command lab builds hosts and containers out of network namespaces, with one Open
// vSwitch and one vias node per host, and measures one TCP connection three ways:
// plainly forwarded (native), over the encrypted overlay, and bypassed. A row counts
// only with its proof from the switches' and the TAPs' counters. With -matrix it measures
// TCP and UDP over IPv4 and IPv6 that way, on one datapath of Open vSwitch after the other.
//
// It needs root on Linux, Open vSwitch, iperf3, nftables and iproute2 (make deps).
// The exit code is 0, 1 when a row failed, the transfer did not survive or something
// broke, 2 when there can be no lab here or the arguments are wrong.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/viasnet/vias/internal/lab"
)

// flags of the command line.
type flags struct {
	lab        lab.Config
	measure    lab.MeasureConfig
	matrix     bool
	latency    bool
	datapaths  []lab.Datapath
	json, node string
	keep, down bool
	survive    bool
}

// teardownTimeout bounds the removal of everything.
const teardownTimeout = 60 * time.Second

func main() {
	if mine, err := lab.Child(os.Args[1:], os.Stdin, os.Stdout); mine {
		exit(err)
	}
	f, code := parse(os.Args[1:])
	if f == nil {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if f.down {
		exit(down(ctx, f))
	}
	if f.matrix {
		exit(matrix(ctx, f))
	}
	exit(run(ctx, f))
}

// exit ends the program with one line for an error.
func exit(err error) {
	switch {
	case err == nil:
		os.Exit(0)
	case errors.Is(err, lab.ErrLab):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, "lab:", err)
	os.Exit(1)
}

// parse reads the command line; nil: the program ends with that code.
func parse(args []string) (*flags, int) {
	f := &flags{}
	set := flag.NewFlagSet("lab", flag.ContinueOnError)
	set.IntVar(&f.lab.Hosts, "hosts", 2, "hosts")
	set.IntVar(&f.lab.Containers, "containers", 1, "containers on each host")
	set.Func("datapath", "of the switches: tso (default), plain, afxdp or, with the kernel's module openvswitch, system; with -matrix a `list`, by default all but system", func(text string) error {
		for _, name := range strings.Split(text, ",") {
			f.datapaths = append(f.datapaths, lab.Datapath(name))
		}
		return nil
	})
	set.BoolVar(&f.matrix, "matrix", false, "measure TCP and UDP over IPv4 and IPv6, instead of TCP over IPv4 (default -duration 2s -rounds 3)")
	set.BoolVar(&f.latency, "latency", false, "measure round trips, first requests and short connections instead of throughput (-duration is that of the short connections of each kind)")
	set.Func("endpoints", "how nodes come by their endpoints and uplink: ids (default: by discovery, from external_ids), learning (by discovery, from the containers' frames) or config", func(text string) error {
		if f.lab.Found = lab.Found(text); !slices.Contains([]lab.Found{lab.ByIDs, lab.ByLearning, lab.ByConfig}, f.lab.Found) {
			return errors.New("none of ids, learning, config")
		}
		return nil
	})
	f.lab.Found = lab.ByIDs
	set.IntVar(&f.lab.MTU, "mtu", 0, "containers' MTU, up to the provider's (default 1400)")
	set.IntVar(&f.lab.UnderlayMTU, "underlay-mtu", 0, "the provider's MTU (default 1500)")
	set.StringVar(&f.lab.Prefix, "prefix", "vias-", "beginning of all namespaces' names")
	set.DurationVar(&f.measure.Duration, "duration", 5*time.Second, "of each iperf3 run, whole seconds")
	set.IntVar(&f.measure.Rounds, "rounds", 5, "rounds; 0 = measure nothing")
	set.BoolVar(&f.measure.NativeOnly, "native-only", false, "no nodes: only the native row")
	set.StringVar(&f.json, "json", "", "write the result to this `file`")
	set.StringVar(&f.node, "node", "", "node `program`; default: build examples/node")
	set.BoolVar(&f.survive, "survive", true, "then run a transfer that survives a killed node, a killed switch and a cut underlay (-rounds 0 leaves it out too)")
	set.BoolVar(&f.keep, "keep", false, "leave the lab up until SIGINT or SIGTERM")
	set.BoolVar(&f.down, "down", false, "remove what a crashed lab left, and end")
	verbose := set.Bool("v", false, "tell every step")
	switch err := set.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil, 0
	case err != nil:
		return nil, 2
	}
	if set.NArg() > 0 || f.measure.Duration < time.Second || f.measure.Duration%time.Second != 0 || f.measure.Rounds < 0 ||
		f.lab.Hosts < 2 || f.lab.Containers < 1 {
		fmt.Fprintln(os.Stderr, "lab: no arguments but flags; -duration in whole seconds, 1s or more; -rounds 0 or more; -hosts 2 or more; -containers 1 or more")
		return nil, 2
	}
	if !f.complete(set) {
		fmt.Fprintln(os.Stderr, "lab: several datapaths go with -matrix only, which goes with neither -native-only, -keep, -json nor -rounds 0")
		return nil, 2
	}
	if f.latency && (f.matrix || f.measure.NativeOnly || f.json != "" || f.measure.Rounds == 0) {
		fmt.Fprintln(os.Stderr, "lab: -latency goes with neither -matrix, -native-only, -json nor -rounds 0")
		return nil, 2
	}
	f.survive = f.survive && !f.latency && f.measure.Rounds > 0 && !f.measure.NativeOnly
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	f.lab.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	return f, 0
}

// complete fills in what depends on other flags; false = they contradict each other.
func (f *flags) complete(set *flag.FlagSet) bool {
	if !f.matrix {
		if len(f.datapaths) == 1 {
			f.lab.Datapath = f.datapaths[0]
		}
		return len(f.datapaths) < 2
	}
	given := map[string]bool{}
	set.Visit(func(g *flag.Flag) { given[g.Name] = true })
	if !given["duration"] {
		f.measure.Duration = 2 * time.Second
	}
	if !given["rounds"] {
		f.measure.Rounds = 3
	}
	if len(f.datapaths) == 0 {
		f.datapaths = lab.Datapaths()
	}
	return f.measure.Rounds > 0 && !f.measure.NativeOnly && !f.keep && f.json == ""
}

func down(ctx context.Context, f *flags) error {
	if err := lab.Ready(); err != nil {
		return err
	}
	err := lab.Down(ctx, f.lab)
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Println("there is no lab to remove")
		return nil
	}
	return err
}

// run builds, measures, keeps and removes. A signal ends it early at any point, and
// everything is removed all the same.
func run(ctx context.Context, f *flags) (err error) {
	l, err := lab.Up(ctx, f.lab)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownTimeout)
		defer cancel()
		err = errors.Join(err, l.Down(ctx))
	}()
	if !f.measure.NativeOnly {
		program, err := nodeProgram(ctx, f.node, l.Dir())
		if err != nil {
			return err
		}
		if err := l.StartNodes(ctx, program); err != nil {
			return err
		}
	}
	switch {
	case f.latency:
		err = latency(ctx, l, f)
	case f.measure.Rounds > 0:
		err = measure(ctx, l, f)
	}
	if f.survive && ctx.Err() == nil {
		err = errors.Join(err, survive(ctx, l))
	}
	if f.keep && ctx.Err() == nil {
		l.Describe(os.Stdout)
		fmt.Println("the lab is up; SIGINT or SIGTERM removes it")
		<-ctx.Done()
	}
	return err
}

// errFailed: a row does not count.
var errFailed = errors.New("a row failed its proof")

func measure(ctx context.Context, l *lab.Lab, f *flags) error {
	f.measure.Progress = func(round int, m lab.Mode, s lab.Sample) {
		if s.Fail != "" {
			fmt.Printf("round %d %-7s FAIL %s\n", round, m, s.Fail)
			return
		}
		fmt.Printf("round %d %-7s %6.0f Mbit/s  p50 %.1f µs  p99 %.1f µs  %s\n", round, m, s.Mbps, s.RTT.P50Micros, s.RTT.P99Micros, s.Proof)
	}
	r, err := l.Measure(ctx, f.measure)
	if err != nil {
		return err
	}
	fmt.Println()
	r.Print(os.Stdout)
	if f.json != "" {
		text, err := json.MarshalIndent(r.Counting(), "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(f.json, append(text, '\n'), 0o644); err != nil {
			return err
		}
	}
	if r.Failed() {
		return errFailed
	}
	return nil
}

// survive runs the transfer, one line for each thing that happens to it.
func survive(ctx context.Context, l *lab.Lab) error {
	fmt.Println()
	fmt.Println("one transfer, both ways at once, bypassed; what happens to it:")
	r, err := l.Survive(ctx, func(b lab.Blow) { fmt.Println(b) })
	if err != nil {
		return err
	}
	r.Print(os.Stdout)
	return nil
}

// nodeProgram is the program that each host runs; if none was named it is built
// into dir, which goes with the lab.
func nodeProgram(ctx context.Context, named, dir string) (string, error) {
	if named != "" {
		path, err := filepath.Abs(named)
		if err == nil {
			_, err = os.Stat(path)
		}
		if err != nil {
			return "", fmt.Errorf("%w: -node: %w", lab.ErrLab, err)
		}
		return path, nil
	}
	path := filepath.Join(dir, "node")
	build := exec.CommandContext(ctx, "go", "build", "-o", path, "github.com/viasnet/vias/examples/node")
	out, err := build.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: build examples/node (inside the module; or give -node): %w: %s", lab.ErrLab, err, bytes.TrimSpace(out))
	}
	return path, nil
}
