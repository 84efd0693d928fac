package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// What passes the stages.
const (
	bulk = "bulk" // a super-frame of 44 TCP segments
	lone = "lone" // one UDP datagram of 64 bytes
)

// Sizes, in bytes: what a super-frame of the benchmarks carries, and what it is counted in.
const (
	superPayload  = 44 * 1368
	packetPayload = 1448
)

// stage is a step on the way.
type stage struct{ name, title, pkg string }

// ways are the stages in packet order.
var ways = []struct {
	title  string
	stages []stage
}{
	{"Out", []stage{
		{"tap-read", "read from the TAP, parse the virtio header", "tap"},
		{"source", "source check", "internal/l2"},
		{"look-up", "destination look-up", "internal/l2"},
		{"classify", "classify", "bypass"},
		{"count", "flow table: find and count", "internal/flowtable"},
		{"cut", "cut into segments", "internal/seg"},
		{"seal", "seal", "overlay/icedtls/internal/record"},
		{"send", "send (UDP_SEGMENT)", "overlay/icedtls/internal/udpio"},
	}},
	{"In", []stage{
		{"receive", "receive (UDP_GRO)", "overlay/icedtls/internal/udpio"},
		{"open", "open", "overlay/icedtls/internal/record"},
		{"join", "join segments", "internal/seg"},
		{"source", "source check", "internal/l2"},
		{"look-up", "destination look-up", "internal/l2"},
		{"classify", "classify", "bypass"},
		{"count", "flow table: find and count", "internal/flowtable"},
		{"tap-write", "virtio header, write to the TAP", "tap"},
	}},
}

// whole is all of it but the devices, measured at once.
var whole = stage{"whole", "all of both ways at once, without the TAPs", "overlay/icedtls"}

// packages that have the benchmarks.
func packages() []string {
	list := []string{"./" + whole.pkg}
	for _, w := range ways {
		for _, s := range w.stages {
			list = append(list, "./"+s.pkg)
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(list)))
}

// page is what is written.
type page struct {
	costs           map[key]cost
	began           time.Time
	machine, commit string
	count           int
}

const head = `# The budget of a packet

What each stage costs, in nanoseconds of one processor, by the benchmarks ` + "`BenchmarkBudget`" + ` of the packages that own the
stages. ` + "`make bench`" + ` writes this page (` + "`go run ./bench/budget`" + ` alone, too). *Bulk* is a super-frame of 44 TCP segments of 1,368 bytes,
as a guest with an MTU of 1,420 and TSO hands over; it is also given for each 1,448 bytes of that. *Lone* is one UDP datagram of
64 bytes: batches of them cost less. Sockets are on loopback, where a send has the kernel carry everything to the receiver's queue.
All at once is by the clock: where several processors seal and open, it takes less than its parts.
`

// markdown is the page; an error says which stages have no figure.
func (p page) markdown() (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nBegun %s, at %s, the fastest of %d runs. %s.\n", head, p.began.UTC().Format("2006-01-02 15:04 MST"), p.commit, p.count, p.machine)
	all := map[string]float64{}
	for _, kind := range []string{bulk, lone} {
		for _, w := range ways {
			all[kind] += p.sum(w.stages, kind)
		}
	}
	var sums []float64
	var missing []string
	for _, w := range ways {
		fmt.Fprintf(&b, "\n## %s\n\n| stage | package | bulk, ns | per 1,448 B, ns | share | allocs | lone, ns | share | allocs |\n|---|---|---|---|---|---|---|---|---|\n", w.title)
		for _, s := range w.stages {
			cells, ok := p.cells(s, all)
			if !ok {
				missing = append(missing, s.name)
			}
			fmt.Fprintf(&b, "| %s | `%s` |%s\n", s.title, s.pkg, cells)
		}
		inBulk, inLone := p.sum(w.stages, bulk), p.sum(w.stages, lone)
		sums = append(sums, inBulk)
		fmt.Fprintf(&b, "| **sum** | | %.0f | %.0f | %.0f %% | | %.0f | %.0f %% | |\n",
			inBulk, perPacket(inBulk), percent(inBulk, all[bulk]), inLone, percent(inLone, all[lone]))
	}
	w, l := p.costs[key{whole.name, bulk}], p.costs[key{whole.name, lone}]
	if w.ns == 0 || l.ns == 0 {
		missing = append(missing, whole.name)
	}
	fmt.Fprintf(&b, "\n## Both\n\n| | bulk, ns | per 1,448 B, ns | allocs | lone, ns | allocs |\n|---|---|---|---|---|---|\n")
	fmt.Fprintf(&b, "| sum of all stages | %.0f | %.0f | | %.0f | |\n", all[bulk], perPacket(all[bulk]), all[lone])
	fmt.Fprintf(&b, "| %s (`%s`) | %.0f | %.0f | %.0f | %.0f | %.0f |\n", whole.title, whole.pkg, w.ns, perPacket(w.ns), w.allocs, l.ns, l.allocs)
	if slow := slices.Max(sums); slow > 0 && len(missing) == 0 {
		fmt.Fprintf(&b, "\nWith a processor for each way and nothing else to do, the slower one would carry %.1f Gbit/s. The guests' own TCP, the\n"+
			"kernel's stack behind the TAP and waking up are not in these figures.\n", superPayload*8/slow)
	}
	if len(missing) > 0 {
		return b.String(), fmt.Errorf("no figure of %s (the TAP needs root)", strings.Join(missing, ", "))
	}
	return b.String(), nil
}

// cells of a stage; false: a figure is missing.
func (p page) cells(s stage, all map[string]float64) (string, bool) {
	x, y := p.costs[key{s.name, bulk}], p.costs[key{s.name, lone}]
	if x.ns == 0 || y.ns == 0 {
		return " | | | | | | |", false
	}
	return fmt.Sprintf(" %.0f | %.0f | %.0f %% | %.0f | %.0f | %.0f %% | %.0f |",
		x.ns, perPacket(x.ns), percent(x.ns, all[bulk]), x.allocs, y.ns, percent(y.ns, all[lone]), y.allocs), true
}

func (p page) sum(stages []stage, kind string) (sum float64) {
	for _, s := range stages {
		sum += p.costs[key{s.name, kind}].ns
	}
	return sum
}

func perPacket(ns float64) float64 { return ns * packetPayload / superPayload }

func percent(part, of float64) float64 {
	if of == 0 {
		return 0
	}
	return 100 * part / of
}
