package main

import (
	"context"
	"fmt"
	"os"

	"github.com/viasnet/vias/internal/lab"
)

// latency measures what a request waits for. A bound that is missed fails nothing, since
// machines are busy; a connection that went another way than it should does.
func latency(ctx context.Context, l *lab.Lab, f *flags) error {
	r, err := l.Latency(ctx, lab.LatencyConfig{Rounds: f.measure.Rounds, Duration: f.measure.Duration,
		Progress: func(line string) { fmt.Println(line) }})
	if err != nil {
		return err
	}
	fmt.Println()
	r.Print(os.Stdout)
	if len(r.Fails) > 0 {
		return errFailed
	}
	return nil
}
