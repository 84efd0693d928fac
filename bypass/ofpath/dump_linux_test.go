package ofpath_test

import (
	"cmp"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/ovstest"
)

// TestIntegrationDump compares the whole pipeline of one bypass, as ovs-ofctl reads
// it from a real switch, with testdata/pipeline.txt, which the package's documentation
// shows.
func TestIntegrationDump(t *testing.T) {
	b := newOVSBench(t, ovstest.Start(t), 0)
	b.normal()
	dp, err := b.Open(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, dp.Close()) }()
	waitUp(t, dp)
	require.NoError(t, dp.Set(t.Context(), base()))
	c := change(0x123)
	c.Leases = []bypass.Lease{renewal()}
	require.NoError(t, dp.Apply(t.Context(), c))

	lines := b.ovs.DumpFlows(b.br)
	slices.SortFunc(lines, func(a, b string) int {
		return cmp.Or(cmp.Compare(number(a, " table="), number(b, " table=")),
			cmp.Compare(number(b, "priority="), number(a, "priority=")), strings.Compare(a, b))
	})
	groups := b.ovs.MustOfctl("-O", "OpenFlow13", "dump-groups", b.br)
	_, group, _ := strings.Cut(groups, "\n") // the first line is the reply's header
	meters := b.ovs.MustOfctl("-O", "OpenFlow13", "dump-meters", b.br)
	lines = append(lines, strings.TrimSpace(group))
	var bands []string // in no order; each meter is two lines, and some are empty
	for line := range strings.Lines(strings.ReplaceAll(meters, "bands=\n", "bands=")) {
		if strings.HasPrefix(line, "meter=") {
			bands = append(bands, strings.TrimSpace(line))
		}
	}
	slices.Sort(bands)
	got := strings.Join(append(lines, bands...), "\n") + "\n"
	want, err := os.ReadFile("testdata/pipeline.txt")
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// number is what stands behind key in a dumped flow; 0 if it is not printed.
func number(line, key string) int {
	_, rest, _ := strings.Cut(" "+line, key)
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	n, _ := strconv.Atoi(rest[:max(end, 0)])
	return n
}
