package main

import (
	"os"
	"testing"

	"github.com/viasnet/vias/internal/leaktest"
)

// playPlugin lets the test binary be the plugin for the programs that tests start.
const playPlugin = "VIAS_TEST_PLAY_CNI"

func TestMain(m *testing.M) {
	if os.Getenv(playPlugin) != "" {
		os.Exit(run())
	}
	leaktest.Main(m)
}
