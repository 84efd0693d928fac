package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// key is a stage and what passes it.
type key struct{ stage, kind string }

// cost is that of one frame, or super-frame, at a stage.
type cost struct{ ns, allocs float64 }

// parse reads what go test -bench printed: the fastest of each benchmark's runs,
// since whatever else the machine does only adds to it, and the most that was allocated.
func parse(text string) (map[key]cost, error) {
	ns, allocs := map[key][]float64{}, map[key][]float64{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "BenchmarkBudget/") {
			continue
		}
		name := strings.TrimPrefix(f[0], "BenchmarkBudget/")
		stage, kind, ok := strings.Cut(name, "/")
		if i := strings.LastIndexByte(kind, '-'); i > 0 {
			kind = kind[:i] // GOMAXPROCS
		}
		if !ok || kind != bulk && kind != lone {
			return nil, fmt.Errorf("a benchmark is named %q: want STAGE/%s or STAGE/%s", name, bulk, lone)
		}
		for i := 2; i+1 < len(f); i += 2 {
			v, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f[0], err)
			}
			switch k := (key{stage, kind}); f[i+1] {
			case "ns/op":
				ns[k] = append(ns[k], v)
			case "allocs/op":
				allocs[k] = append(allocs[k], v)
			}
		}
	}
	costs := map[key]cost{}
	for k := range ns {
		costs[k] = cost{slices.Min(ns[k]), slices.Max(append(allocs[k], 0))}
	}
	return costs, nil
}
