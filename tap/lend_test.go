package tap

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// one is a Source of one batch.
type one struct {
	batch *Batch
	out   bool
}

func (o *one) Get() *Batch { o.out = true; return o.batch }
func (o *one) Put(*Batch)  { o.out = false }

func TestLend(t *testing.T) {
	whole, source := NewBatch(2, 100), &one{batch: NewBatch(2, 100)}
	lent := Lend(source)
	for range 3 { // again and again, with the same memory
		require.False(t, source.out)
		require.Zero(t, lent.Len())
		lent.Release() // of nothing
		require.Equal(t, whole.Free(), lent.Free())
		for i := 0; ; i++ {
			frame := make([]byte, 60-i)
			ok := whole.Append(frame, Offload{})
			require.Equal(t, ok, lent.Append(frame, Offload{}))
			require.Equal(t, whole.Free(), lent.Free())
			require.Equal(t, whole.Len(), lent.Len())
			if !ok {
				break
			}
		}
		require.True(t, source.out)
		require.NotZero(t, lent.Len())
		lent.SetUrgent()
		whole.Reset()
		lent.Release()
		require.False(t, lent.Urgent())
		require.Zero(t, source.batch.Len())
	}
	whole.Release()
	require.NotNil(t, whole.mem, "its memory is its own")
}

func BenchmarkLend(b *testing.B) {
	lent, frame := Lend(&one{batch: NewBatch(256, 3*MaxFrame)}), make([]byte, 1400)
	b.ReportAllocs()
	for b.Loop() {
		lent.Append(frame, Offload{})
		lent.Release()
	}
}
