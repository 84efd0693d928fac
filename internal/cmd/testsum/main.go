// Command testsum reads the output of `go test -json` and prints what people need
// of it: a line for each package, all output of what failed, why tests were skipped,
// and, alone on the last line, "N passed, N failed, N skipped". Tests, subtests,
// examples and fuzz targets all count; a package that fails by itself (it does not
// build, or panics) counts as one. With arguments it reads those files, all at once:
// runs side by side, each writing into its own pipe. A run that failed may end with the
// line {"Action":"run-failed"}: then it must have said what failed.
//
// The exit code is 1 when anything failed, when nothing ran at all, and, with
// -noskip, when anything was skipped. With -again, a few tests that failed beside others may
// pass by themselves; the summary names them.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
)

func main() {
	noskip := flag.Bool("noskip", false, "a skipped test is a failure")
	may := flag.String("again", "", "tests whose names this expression matches may fail beside others if they pass alone")
	command := flag.String("test", "go test", "how these are run")
	flag.Parse()
	s := newSummary(os.Stdout)
	err := s.readAll(flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
	}
	if *may != "" {
		s.again(regexp.MustCompile(*may), goTest(strings.Fields(*command)))
	}
	ok := s.finish(*noskip)
	if err != nil || !ok {
		os.Exit(1)
	}
}

// event is a line of `go test -json` (go doc test2json).
type event struct {
	Action, Package, Test, Output, ImportPath string
}

type testID struct{ pkg, test string }

type summary struct {
	mu                      sync.Mutex // guards all: files are read side by side
	out                     io.Writer
	passed, failed, skipped int
	unsaid                  int // runs that failed
	packages                int
	output                  map[testID][]string // of what has not ended yet
	broken                  map[string]bool     // packages in which a test failed
	skips                   []string
	fails                   map[testID]int // tests with how many of them, and of their subtests, failed
	broke                   bool           // something failed that is no chance: a race, a panic, a build
	unsteady                []string       // what failed, and then did not
}

func newSummary(out io.Writer) *summary {
	return &summary{out: out, output: map[testID][]string{}, broken: map[string]bool{}, fails: map[testID]int{}}
}

// readAll reads all of files, or standard input if there are none.
func (s *summary) readAll(files []string) error {
	if len(files) == 0 {
		return s.read(os.Stdin)
	}
	errs := make([]error, len(files))
	var wg sync.WaitGroup
	for i, name := range files {
		wg.Go(func() {
			f, err := os.Open(name)
			if err != nil {
				errs[i] = err
				return
			}
			defer f.Close()
			errs[i] = s.read(f)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// read takes all events; a line that is none is printed as it is.
func (s *summary) read(in io.Reader) error {
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		var e event
		if json.Unmarshal(sc.Bytes(), &e) != nil {
			e = event{}
		}
		s.take(e, sc.Text())
	}
	return sc.Err()
}

// take is one line, and the event that it is.
func (s *summary) take(e event, line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := testID{e.Package, e.Test}
	switch e.Action {
	case "":
		fmt.Fprintln(s.out, line)
	case "run-failed":
		s.unsaid++
	case "build-output":
		fmt.Fprint(s.out, e.Output)
	case "output":
		s.output[id] = append(s.output[id], e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.endPackage(e, id)
		} else {
			s.endTest(e, id)
		}
		delete(s.output, id)
	}
}

func (s *summary) endTest(e event, id testID) {
	switch e.Action {
	case "pass":
		s.passed++
	case "fail":
		s.failed++
		s.broken[e.Package] = true
		text := strings.Join(s.output[id], "")
		fmt.Fprint(s.out, text)
		test, _, _ := strings.Cut(e.Test, "/")
		s.fails[testID{e.Package, test}]++
		s.broke = s.broke || strings.Contains(text, "DATA RACE")
	case "skip":
		s.skipped++
		s.skips = append(s.skips, "skipped "+e.Package+" "+e.Test+": "+reason(s.output[id]))
	}
}

// reason is what a skipped test said.
func reason(output []string) string {
	for _, line := range output {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			return line
		}
	}
	return "no reason given"
}

func (s *summary) endPackage(e event, id testID) {
	s.packages++
	lines := s.output[id]
	switch {
	case e.Action == "fail" && !s.broken[e.Package]:
		// Not by a test that ended: a build, a panic, a time-out, TestMain.
		s.failed++
		s.broke = true
		for other, text := range s.output {
			if other.pkg == e.Package && other.test != "" {
				fmt.Fprint(s.out, strings.Join(text, ""))
			}
		}
		fmt.Fprint(s.out, strings.Join(lines, ""))
	case e.Action == "fail":
		fmt.Fprint(s.out, strings.Join(lines, ""))
	case len(lines) > 0: // "ok  	package	1.2s"
		fmt.Fprint(s.out, lines[len(lines)-1])
	}
	if e.Action == "fail" && len(lines) == 0 {
		fmt.Fprintln(s.out, "FAIL\t"+e.Package)
	}
}

// finish prints the summary and tells whether all is well.
func (s *summary) finish(noskip bool) bool {
	for _, line := range s.skips {
		fmt.Fprintln(s.out, line)
	}
	for _, line := range s.unsteady {
		fmt.Fprintln(s.out, line)
	}
	ok := s.failed == 0 && s.passed > 0
	switch {
	case s.packages == 0:
		fmt.Fprintln(s.out, "testsum: no package ended")
		ok = false
	case ok && s.unsaid > 0 && len(s.unsteady) == 0:
		fmt.Fprintln(s.out, "testsum: a run failed and did not say why")
		ok = false
	case noskip && s.skipped > 0:
		fmt.Fprintln(s.out, "testsum: nothing may be skipped here")
		ok = false
	}
	fmt.Fprintf(s.out, "%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
	return ok
}
