//go:build linux

// Run measures overlays side by side: the same tests over the bare wire, kernel VXLAN, vias
// and other overlays, by turns, in network namespaces that it makes and removes. It needs
// root and Linux; what it lacks it says before it begins (make bench installs it).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/viasnet/vias/bench"
)

// options are the flags.
type options struct {
	peers, modes string
	rounds       int
	seconds      int
	steps        int
	bin, out     string
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == childMark {
		if err := child(os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.peers, "peers", strings.Join(known(), ","), "which, in this order")
	flag.StringVar(&o.modes, "modes", bench.ModeDefault+","+bench.ModeNIC, "of the wire")
	flag.IntVar(&o.rounds, "rounds", 3, "how often each")
	flag.IntVar(&o.seconds, "seconds", 3, "of each TCP test")
	flag.IntVar(&o.steps, "steps", 5, "of the search for the rate of datagrams with 1 % of loss, 1 s each")
	flag.StringVar(&o.bin, "bin", ".cache/bench", "where programs are that are not in the PATH, and are built")
	flag.StringVar(&o.out, "out", "", "directory for overlay.json, overlay.md and plots; \"\" = the table alone, to the terminal")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures everything; what it has when ctx ends is thrown away.
func run(ctx context.Context, o options, out, progress io.Writer) error {
	peers, err := choose(o.peers)
	if err != nil {
		return err
	}
	modes := strings.Split(o.modes, ",")
	for _, m := range modes {
		if m != bench.ModeDefault && m != bench.ModeNIC {
			return fmt.Errorf("there is no mode %q: default, nic", m)
		}
	}
	if o.rounds < 1 || o.seconds < 1 {
		return errors.New("-rounds and -seconds are 1 or more")
	}
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return err
	}
	if err := ready(ctx, o.bin, peers); err != nil {
		return err
	}
	r := &bench.Report{Began: time.Now(), Machine: machine(), Versions: versions(ctx, o.bin, peers),
		Command: fmt.Sprintf("go run ./bench/run -peers %s -modes %s -rounds %d -seconds %d", o.peers, o.modes, o.rounds, o.seconds)}
	for _, mode := range modes {
		for round := 1; round <= o.rounds; round++ {
			for _, p := range peers {
				v := &visit{o: o, peer: p, mode: mode, round: round, report: r, progress: progress}
				if err := v.run(ctx); err != nil && ctx.Err() == nil {
					r.Failed = append(r.Failed, fmt.Sprintf("%s, %s, round %d: %v", p.name, mode, round, err))
					fmt.Fprintln(progress, "  failed:", err)
				}
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
			}
		}
	}
	return write(r, o.out, out)
}

// write leaves the report in a directory, or prints it.
func write(r *bench.Report, dir string, out io.Writer) error {
	if dir == "" {
		return r.WriteMarkdown(out)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := r.Save(filepath.Join(dir, "overlay.json")); err != nil {
		return err
	}
	file := func(name string, f func(io.Writer) error) error {
		w, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		return errors.Join(f(w), w.Close())
	}
	errs := []error{file("overlay.md", r.WriteMarkdown)}
	for _, mode := range r.Modes() {
		for test, title := range map[string]string{
			bench.TCP1: "TCP, one stream, Mbit/s", bench.TCP4: "TCP, four streams, Mbit/s", bench.TCP1CPU: "CPU seconds for each GB, one stream",
			bench.UDPFlood: "UDP, 64 bytes, datagrams a second", bench.RTT50: "Round trip, median, µs",
		} {
			errs = append(errs, file(fmt.Sprintf("%s-%s.svg", strings.ReplaceAll(test, ".", "-"), mode), func(w io.Writer) error {
				return r.WriteSVG(w, mode, test, title+" ("+mode+")")
			}))
		}
	}
	return errors.Join(errs...)
}
