package ofpath_test

import (
	"flag"
	"testing"

	"github.com/viasnet/vias/internal/leaktest"
)

// TestMain lets many cases run side by side, whatever the number of CPUs: those on a
// real switch mostly wait for its time-outs. The command line has the last word.
func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "24"); err != nil {
		panic(err)
	}
	leaktest.Main(m)
}
