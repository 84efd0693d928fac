// Budget runs the benchmarks of each stage that a packet passes, which stand in the packages that own the stages, and writes
// what it costs onto one page. As root it has the TAP's stages too.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"time"
)

func main() {
	out := flag.String("out", "", `the page; "" = standard output`)
	benchtime := flag.String("benchtime", "200ms", "of each benchmark")
	count := flag.Int("count", 5, "how often each; the fastest counts")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, *out, *benchtime, *count)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "budget:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, path, benchtime string, count int) error {
	args := []string{"test", "-run", "^$", "-bench", "^BenchmarkBudget$", "-benchmem", "-p", "1", "-benchtime", benchtime, "-count", strconv.Itoa(count)}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", append(args, packages()...)...)
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go %s: %w: %s%s", strings.Join(args, " "), err, stderr.String(), text[max(0, len(text)-500):])
	}
	costs, err := parse(string(text))
	if err != nil {
		return err
	}
	p := page{costs: costs, began: time.Now(), machine: machine(string(text)), count: count}
	if commit, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output(); err == nil {
		p.commit = strings.TrimSpace(string(commit))
	}
	md, err := p.markdown()
	if path == "" {
		_, werr := os.Stdout.WriteString(md)
		return errors.Join(err, werr)
	}
	return errors.Join(err, os.WriteFile(path, []byte(md), 0o644))
}

// machine is what it ran on, as go test says it.
func machine(text string) string {
	model := "an unknown processor"
	if _, rest, ok := strings.Cut(text, "\ncpu: "); ok {
		model, _, _ = strings.Cut(rest, "\n")
	}
	return fmt.Sprintf("%d processors (%s), %s", runtime.NumCPU(), model, runtime.Version())
}
