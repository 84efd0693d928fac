package vias

import (
	"encoding/binary"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
	"github.com/viasnet/vias/tap/taptest"
)

// A device with several queues: what workloads send arrives whichever queue it came from, and the
// frames of one flow in order, also those that go in fragments; what comes from a peer is written
// in order.
func TestQueues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, overlaytest.Config{MTU: 1000})
		a, b := l.node(nil), l.node(nil)
		l.mesh(a, b)
		for _, m := range []*node{a, b} {
			m.device, m.wire = taptest.PipeConfig{Queues: 3}.Open()
			m.run()
		}
		waitLinked(t, a, b)
		const flows, rounds = 20, 15
		send := func(from *node, src, dst int) {
			for n := range rounds {
				batch := tap.NewBatch(flows, flows*1600)
				for flow := range flows {
					f := tcpFrame(src, dst, uint16(1000+flow), 80, 0x10, 10+100*(n%14))
					binary.BigEndian.PutUint32(f[38:], uint32(n)) // the sequence number
					require.True(t, batch.Append(f, tap.Offload{}))
				}
				require.NoError(t, from.wire.WriteBatch(batch))
			}
		}
		for i, from := range []*node{a, b} {
			to := []*node{b, a}[i]
			send(from, i, 1-i)
			next, total := [flows]int{}, 0
			for total < flows*rounds {
				require.NoError(t, to.wire.ReadBatch(to.buffer))
				for k := range to.buffer.Len() {
					f := to.buffer.Frame(k)
					if len(f) < 54 || f[12] != 8 || f[13] != 0 {
						continue
					}
					flow := binary.BigEndian.Uint16(f[34:]) - 1000
					require.EqualValues(t, next[flow], binary.BigEndian.Uint32(f[38:]))
					next[flow]++
					total++
				}
			}
		}
		synctest.Wait()
		require.Zero(t, a.Stats().Drops.Total()+b.Stats().Drops.Total())
	})
}
