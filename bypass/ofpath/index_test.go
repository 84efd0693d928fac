package ofpath

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/tap"
)

// TestIndex compares an index with a plain list, over rules that often have each other's
// ID, match or ends, and sees that ends nobody uses are not kept.
func TestIndex(t *testing.T) {
	chance := rand.New(rand.NewPCG(1, 2))
	x := newIndex()
	var want []entry
	drop := func(gone func(entry) bool) { want = slices.DeleteFunc(want, gone) }
	for i := range 20_000 {
		e := entry{id: 1 + chance.Uint32N(20), peer: chance.Uint32N(3), since: int64(i)}
		e.dir, e.sp = bypass.Direction(chance.IntN(3)), uint16(chance.IntN(4))
		if e.dir == bypass.Outbound {
			e.ends = ends{ofport: 1 + chance.Uint32N(2), smac: tap.MAC{2, byte(chance.IntN(2))}, dmac: tap.MAC{4, byte(chance.IntN(3))}}
		}
		e.src = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}[chance.IntN(2)]
		if chance.IntN(2) == 0 {
			x.put(e)
			drop(func(o entry) bool { return o.key() == e.key() || o.matchKey == e.matchKey })
			want = append(want, e)
		} else {
			x.drop(e.key())
			drop(func(o entry) bool { return o.key() == e.key() })
		}
		got, there := x.get(e.key())
		require.Equal(t, slices.Contains(want, got), there)
		id, taken := x.owner(e.matchKey)
		at := slices.IndexFunc(want, func(o entry) bool { return o.matchKey == e.matchKey })
		require.Equal(t, at >= 0, taken)
		if taken {
			require.Equal(t, want[at].id, id)
		}
		used := map[ends]bool{}
		for _, o := range want {
			used[o.ends] = true
		}
		require.Len(t, x.ends.numbers, len(used))
		require.Len(t, x.byMatch, len(want))
	}
	require.ElementsMatch(t, want, slices.Collect(x.all()))
	require.LessOrEqual(t, len(x.ends.list), 2*(2*2*3+1), "numbers are used again")
	for _, e := range want {
		x.drop(e.key())
	}
	require.Empty(t, x.ends.numbers)
	require.Empty(t, x.rules)
	require.Empty(t, x.byMatch)
}
