// Command clouds shows one network across two clouds and a home, out of network namespaces: two hosts in
// cloud A, on one subnet; two in cloud B, on two subnets behind a router; and one at home behind a symmetric
// NAT. A and B use the same private range. Each host has an Open vSwitch, a container and a vias node, which
// is told its identity, the network's name, one rendezvous and its membership.
//
// All containers talk to all, and a matrix shows how: pairs inside of a cloud natively, by the rules
// of both switches, the others encrypted, directly or by a relay. Meanwhile a node joins, its container moves to
// the other cloud with its connections, and the node leaves. In the end everything is asserted: paths,
// checksums, that nothing was in clear outside of a cloud, and that nothing is left.
//
// It needs root on Linux and what make deps installs. The exit code is 0, 1 when something was not as it
// should be, 2 when there can be no lab here.
package main

import (
	"bytes"
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

type flags struct {
	clouds     lab.CloudsConfig
	keep, down bool
	json       string
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

// exit ends the program.
func exit(err error) {
	switch {
	case err == nil:
		os.Exit(0)
	case errors.Is(err, lab.ErrLab):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "clouds: interrupted; everything is removed")
		os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, "clouds:", err)
	os.Exit(1)
}

// parse reads the command line; nil: the program ends with that code.
func parse(args []string) (*flags, int) {
	// Five hosts, their switches and their guests share the cores of one machine: a probe waits for its turn
	// longer than in any network.
	f := &flags{clouds: lab.CloudsConfig{MaxRTT: 500 * time.Millisecond}}
	set := flag.NewFlagSet("clouds", flag.ContinueOnError)
	set.StringVar(&f.clouds.Prefix, "prefix", "viasc-", "beginning of all namespaces' names")
	set.StringVar(&f.clouds.Program, "node", "", "node `program`; default: build examples/node")
	set.DurationVar(&f.clouds.Settle, "settle", 5*time.Second, "how long all must stay as it should be in each stage")
	set.StringVar(&f.json, "json", "", "write the result to this `file`")
	set.BoolVar(&f.keep, "keep", false, "leave the clouds up until SIGINT or SIGTERM")
	set.BoolVar(&f.down, "down", false, "remove what a crashed run left, and end")
	verbose := set.Bool("v", false, "tell every step")
	switch err := set.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil, 0
	case err != nil:
		return nil, 2
	}
	if set.NArg() > 0 || f.clouds.Settle < time.Second {
		fmt.Fprintln(os.Stderr, "clouds: no arguments but flags; -settle 1s or more")
		return nil, 2
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	f.clouds.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	return f, 0
}

func down(ctx context.Context, f *flags) error {
	if err := lab.Ready(); err != nil {
		return err
	}
	err := lab.Down(ctx, lab.Config{Prefix: f.clouds.Prefix})
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Println("there are no clouds to remove")
		return nil
	}
	return err
}

func run(ctx context.Context, f *flags) error {
	if err := lab.Ready("turnserver"); err != nil {
		return err
	}
	if f.clouds.Program == "" {
		dir, err := os.MkdirTemp("", "viasclouds")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		f.clouds.Program = filepath.Join(dir, "node")
		build := exec.CommandContext(ctx, "go", "build", "-o", f.clouds.Program, "github.com/viasnet/vias/examples/node")
		if out, err := build.CombinedOutput(); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("%w: build examples/node (inside the module; or give -node): %w: %s", lab.ErrLab, err, out)
		}
	}
	s := &screen{live: isTerminal(os.Stdout), began: time.Now()}
	f.clouds.Show, f.clouds.Progress = s.show, s.progress
	if f.keep {
		f.clouds.Kept = func(l *lab.Lab) {
			l.Describe(os.Stdout)
			fmt.Println("all is as it should be; the clouds are up; SIGINT or SIGTERM ends them in order")
			<-ctx.Done()
		}
	}
	r, err := lab.Clouds(ctx, f.clouds)
	if f.json != "" {
		err = errors.Join(err, r.Save(f.json))
	}
	if err != nil {
		return err
	}
	fmt.Printf("%.1f MB over %d connections: every checksum is right, and every path is the one that it should be\n", float64(r.Carried)/1e6, s.pairs)
	fmt.Printf("%d frames looked at: a marker was in clear in %d inside of clouds, and in none outside; nothing is left\n", r.Frames, r.Inside)
	return nil
}

// screen shows the matrix: over and over in one place on a terminal, else once a stage.
type screen struct {
	live  bool
	began time.Time
	lines int // of the matrix on the screen
	last  []byte
	pairs int
}

// isTerminal: it is at least a device.
func isTerminal(f *os.File) bool {
	i, err := f.Stat()
	return err == nil && i.Mode()&os.ModeCharDevice != 0
}

func (s *screen) show(stage string, pairs []lab.CloudPair) {
	var b bytes.Buffer
	fmt.Fprintln(&b)
	lab.WriteClouds(&b, pairs)
	s.last, s.pairs = b.Bytes(), len(pairs)
	if !s.live {
		return
	}
	s.clear()
	s.draw()
}

// draw writes the matrix. Lines that are too long for the terminal are cut, or it could not be cleared.
func (s *screen) draw() {
	fmt.Printf("\x1b[?7l%s\x1b[?7h", s.last)
	s.lines = bytes.Count(s.last, []byte("\n"))
}

// clear takes the matrix off the screen.
func (s *screen) clear() {
	if s.lines > 0 {
		fmt.Printf("\x1b[%dA\x1b[J", s.lines)
	}
	s.lines = 0
}

// progress prints what happens above the matrix.
func (s *screen) progress(line string) {
	if s.live {
		s.clear()
	}
	fmt.Printf("%5.1f s  %s\n", time.Since(s.began).Seconds(), line)
	if s.live {
		s.draw()
	} else {
		_, _ = os.Stdout.Write(s.last)
		s.last = nil // once
	}
}
