//go:build linux

// Evaluate repeats the evaluation of the paper on VIAS: throughput, latency and CPU of TCP and UDP
// within a cloud and between two, and what setting up flows costs by their number. It builds
// labs of hosts with Open vSwitch, and removes them; it needs root and Linux (make evaluate
// installs what else it needs).
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/viasnet/vias/bench"
	"github.com/viasnet/vias/bench/internal/measure"
)

func main() {
	if is, err := measure.Child(os.Args, os.Stdin, os.Stdout); is {
		end(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	end(err)
}

func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "evaluate:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// run measures, and writes the page. What failed is an error behind it.
func run(ctx context.Context, args []string, out, progress io.Writer) error {
	o := measure.Options{Progress: progress}
	f := flag.NewFlagSet("evaluate", flag.ExitOnError)
	peers := f.String("peers", strings.Join(measure.Names(measure.Clouds()), ","), "which, in this order")
	modes := f.String("modes", strings.Join([]string{bench.ModeIntra, bench.ModeInter, bench.ModeSetUp}, ","), "what is measured")
	flows := f.String("flows", "10,100,1000,5000", "numbers of flows that are set up, in mode setup")
	f.IntVar(&o.Rounds, "rounds", 3, "how often each")
	f.IntVar(&o.Seconds, "seconds", 2, "of each TCP test")
	f.IntVar(&o.Steps, "steps", 4, "of the search for the rate of datagrams, 1 s each")
	f.StringVar(&o.Bin, "bin", ".cache/bench", "where programs are built")
	dir := f.String("out", "", "directory for evaluation.json, evaluation.md and plots; \"\" = the page alone, to the terminal")
	if err := f.Parse(args); err != nil {
		return err
	}
	var err error
	if o.Peers, err = measure.Choose(measure.Clouds(), *peers); err != nil {
		return err
	}
	o.Command = fmt.Sprintf("go run ./bench/evaluate -modes %s -flows %s -rounds %d -seconds %d -steps %d", *modes, *flows, o.Rounds, o.Seconds, o.Steps)
	o.Modes = strings.Split(*modes, ",")
	if i := slices.Index(o.Modes, bench.ModeSetUp); i >= 0 {
		o.Modes = slices.Delete(o.Modes, i, i+1)
		for n := range strings.SplitSeq(*flows, ",") {
			count, err := strconv.Atoi(n)
			if err != nil {
				return fmt.Errorf("-flows: %w", err)
			}
			o.Flows = append(o.Flows, count)
		}
	}
	r, err := measure.Run(ctx, o)
	if err != nil {
		return err
	}
	if err := bench.Evaluation().Write(r, *dir, out); err != nil {
		return err
	}
	if len(r.Failed) > 0 {
		return fmt.Errorf("failed: %s", strings.Join(r.Failed, "; "))
	}
	return nil
}
