package pump

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/tap"
)

// Each batch is cut by what the link's path takes then.
func TestOutFollowsThePathMTU(t *testing.T) {
	w := &wire{peer: peerID, mtu: 1429}
	port := NewPort(w)
	o := NewOut(OutConfig{Shared: shared(t, port), Device: w})
	for _, c := range []struct{ mtu, datagrams int }{{1429, 1}, {1209, 2}, {700, 3}, {1429, 1}, {8121, 1}} {
		w.mtu, w.sent = c.mtu, 0
		b := tap.NewBatch(1, 2048)
		require.True(t, b.Append(udp(macHere, macThere, ipHere, ipThere, 1380), tap.Offload{}))
		o.Batch(b)
		require.Equal(t, c.datagrams, w.sent, c.mtu)
		require.LessOrEqual(t, len(w.last), c.mtu)
	}
	require.Zero(t, o.Counters.Dropped(OutTooLong))
}
