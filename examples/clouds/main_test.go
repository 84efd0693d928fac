package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	f, code := parse([]string{"-settle", "2s", "-keep", "-json", "x.json"})
	require.NotNil(t, f)
	require.Zero(t, code)
	require.Equal(t, 2*time.Second, f.clouds.Settle)
	require.True(t, f.keep)
	for _, wrong := range [][]string{{"-settle", "10ms"}, {"now"}, {"-what"}} {
		f, code = parse(wrong)
		require.Nil(t, f)
		require.Equal(t, 2, code, wrong)
	}
	f, code = parse([]string{"-h"})
	require.Nil(t, f)
	require.Zero(t, code)
}
