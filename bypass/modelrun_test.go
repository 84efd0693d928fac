package bypass_test

import (
	"flag"
	"fmt"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
)

var (
	schedules = flag.Int("schedules", someSchedules, "schedules of the model")
	firstSeed = flag.Uint64("seed", 0, "seed of the first schedule")
	onlyBug   = flag.String("bug", "", "plant this one into the model")
)

// scheduled runs one schedule in a bubble of its own.
func scheduled(t *testing.T, seed uint64, bug string, count *bypass.Meetings) (violation, trace string) {
	synctest.Test(t, func(*testing.T) { violation, trace = runSchedule(seed, bug, count, false) })
	if violation != "" && bug == "" { // once more, with every step
		synctest.Test(t, func(*testing.T) {
			if again, steps := runSchedule(seed, bug, nil, true); again != "" {
				trace = steps
			}
		})
	}
	return violation, trace
}

// thrifty leaves the garbage for longer than usual: schedules are short.
func thrifty(t *testing.T) {
	was := debug.SetGCPercent(400)
	t.Cleanup(func() { debug.SetGCPercent(was) })
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
	thrifty(t)
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
	if n >= 10_000 {
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
			case n == 0 && byStep[r+"/"+c]:
			case n == 0:
				holes = append(holes, fmt.Sprintf("%s/%s: %d times", r, c, n))
			}
			fmt.Fprintf(&b, "%11d", n)
		}
	}
	return b.String(), holes
}

// cannotMeet are the pairs of phase and event that cannot be, and why.
var cannotMeet = func() map[string]string {
	pairs := map[string]string{}
	add := func(why, phases, events string) {
		for _, p := range strings.Fields(phases) {
			for _, e := range strings.Fields(events) {
				pairs[p+"/"+e] = why
			}
		}
	}
	add("messages find no transaction, or are answered without one", "overlay", "accept confirm done reject close close-ack")
	add("a flow has one transaction at a time", "offered installing confirming preparing accepted completing active unbinding closing draining removing", "start offer")
	add("no change is pending", "overlay offered confirming accepted", "applied failed unsure")
	add("no rule of ours has an idle time yet, or any more", "overlay offered preparing accepted closing draining removing", "idle")
	add("an outbound's idle time is longer than that phase can be", "installing confirming completing", "idle")
	add("no deadline runs", "overlay installing preparing active", "deadline")
	add("the initiator gets it, and only before it has accepted", "preparing accepted completing", "accept done reject")
	add("the responder gets it, after its accept", "offered installing preparing", "confirm")
	add("it answers what was not said yet", "offered installing", "done")
	add("we have said no close", "offered installing confirming preparing accepted completing active", "close-ack")
	add("who has accepted rejects no more, but for a copy of an offer that comes late to a new run", "installing active unbinding closing draining removing", "reject")
	return pairs
}()

// byStep are pairs that come too seldom for a few thousand schedules to be sure of. They
// are held against step alone, in TestEveryPhaseMeetsEveryEvent.
var byStep = map[string]bool{
	"confirming/confirm": true, "confirming/reject": true, "unbinding/accept": true, "unbinding/confirm": true, "unbinding/done": true,
	"unbinding/close-ack": true, "closing/accept": true, "closing/confirm": true, "closing/done": true, "closing/applied": true,
	"closing/failed": true, "closing/unsure": true, "draining/applied": true, "draining/failed": true, "draining/unsure": true,
	"removing/accept": true, "removing/confirm": true, "removing/done": true, "active/unsure": true, "active/failed": true,
	"completing/peer-reset": true, "completing/link-up": true, "completing/leave": true, "completing/deadline": true, "accepted/peer-reset": true, "completing/unsure": true,
}
