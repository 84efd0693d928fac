//go:build !race

package bypass_test

// How much the long tests do.
const (
	scanned       = 100_000 // five-tuples that a guest scans
	someSchedules = 300     // of the model; make test runs more
)
