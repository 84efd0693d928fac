//go:build linux

// Run measures overlays side by side: the same tests over the bare wire, kernel VXLAN, vias
// and other overlays, by turns, in network namespaces that it makes and removes. It needs
// root and Linux; what it lacks it says before it begins (make bench installs it).
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
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
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	o := measure.Options{Progress: progress}
	f := flag.NewFlagSet("run", flag.ExitOnError)
	peers := f.String("peers", strings.Join(measure.Names(measure.Overlays()), ","), "which, in this order")
	modes := f.String("modes", strings.Join(bench.Modes(), ","), "of the wire")
	f.IntVar(&o.Rounds, "rounds", 3, "how often each")
	f.IntVar(&o.Seconds, "seconds", 3, "of each TCP test")
	f.IntVar(&o.Steps, "steps", 5, "of the search for the rate of datagrams with 1 % of loss, 1 s each")
	f.StringVar(&o.Bin, "bin", ".cache/bench", "where programs are that are not in the PATH, and are built")
	dir := f.String("out", "", "directory for overlay.json, overlay.md and plots; \"\" = the table alone, to the terminal")
	if err := f.Parse(args); err != nil {
		return err
	}
	var err error
	if o.Peers, err = measure.Choose(measure.Overlays(), *peers); err != nil {
		return err
	}
	o.Modes = strings.Split(*modes, ",")
	o.Command = fmt.Sprintf("go run ./bench/run -peers %s -modes %s -rounds %d -seconds %d", *peers, *modes, o.Rounds, o.Seconds)
	r, err := measure.Run(ctx, o)
	if err != nil {
		return err
	}
	return bench.Overlays().Write(r, *dir, out)
}
