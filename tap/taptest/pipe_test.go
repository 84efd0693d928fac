package taptest_test

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/tap"
	"github.com/viasnet/vias/tap/taptest"
)

func TestPipe(t *testing.T) {
	taptest.Run(t, func(*testing.T) (dev, peer tap.Device) { return taptest.Pipe(1500) })
}

func TestPipeOffload(t *testing.T) {
	caps := tap.Caps{Offload: true, USO: true}
	taptest.Run(t, func(*testing.T) (dev, peer tap.Device) {
		return taptest.PipeConfig{MTU: 9000, Caps: caps}.Open()
	})
	for _, c := range []struct {
		name    string
		caps    tap.Caps
		offload tap.Offload
		length  int
		passes  bool
	}{
		{"checksum", tap.Caps{Offload: true}, tap.Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16}, 100, true},
		{"checksum, no caps", tap.Caps{}, tap.Offload{NeedsChecksum: true}, 100, false},
		{"super-frame", tap.Caps{Offload: true}, tap.Offload{GSO: tap.GSOTCP4, SegmentSize: 1460}, tap.MaxFrame, true},
		{"super-frame, no caps", tap.Caps{}, tap.Offload{GSO: tap.GSOTCP4, SegmentSize: 1460}, 100, false},
		{"super-frame, segments too long", tap.Caps{Offload: true}, tap.Offload{GSO: tap.GSOTCP4, SegmentSize: 1501}, 3000, false},
		{"super-frame too long", tap.Caps{Offload: true}, tap.Offload{GSO: tap.GSOTCP4, SegmentSize: 1460}, tap.MaxFrame + 1, false},
		{"USO", caps, tap.Offload{GSO: tap.GSOUDP, SegmentSize: 1200}, 5000, true},
		{"USO, no USO", tap.Caps{Offload: true}, tap.Offload{GSO: tap.GSOUDP, SegmentSize: 1200}, 5000, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := taptest.PipeConfig{Caps: c.caps}.Open()
			require.Equal(t, c.caps, a.Caps())
			batch := tap.NewBatch(2, tap.MaxFrame+1000)
			require.True(t, batch.Append(taptest.Frame(0, c.length-tap.HeaderLen), c.offload))
			require.True(t, batch.Append(taptest.Frame(1, 60), tap.Offload{}))
			require.NoError(t, a.WriteBatch(batch))
			require.NoError(t, b.ReadBatch(batch))
			if !c.passes {
				require.Equal(t, 1, batch.Len())
				require.Equal(t, tap.Stats{WriteDropped: 1}, a.(tap.Counted).Stats())
				return
			}
			require.Equal(t, 2, batch.Len())
			require.Equal(t, c.offload, batch.Offload(0))
		})
	}
}

func TestPipeQueueIsBounded(t *testing.T) {
	a, b := taptest.PipeConfig{Queue: 3}.Open()
	batch := tap.NewBatch(5, 5*100)
	for i := range 5 {
		require.True(t, batch.Append(taptest.Frame(i, 60), tap.Offload{}))
	}
	require.NoError(t, a.WriteBatch(batch))
	require.NoError(t, b.ReadBatch(batch))
	require.Equal(t, 3, batch.Len(), "a full queue drops the newest")
	require.Equal(t, uint64(2), a.(tap.Counted).Stats().WriteDropped)
}

// One end gone is a wire unplugged: no error, what was under way still comes.
func TestPipePeerClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := taptest.Pipe(0)
		batch := tap.NewBatch(1, 100)
		batch.Append(taptest.Frame(7, 60), tap.Offload{})
		require.NoError(t, a.WriteBatch(batch))
		require.NoError(t, a.Close())
		require.NoError(t, b.ReadBatch(batch))
		require.Equal(t, taptest.Frame(7, 60), batch.Frame(0))
		require.NoError(t, b.WriteBatch(batch), "into nothing")

		done := false
		go func() {
			require.ErrorIs(t, b.ReadBatch(batch), tap.ErrClosed)
			done = true
		}()
		synctest.Wait()
		require.False(t, done, "waits")
		require.NoError(t, b.Close())
		synctest.Wait()
		require.True(t, done)
	})
}

func TestPipeQueues(t *testing.T) {
	taptest.RunQueues(t, func(*testing.T) (tap.MultiQueue, tap.Device) {
		a, b := taptest.PipeConfig{Queues: 3}.Open()
		return a.(tap.MultiQueue), b
	})
	taptest.Run(t, func(*testing.T) (dev, peer tap.Device) { return taptest.PipeConfig{Queues: 1}.Open() })
}
