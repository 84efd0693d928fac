//go:build race

package bypass_test

// How much the long tests do: less under the race detector, which slows all of it down
// tenfold.
const (
	scanned       = 5_000 // five-tuples that a guest scans
	someSchedules = 60    // of the model
)
