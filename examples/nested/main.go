// Command nested shows nested virtualisation: containers in virtual machines on physical
// ones. Two physical machines stand on one provider network, a bridge in each joins its
// virtual machines, and each of these has an Open vSwitch and a vias node of its own for
// its containers. All are network namespaces; where LXC can start them, each virtual
// machine has a system container too.
//
// It prints who reaches whom and how, proven by the switches' counters, and measures a
// connection of two virtual machines, on one physical machine and on two, three ways:
// forwarded by their switches alone (native), over the encrypted overlay, and bypassed.
//
// It needs root on Linux and what make deps installs. The exit code is 0, 1 when something
// failed, 2 when there can be no lab here.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/viasnet/vias/internal/lab"
)

// teardownTimeout bounds the removal of everything.
const teardownTimeout = 60 * time.Second

type flags struct {
	lab        lab.Config
	measure    lab.MeasureConfig
	keep, down bool
	noLXC      bool
}

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
	fmt.Fprintln(os.Stderr, "nested:", err)
	os.Exit(1)
}

// parse reads the command line; nil: the program ends with that code.
func parse(args []string) (*flags, int) {
	f := &flags{lab: lab.Config{Hosts: 3, Machines: 2, Containers: 1, Prefix: "viasn-"}}
	set := flag.NewFlagSet("nested", flag.ContinueOnError)
	set.StringVar(&f.lab.Prefix, "prefix", f.lab.Prefix, "beginning of all namespaces' names")
	set.IntVar(&f.lab.Hosts, "vms", f.lab.Hosts, "virtual machines, dealt out to two physical ones")
	set.IntVar(&f.lab.Containers, "containers", f.lab.Containers, "containers in each virtual machine, beside LXC's")
	set.DurationVar(&f.measure.Duration, "duration", 2*time.Second, "of each iperf3 run, whole seconds")
	set.IntVar(&f.measure.Rounds, "rounds", 3, "rounds of the measurements")
	set.BoolVar(&f.noLXC, "no-lxc", false, "no system containers")
	set.BoolVar(&f.keep, "keep", false, "leave the lab up until SIGINT or SIGTERM")
	set.BoolVar(&f.down, "down", false, "remove what a crashed run left, and end")
	verbose := set.Bool("v", false, "tell every step")
	switch err := set.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil, 0
	case err != nil:
		return nil, 2
	}
	if set.NArg() > 0 || f.measure.Duration < time.Second || f.measure.Rounds < 1 || f.lab.Hosts < 3 {
		fmt.Fprintln(os.Stderr, "nested: no arguments but flags; -duration 1s or more; -rounds 1 or more; -vms 3 or more")
		return nil, 2
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	f.lab.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	return f, 0
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

// run builds, shows, keeps and removes.
func run(ctx context.Context, f *flags) (err error) {
	if err := lab.Ready(); err != nil {
		return err
	}
	var why error
	if !f.noLXC {
		why = lab.LXCWorks(ctx)
		f.lab.LXC = why == nil
	}
	l, err := lab.Up(ctx, f.lab)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownTimeout)
		defer cancel()
		err = errors.Join(err, l.Down(ctx))
	}()
	program := filepath.Join(l.Dir(), "node")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/viasnet/vias/examples/node")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: build examples/node (inside the module): %w: %s", lab.ErrLab, err, out)
	}
	if err := l.StartNodes(ctx, program); err != nil {
		return err
	}
	if err := show(ctx, l, f, why); err != nil {
		return err
	}
	if f.keep {
		l.Describe(os.Stdout)
		fmt.Println("the lab is up; SIGINT or SIGTERM removes it")
		<-ctx.Done()
	}
	return nil
}

// show is the demonstration. why says what keeps LXC from working here, if it was asked for.
func show(ctx context.Context, l *lab.Lab, f *flags, why error) error {
	fmt.Printf("%d virtual machines on 2 physical ones; h1c2 is container 2 of virtual machine 1:\n", f.lab.Hosts)
	r, err := l.Reach(ctx)
	if err != nil {
		return err
	}
	r.Print(os.Stdout)
	for _, p := range []struct {
		what string
		k    int
	}{{"one physical machine", 3}, {"two physical machines", 2}} {
		fmt.Printf("\nvirtual machines 1 and %d, on %s:\n", p.k, p.what)
		if err := again(ctx, func() error { return measure(ctx, l.Between(1, p.k, 1), f) }); err != nil {
			return err
		}
	}
	fmt.Println()
	switch {
	case why != nil:
		fmt.Println("no system containers:", why)
		return nil
	case !f.lab.LXC:
		return nil
	}
	return systems(ctx, l, f)
}

// systems shows the system containers.
func systems(ctx context.Context, l *lab.Lab, f *flags) error {
	fmt.Println("system containers by LXC, from a program in the one to a service of the other:")
	for _, k := range []int{3, 2} {
		err := again(ctx, func() error {
			s, err := l.SystemContainers(ctx, 1, k, f.measure.Duration)
			if err == nil {
				fmt.Printf("%s to %s: %.0f Mbit/s, bypassed, %s\n", s.From, s.To, s.Mbps, s.Proof)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func measure(ctx context.Context, l *lab.Lab, f *flags) error {
	m, err := l.Measure(ctx, f.measure)
	if err != nil {
		return err
	}
	m.Print(os.Stdout)
	if m.Failed() {
		return errors.New("a row failed its proof")
	}
	return nil
}

// again does something up to three times: where other programs leave no processor to the
// switches, probes go unanswered for a second, and what is measured leaves the bypass.
func again(ctx context.Context, do func() error) (err error) {
	for try := 1; try <= 3; try++ {
		if err = do(); err == nil || ctx.Err() != nil {
			return err
		}
		fmt.Printf("try %d: %v\n", try, err)
	}
	return err
}
