// Package leaktest makes a package's tests fail when they leave goroutines or file
// descriptors behind:
//
//	func TestMain(m *testing.M) { leaktest.Main(m) }
package leaktest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// patience is how long what is on its way out may take.
const patience = 5 * time.Second

// Main runs the tests and exits: with their code, or with 1 if they passed and
// something was left.
func Main(m *testing.M) {
	before := Descriptors()
	code := m.Run()
	if code == 0 {
		if left := wait(before); left != "" {
			fmt.Fprintln(os.Stderr, "leaktest: left behind by the tests:\n"+left)
			code = 1
		}
	}
	os.Exit(code)
}

// wait returns what is still there after patience.
func wait(before []string) string {
	end := time.After(patience)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		left := strings.Join(append(Goroutines(), newIn(before, Descriptors())...), "\n\n")
		if left == "" {
			return ""
		}
		select {
		case <-end:
			return left
		case <-again.C:
		}
	}
}

// harmless are parts of stacks that belong to the runtime and to package testing.
var harmless = []string{
	"testing.Main(", "testing.(*M).", "testing.tRunner(", "testing.runFuzzing(", "testing.runFuzzTests(",
	"runtime.goexit0", "runtime.ReadTrace(", "runtime/trace.Start", "runtime.ensureSigM",
	"os/signal.signal_recv", "os/signal.loop", "internal/fuzz.", "runtime/pprof.",
}

// Goroutines are the stacks of all goroutines but the caller's and those of the
// runtime and of package testing.
func Goroutines() (stacks []string) {
	buf := make([]byte, 1<<20)
	for n := runtime.Stack(buf, true); ; n = runtime.Stack(buf, true) {
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	for _, s := range strings.Split(string(buf), "\n\n")[1:] { // the first is the caller's
		if !slices.ContainsFunc(harmless, func(h string) bool { return strings.Contains(s, h) }) {
			stacks = append(stacks, s)
		}
	}
	return stacks
}

// Descriptors says what each open file descriptor of this process is; nil where
// that cannot be told. Those that the Go runtime opens once are left out.
func Descriptors() (list []string) {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || strings.HasPrefix(to, "anon_inode:[event") || strings.HasSuffix(to, "/fd") {
			continue // gone already: the directory itself; or the runtime's poller
		}
		list = append(list, "file descriptor "+e.Name()+" is "+to)
	}
	return list
}

func newIn(before, now []string) (fresh []string) {
	for _, d := range now {
		if !slices.Contains(before, d) {
			fresh = append(fresh, d)
		}
	}
	return fresh
}
