package main

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func TestQuickstart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, run(ctx, t.Output()))
}

// The claims must be able to fail.
func TestClaims(t *testing.T) {
	overlay := seen{round: 10, link: 40}
	wire := seen{round: 10, wire: 20, rules: 40}
	require.NoError(t, overlay.onOverlay())
	require.NoError(t, wire.onWire())
	require.ErrorContains(t, wire.onOverlay(), "in clear")
	require.ErrorContains(t, overlay.onWire(), "0 segments on the wire")
	for name, s := range map[string]seen{
		"too few link frames": {round: 10, link: 39},
		"rules took some":     {round: 10, link: 40, rules: 1},
	} {
		require.Error(t, s.onOverlay(), name)
	}
	for name, s := range map[string]seen{
		"not rewritten":    {round: 10, wire: 20, rules: 40, strange: "tcp 192.168.7.1:1 > 192.168.7.2:2"},
		"a link frame":     {round: 10, wire: 20, rules: 40, link: 1},
		"not in the rules": {round: 10, wire: 20, rules: 39},
		"too few segments": {round: 10, wire: 19, rules: 40},
	} {
		require.Error(t, s.onWire(), name)
	}
}
