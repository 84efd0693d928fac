//go:build linux

// Package measure runs the tests that bench/run and bench/evaluate show: the same ones over
// whatever carries packets from one side to the other, by turns, in network namespaces that it
// makes and removes. It needs root.
package measure

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/viasnet/vias/bench"
)

// Options say what is measured. Rounds and Seconds must be 1 or more.
type Options struct {
	Peers   []Peer
	Modes   []string // of package bench
	Rounds  int      // how often each
	Seconds int      // of each TCP test
	Steps   int      // of a search for a rate of datagrams, 1 s each
	Flows   []int    // how many are set up at once, for each measurement of that; nil = none
	// Bin is where programs are that are not in the PATH, and are built.
	Bin string
	// Command is what the Report says that it was made by.
	Command string
	// Progress is told what is measured.
	Progress io.Writer
}

func (o *Options) check() error {
	known := append(bench.Modes(), bench.ModeIntra, bench.ModeInter)
	for _, m := range o.Modes {
		if !slices.Contains(known, m) {
			return fmt.Errorf("there is no mode %q: %s", m, strings.Join(known, ", "))
		}
	}
	for _, n := range o.Flows {
		if n < 1 || n > 10000 {
			return fmt.Errorf("%d flows at once: want 1 to 10000", n)
		}
	}
	if o.Rounds < 1 || o.Seconds < 1 {
		return fmt.Errorf("%d rounds of %d seconds: want 1 or more", o.Rounds, o.Seconds)
	}
	var err error
	o.Bin, err = filepath.Abs(o.Bin)
	return err
}

// Run measures everything; what it has when ctx ends is thrown away. Peers that do not come up, and
// tests that fail, are no error but in the Report.
func Run(ctx context.Context, o Options) (*bench.Report, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := ready(ctx, o.Bin, o.Peers); err != nil {
		return nil, err
	}
	r := &bench.Report{Began: time.Now(), Machine: machine(), Versions: versions(ctx, o.Bin, o.Peers), Command: o.Command}
	failed := func(what string, round int, err error) {
		if err == nil || ctx.Err() != nil {
			return
		}
		r.Failed = append(r.Failed, fmt.Sprintf("%s, round %d: %v", what, round, err))
		fmt.Fprintln(o.Progress, "  failed:", err)
	}
	for _, mode := range o.Modes {
		for round := 1; round <= o.Rounds; round++ {
			for _, p := range o.Peers {
				if !p.in(mode) {
					continue
				}
				v := &visit{o: o, peer: p, mode: mode, round: round, report: r}
				failed(p.name+", "+mode, round, v.run(ctx))
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
			}
		}
	}
	for round := 1; len(o.Flows) > 0 && round <= o.Rounds; round++ {
		for _, n := range o.Flows {
			what := fmt.Sprintf("%d flows", n)
			fmt.Fprintf(o.Progress, "%s, round %d, %s\n", bench.ModeSetUp, round, what)
			failed(what, round, setUp(ctx, o, n, round, r))
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
		}
	}
	return r, nil
}
