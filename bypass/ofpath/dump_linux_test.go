package ofpath_test

import (
	"cmp"
	"context"
	"net/netip"
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
// shows, and with pipeline6.txt for one over IPv6.
func TestIntegrationDump(t *testing.T) {
	ovs := ovstest.Start(t)
	for n, c := range []struct {
		file    string
		address func(netip.Addr) netip.Addr
	}{
		{"testdata/pipeline.txt", func(a netip.Addr) netip.Addr { return a }},
		{"testdata/pipeline6.txt", func(a netip.Addr) netip.Addr { // 10.1.0.2 becomes fd00::a01:2
			b := a.As16()
			copy(b[:12], []byte{0xfd, 11: 0})
			return netip.AddrFrom16(b)
		}},
	} {
		b := newOVSBench(t, ovs, n)
		b.normal()
		got := b.pipeline(c.address)
		want, err := os.ReadFile(c.file)
		require.NoError(t, err)
		require.Equal(t, string(want), got, c.file)
	}
}

// pipeline is all that is in the switch, from other connections' view, of a bypass
// between the addresses that address makes of those of change.
func (b *ovsBench) pipeline(address func(netip.Addr) netip.Addr) string {
	t := b.t
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
	return strings.Join(append(lines, bands...), "\n") + "\n"
}

// number is what stands behind key in a dumped flow; 0 if it is not printed.
func number(line, key string) int {
	_, rest, _ := strings.Cut(" "+line, key)
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	n, _ := strconv.Atoi(rest[:max(end, 0)])
	return n
}
