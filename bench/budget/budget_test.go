package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	costs, err := parse("goos: linux\nBenchmarkOther-2 1 5 ns/op\n" +
		"BenchmarkBudget/tap-read/bulk-2 \t 100\t 30 ns/op\t 0 B/op\t 2 allocs/op\n" +
		"BenchmarkBudget/tap-read/bulk-2 100 10 ns/op 0 B/op 0 allocs/op\n" +
		"BenchmarkBudget/tap-read/bulk-2 100 20.5 ns/op 0 B/op 1 allocs/op\nBenchmarkBudget/seal/lone 1 7 ns/op\nPASS\n")
	require.NoError(t, err)
	require.Equal(t, map[key]cost{{"tap-read", bulk}: {10, 2}, {"seal", lone}: {7, 0}}, costs)
	_, err = parse("BenchmarkBudget/seal/other-2 1 7 ns/op\n")
	require.ErrorContains(t, err, "seal/other")
	_, err = parse("BenchmarkBudget/seal/lone-2 1 x ns/op\n")
	require.Error(t, err)
}

// filled is a page on which every stage costs 1,000 ns for a super-frame and 10 ns for a datagram.
func filled() page {
	p := page{costs: map[key]cost{}, began: time.Unix(0, 0), commit: "abc", machine: "two", count: 3}
	for _, w := range ways {
		for _, s := range append(w.stages[:len(w.stages):len(w.stages)], whole) {
			p.costs[key{s.name, bulk}], p.costs[key{s.name, lone}] = cost{1000, 0}, cost{10, 1}
		}
	}
	return p
}

func TestPage(t *testing.T) {
	p := filled()
	md, err := p.markdown()
	require.NoError(t, err)
	require.Contains(t, md, "| seal | `overlay/icedtls/internal/record` | 1000 | 24 | 6 % | 0 | 10 | 6 % | 1 |")
	require.Contains(t, md, "| **sum** | | 8000 | 192 | 50 % | | 80 | 50 % | |")
	require.Contains(t, md, "| sum of all stages | 16000 | 385 | | 160 | |")
	require.Contains(t, md, "60.2 Gbit/s", "60,192 bytes in 8 µs")

	delete(p.costs, key{"tap-read", lone})
	delete(p.costs, key{whole.name, bulk})
	md, err = p.markdown()
	require.ErrorContains(t, err, "no figure of tap-read, whole")
	require.NotContains(t, md, "Gbit/s")
}

// Every stage has its benchmark where the page says it is.
func TestStagesExist(t *testing.T) {
	for _, w := range ways {
		for _, s := range append(w.stages[:len(w.stages):len(w.stages)], whole) {
			text, err := os.ReadFile(filepath.Join("..", "..", s.pkg, "budget_test.go"))
			require.NoError(t, err)
			require.True(t, strings.Contains(string(text), fmt.Sprintf("%q+kind", s.name+"/")), "%s in %s", s.name, s.pkg)
		}
	}
}
