//go:build !race

package bypass_test

// scanned is how many five-tuples a guest scans.
const scanned = 100_000
