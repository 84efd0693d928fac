package ofpath_test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/internal/ovstest"
)

// update has the dumps, and the document that shows them, written anew.
var update = flag.Bool("update", false, "write testdata and docs/pipeline.md anew")

// TestIntegrationDump compares the whole pipeline of one bypass in each layout, as ovs-ofctl reads it from a real
// switch, with testdata, and docs/pipeline.md with that.
func TestIntegrationDump(t *testing.T) {
	ovs := ovstest.Start(t)
	benches := newOVSBenches(t, ovs, 20, 3)
	one, six, shared := benches[0], benches[1], benches[2]
	two := newTwoBridges(t, ovs, 1)[0]
	same := func(a netip.Addr) netip.Addr { return a }
	for _, o := range []other{one.other, six.other, two.other, two.ex} {
		o.normal()
	}
	foreign := &sharedBench{shared, ovnLike([]uint32{2, 3, 4})}
	foreign.install()

	dumps := map[string]string{}
	program(t, one, same)
	program(t, six, func(a netip.Addr) netip.Addr { // 10.1.0.2 becomes fd00::a01:2
		b := a.As16()
		copy(b[:12], []byte{0xfd, 11: 0})
		return netip.AddrFrom16(b)
	})
	program(t, two, same)
	program(t, foreign, same)
	for name, br := range map[string]string{"pipeline": one.br, "pipeline6": six.br, "patched-int": two.br,
		"patched-ext": two.name, "foreign": shared.br} {
		dumps[name] = dumpOf(ovs, br)
	}
	for name, got := range dumps {
		file := "testdata/" + name + ".txt"
		if *update {
			require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
		}
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, string(want), got, file)
	}
	requireDocument(t, dumps)
}

// shown is a block of docs/pipeline.md: the lines of a dump that have to do with a table, or with groups
// or meters.
var shown = regexp.MustCompile("(?s)<!-- ([a-z0-9-]+) (table [0-9]+|groups|meters) -->\n```text\n.*?```\n")

// requireDocument: docs/pipeline.md shows what the switch has.
func requireDocument(t *testing.T, dumps map[string]string) {
	const file = "../../docs/pipeline.md"
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	blocks := 0
	right := shown.ReplaceAllStringFunc(string(text), func(block string) string {
		blocks++
		m := shown.FindStringSubmatch(block)
		return fmt.Sprintf("<!-- %s %s -->\n```text\n%s```\n", m[1], m[2], part(dumps[m[1]], m[2]))
	})
	require.Greater(t, blocks, 10)
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(right), 0o644))
		return
	}
	require.Equal(t, right, string(text), "go test ./bypass/ofpath -run TestIntegrationDump -update")
}

// part is the lines of a dump that are of what, broken where they are long.
func part(dump, what string) string {
	var b strings.Builder
	for line := range strings.Lines(dump) {
		table := "table " + strconv.Itoa(number(line, " table="))
		switch {
		case strings.HasPrefix(line, "group_id="):
			table = "groups"
		case strings.HasPrefix(line, "meter="):
			table = "meters"
		}
		if table == what {
			b.WriteString(broken(line))
		}
	}
	return b.String()
}

// broken breaks a line behind commas.
func broken(line string) string {
	const width = 150
	var b strings.Builder
	for len(line) > width {
		at := strings.LastIndexAny(line[:width], ", ") + 1
		if at <= 4 {
			break
		}
		b.WriteString(strings.TrimRight(line[:at], " ") + "\n")
		line = "    " + line[at:]
	}
	return b.String() + line
}

// program makes a bypass between the addresses that address makes of those of change, and
// leaves it in the switch.
func program(t *testing.T, b bypasstest.Bench, address func(netip.Addr) netip.Addr) {
	dp, err := b.Open(context.Background())
	require.NoError(t, err)
	defer func() { require.NoError(t, dp.Close()) }()
	waitUp(t, dp)
	slow, c := base(), change(0x123)
	c.Leases = []bypass.Lease{renewal()}
	port := func(a *netip.AddrPort) { *a = netip.AddrPortFrom(address(a.Addr()), a.Port()) }
	for i := range c.Add {
		r := &c.Add[i]
		port(&r.Flow.Src)
		port(&r.Flow.Dst)
		port(&r.Local)
		port(&r.Remote)
	}
	c.Leases[0].Local, c.Leases[0].Remote = address(c.Leases[0].Local), address(c.Leases[0].Remote)
	slow.Workloads[0].IPs[0] = address(slow.Workloads[0].IPs[0])
	slow.Guard[0] = bypass.AddrPair{Local: address(slow.Guard[0].Local), Remote: address(slow.Guard[0].Remote)}
	require.NoError(t, dp.Set(context.Background(), slow))
	require.NoError(t, dp.Apply(context.Background(), c))
}

// dumpOf is all that is in a bridge, from other connections' view.
func dumpOf(ovs *ovstest.Switch, br string) string {
	lines := ovs.DumpFlows(br)
	slices.SortFunc(lines, func(a, b string) int {
		return cmp.Or(cmp.Compare(number(a, " table="), number(b, " table=")),
			cmp.Compare(number(b, "priority="), number(a, "priority=")), strings.Compare(a, b))
	})
	groups := ovs.MustOfctl("-O", "OpenFlow13", "dump-groups", br)
	var descriptions []string
	for line := range strings.Lines(groups) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "group_id=") {
			descriptions = append(descriptions, line)
		}
	}
	slices.Sort(descriptions)
	meters := ovs.MustOfctl("-O", "OpenFlow13", "dump-meters", br)
	lines = append(lines, descriptions...)
	var bands []string // in no order; each meter is two lines, and some are empty
	for line := range strings.Lines(strings.ReplaceAll(meters, "bands=\n", "bands=")) {
		if strings.HasPrefix(line, "meter=") {
			bands = append(bands, strings.TrimSpace(line))
		}
	}
	slices.Sort(bands)
	return strings.Join(append(lines, bands...), "\n") + "\n"
}

// number is what stands behind key in a dumped flow; 0 if it is not printed.
func number(line, key string) int {
	_, rest, _ := strings.Cut(" "+line, key)
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	n, _ := strconv.Atoi(rest[:max(end, 0)])
	return n
}
