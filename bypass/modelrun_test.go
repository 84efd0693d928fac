package bypass_test

import (
	"os"
	"strconv"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
)

// scheduled runs one schedule in a bubble of its own.
func scheduled(t *testing.T, seed uint64, bug string, count *bypass.Meetings) (violation, trace string) {
	synctest.Test(t, func(*testing.T) { violation, trace = runSchedule(seed, bug, count) })
	return violation, trace
}

func TestModel(t *testing.T) {
	n, first := uint64(100), uint64(0)
	if s := os.Getenv("SEEDS"); s != "" {
		n, _ = strconv.ParseUint(s, 10, 64)
	}
	if s := os.Getenv("FIRST"); s != "" {
		first, _ = strconv.ParseUint(s, 10, 64)
	}
	for seed := first; seed < first+n; seed++ {
		violation, trace := scheduled(t, seed, os.Getenv("BUG"), nil)
		require.Empty(t, violation, "seed %d\n%s", seed, trace)
	}
}
