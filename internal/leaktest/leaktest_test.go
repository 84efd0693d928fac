package leaktest

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGoroutines(t *testing.T) {
	require.Empty(t, Goroutines())
	stop, ended, started := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go leak(started, stop, ended)
	<-started
	left := Goroutines()
	close(stop)
	<-ended
	require.Len(t, left, 1)
	require.Contains(t, left[0], "leaktest.leak(")
}

func leak(started, stop, ended chan struct{}) {
	defer close(ended)
	close(started)
	<-stop
}

func TestDescriptors(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("descriptors can be listed on Linux only")
	}
	before := Descriptors()
	f, err := os.Create(filepath.Join(t.TempDir(), "left-open"))
	require.NoError(t, err)
	fresh := newIn(before, Descriptors())
	require.NoError(t, f.Close())
	require.Len(t, fresh, 1)
	require.True(t, strings.HasSuffix(fresh[0], "left-open"))
	require.Empty(t, newIn(before, Descriptors()))
}
