package itest_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/itest"
)

func TestPrograms(t *testing.T) {
	itest.Require(t, "go")
	t.Setenv("VIAS_PROGRAMS", "")
	const testsum = "github.com/viasnet/vias/internal/cmd/testsum"
	var p itest.Programs
	require.NoError(t, p.Remove(), "nothing was built")
	path := p.Path(t, testsum)
	first, err := os.Stat(path)
	require.NoError(t, err)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if got := p.Path(t, testsum); got != path {
				t.Errorf("built at %s, and then at %s", path, got)
			}
		})
	}
	all.Wait()
	again, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, first.ModTime(), again.ModTime(), "it was built once")
	require.NoError(t, p.Remove())
	require.NoDirExists(t, filepath.Dir(path))

	t.Setenv("VIAS_PROGRAMS", "/built")
	require.Equal(t, "/built/testsum", p.Path(t, testsum))
}
