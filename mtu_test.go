package vias

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/seg"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
	"github.com/viasnet/vias/tap/taptest"
)

// mtuPair is newPair with devices of these MTUs.
func mtuPair(tb testing.TB, c overlaytest.Config, mtus ...int) (a, b *node) {
	tb.Helper()
	l := newLab(tb, c)
	a, b = l.node(nil), l.node(nil)
	l.mesh(a, b)
	for i, m := range []*node{a, b} {
		m.device, m.wire = taptest.PipeConfig{MTU: mtus[i], Caps: tap.Caps{Offload: true, USO: true}}.Open()
		m.run()
	}
	waitLinked(tb, a, b)
	return a, b
}

// Whatever a device's MTU allows arrives as it is, in order, though no datagram of the link
// holds it.
func TestGuestMTUAboveTheLinks(t *testing.T) {
	for _, mtu := range []int{1500, 9000, 65535} {
		synctest.Test(t, func(t *testing.T) {
			a, b := mtuPair(t, overlaytest.Config{MTU: 1400}, mtu, mtu)
			require.Equal(t, mtu, a.MTU())
			var frames [][]byte
			for i, n := range []int{1385, 1386, mtu, 10, mtu - 1, 1387, 1} {
				f := ethernet(testMAC(1), testMAC(0), string(make([]byte, n)))
				f[len(f)-1] = byte(i)
				frames = append(frames, f)
			}
			for _, f := range frames {
				in := tap.NewBatch(1, tap.MaxFrame)
				require.True(t, in.Append(f, tap.Offload{}))
				require.NoError(t, a.wire.WriteBatch(in))
			}
			b.expect(frames...)
			require.Zero(t, a.Stats().Drops.Total())
			s := b.Stats()
			require.Zero(t, s.Drops.Total())
			require.Equal(t, a.Stats().Sent, s.Received)
			require.Equal(t, a.Peers()[0].Sent, b.Peers()[0].Received)
		})
	}
}

// A peer whose device takes less says so, and the workload that sends more is told.
func TestPeerMTUBelowOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := mtuPair(t, overlaytest.Config{}, 9000, 1500)
		require.Equal(t, 1500, a.MTU())
		require.Equal(t, 1500, b.MTU())
		f := tcpFrame(0, 1, 1000, 80, syn, 2000) // nobody cuts a SYN
		f[20] = 0x40                             // DF: not even as an IP packet
		seg.PutIPv4Checksum(f[14:34])
		in := tap.NewBatch(1, 4096)
		in.Append(f, tap.Offload{})
		require.NoError(t, a.wire.WriteBatch(in))
		defer time.AfterFunc(time.Minute, func() { _ = a.wire.Close() }).Stop()
		require.NoError(t, a.wire.ReadBatch(a.buffer))
		synctest.Wait() // until who wrote it has counted it
		m := a.buffer.Frame(0)
		require.Equal(t, f[6:12], m[:6])
		require.Equal(t, f[:6], m[6:12])
		require.Equal(t, []byte{3, 4}, m[34:36])
		require.Equal(t, []byte{1500 >> 8, 1500 & 0xff}, m[40:42])
		require.Equal(t, Drops{OutTooLong: 1}, a.Stats().Drops)
		require.Equal(t, uint64(1), a.Stats().TooBig)
		require.Zero(t, b.Stats().Received.Frames)
	})
}
