// Command chaos builds two clouds and a home of network namespaces, and breaks whatever
// there is at random while transfers go on; see lab.Chaos. It prints each event and, at the
// end, what each kind of fault cost. It needs root on Linux and what make deps installs.
//
// The exit code is 0, 1 when something was found or broke, 2 when it cannot run here.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/viasnet/vias/internal/lab"
)

func main() {
	if mine, err := lab.Child(os.Args[1:], os.Stdin, os.Stdout); mine {
		exit(err)
	}
	var cfg lab.ChaosConfig
	flag.Uint64Var(&cfg.Seed, "seed", uint64(time.Now().Unix()), "draws what happens")
	flag.DurationVar(&cfg.Duration, "duration", 5*time.Minute, "the last storm begins before it is over")
	flag.StringVar(&cfg.Prefix, "prefix", "viasx-", "beginning of all namespaces' names")
	flag.StringVar(&cfg.Program, "node", "", "node `program`; default: build examples/node")
	flag.Parse()
	cfg.Progress = func(line string) { fmt.Println(line) }
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	exit(run(ctx, cfg))
}

// exit ends the program.
func exit(err error) {
	switch {
	case err == nil:
		os.Exit(0)
	case errors.Is(err, lab.ErrLab):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, "chaos:", err)
	os.Exit(1)
}

func run(ctx context.Context, cfg lab.ChaosConfig) (err error) {
	if err := lab.Ready(); err != nil {
		return err
	}
	if cfg.Program == "" {
		dir, err := os.MkdirTemp("", "viaschaos")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		cfg.Program = filepath.Join(dir, "node")
		build := exec.CommandContext(ctx, "go", "build", "-o", cfg.Program, "github.com/viasnet/vias/examples/node")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: build examples/node (inside the module; or give -node): %w: %s", lab.ErrLab, err, out)
		}
	}
	fmt.Printf("seed %d, %v\n", cfg.Seed, cfg.Duration)
	r, err := lab.Chaos(ctx, cfg)
	fmt.Println()
	r.Print(os.Stdout)
	if err == nil {
		fmt.Println("every checksum is right, no node ended by itself, and nothing is left")
	}
	return err
}
