package main

import (
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

const (
	// maxAgain is how many tests may be run again. More do not fail by chance.
	maxAgain = 3
	// againRuns is how often each must pass then, of as many runs.
	againRuns = 2
)

// again runs tests that failed beside others once more, by themselves, if may matches the names of all of
// them: tests on the kernel's clocks and other programs', which get too little of a busy machine now
// and then. Those that pass every time then count as passed, and are named as unsteady, which is a defect
// to look into. A data race, or a package that failed otherwise, is never left to chance.
func (s *summary) again(may *regexp.Regexp, run func(testID) error) {
	if s.broke || len(s.fails) == 0 || len(s.fails) > maxAgain {
		return
	}
	var tests []testID
	for id := range s.fails {
		if !may.MatchString(id.test) {
			return
		}
		tests = append(tests, id)
	}
	slices.SortFunc(tests, func(a, b testID) int { return strings.Compare(a.pkg+a.test, b.pkg+b.test) })
	for _, id := range tests {
		fmt.Fprintf(s.out, "testsum: %s %s failed beside others: again, %d times, alone\n", id.pkg, id.test, againRuns)
		if err := run(id); err != nil {
			fmt.Fprintf(s.out, "testsum: %s %s: %v\n", id.pkg, id.test, err)
			continue
		}
		s.failed -= s.fails[id]
		s.passed += s.fails[id]
		s.unsteady = append(s.unsteady, "unsteady "+id.pkg+" "+id.test+": failed beside others (above), and passed alone")
	}
}

// goTest runs one test againRuns times by command, such as go test -race.
func goTest(command []string) func(testID) error {
	return func(id testID) error {
		args := append(slices.Clone(command), "-count", fmt.Sprint(againRuns), "-failfast", "-run", "^"+id.test+"$", id.pkg)
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	}
}
