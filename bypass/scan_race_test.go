//go:build race

package bypass_test

// scanned is how many five-tuples a guest scans: fewer under the race detector, which
// slows all of it down tenfold.
const scanned = 5_000
