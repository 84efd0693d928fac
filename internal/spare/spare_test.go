package spare

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestList(t *testing.T) {
	made := 0
	l := NewList(func() *int { made++; return &made })
	x := l.Get()
	require.NotNil(t, x)
	require.Equal(t, 1, made)
	for range keep {
		l.Put(new(int))
	}
	l.Put(x) // one too many to be kept for sure
	for range keep {
		require.NotSame(t, x, l.Get())
	}
	require.Equal(t, 1, made, "those that were kept come first")
}

func TestListIsConcurrent(t *testing.T) {
	l := NewList(func() *[1]int { return new([1]int) })
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				x := l.Get()
				x[0]++ // the race detector's: one owner at a time
				l.Put(x)
			}
		})
	}
	wg.Wait()
}
