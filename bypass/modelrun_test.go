package bypass_test

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
)

var (
	schedules = flag.Int("schedules", 300, "schedules of the model")
	firstSeed = flag.Uint64("seed", 0, "seed of the first schedule")
	onlyBug   = flag.String("bug", "", "plant this one into the model")
)

// scheduled runs one schedule in a bubble of its own.
func scheduled(t *testing.T, seed uint64, bug string, count *bypass.Meetings) (violation, trace string) {
	synctest.Test(t, func(*testing.T) { violation, trace = runSchedule(seed, bug, count) })
	return violation, trace
}

// inShards runs f for n seeds, on all processors, until f says that it is enough.
func inShards(t *testing.T, n int, f func(t *testing.T, seed uint64) (enough bool)) {
	const shards = 8
	var done atomic.Bool
	for i := range shards {
		t.Run(fmt.Sprint("shard ", i), func(t *testing.T) {
			t.Parallel()
			for k := i; k < n && !done.Load(); k += shards {
				if f(t, *firstSeed+uint64(k)) {
					done.Store(true)
				}
			}
		})
	}
}

// TestModel: no schedule violates anything, and between them every event meets every
// phase in which it can come. `make soak` runs many more schedules.
func TestModel(t *testing.T) {
	var met bypass.Meetings
	n := *schedules
	if testing.Short() {
		n = min(n, 50)
	}
	t.Run("schedules", func(t *testing.T) {
		inShards(t, n, func(t *testing.T, seed uint64) bool {
			violation, trace := scheduled(t, seed, *onlyBug, &met)
			require.Empty(t, violation, "seed %d; go test -run TestModel -seed %d -schedules 1\n%s", seed, seed, trace)
			return false
		})
	})
	table, holes := tabulate(&met)
	t.Logf("%d schedules; how often an event met a phase:\n%s", n, table)
	if n >= 3000 {
		require.Empty(t, holes, "these never met")
	}
}

// tabulate draws the table and lists what never met though it can.
func tabulate(met *bypass.Meetings) (table string, holes []string) {
	rows, columns := met.Names()
	var b strings.Builder
	fmt.Fprintf(&b, "%-11s", "")
	for _, c := range columns {
		fmt.Fprintf(&b, "%11s", c)
	}
	for i, r := range rows {
		fmt.Fprintf(&b, "\n%-11s", r)
		for j, c := range columns {
			n := met[i][j].Load()
			switch never := cannotMeet[r+"/"+c]; {
			case n == 0 && never != "":
				fmt.Fprintf(&b, "%11s", "-")
				continue
			case n == 0, never != "":
				holes = append(holes, fmt.Sprintf("%s/%s: %d times", r, c, n))
			}
			fmt.Fprintf(&b, "%11d", n)
		}
	}
	return b.String(), holes
}

// cannotMeet are the pairs of phase and event that cannot be, and why.
var cannotMeet = map[string]string{}

// TestModelFindsBugs: each planted bug is found within a thousand schedules.
func TestModelFindsBugs(t *testing.T) {
	for _, bug := range slices.Sorted(maps.Keys(bypass.Bugs)) {
		t.Run(bug, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(1000) {
				if violation, _ := scheduled(t, seed, bug, nil); violation != "" {
					t.Logf("schedule %d: %s", seed, violation)
					return
				}
			}
			t.Error("not found")
		})
	}
}
