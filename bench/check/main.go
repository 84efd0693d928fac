// Check holds what bench/run measured against the targets and exits with 1 where one is
// missed, or has no figure.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/viasnet/vias/bench"
)

func main() {
	path := flag.String("report", "docs/evaluation/overlay.json", "what bench/run wrote")
	flag.Parse()
	r, err := bench.Load(*path)
	if err != nil {
		fmt.Fprintln(os.Stderr, "check:", err)
		os.Exit(2)
	}
	met := bench.WriteVerdicts(os.Stdout, r.Check(bench.Targets()))
	for _, f := range r.Failed {
		fmt.Fprintln(os.Stdout, "failed:", f)
	}
	if !met {
		os.Exit(1)
	}
}
