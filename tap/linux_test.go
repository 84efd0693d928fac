package tap_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/tap"
)

func TestLinuxConfigRefused(t *testing.T) {
	for _, c := range []struct {
		config tap.LinuxConfig
		want   string
	}{
		{tap.LinuxConfig{}, "name is needed"},
		{tap.LinuxConfig{Name: "sixteen-bytes-xx"}, "16 bytes; Linux takes at most 15"},
		{tap.LinuxConfig{Name: "a", MTU: -1}, "MTU of -1"},
		{tap.LinuxConfig{Name: "a", MTU: 65536}, "MTU of 65536"},
		{tap.LinuxConfig{Name: "a", SuperFrame: 65537}, "super-frames of 65537 bytes"},
	} {
		d, err := c.config.Open(t.Context())
		require.ErrorContains(t, err, c.want)
		require.Nil(t, d)
	}
	_, err := tap.Linux(strings.Repeat("x", 16))(t.Context())
	require.ErrorContains(t, err, "at most 15")
	require.NotErrorIs(t, err, errors.ErrUnsupported)
}
