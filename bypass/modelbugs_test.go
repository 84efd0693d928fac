//go:build !race

package bypass_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/viasnet/vias/bypass"
)

// TestModelFindsBugs: each planted bug is found within a thousand schedules.
func TestModelFindsBugs(t *testing.T) {
	thrifty(t)
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
