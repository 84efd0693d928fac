// Package ovstest starts a real Open vSwitch for a test: daemons, database and
// network namespace of its own, gone when the test ends.
package ovstest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/internal/lab"
)

// Config says how the switch runs; the zero value is good.
type Config struct {
	// TSO sets userspace-tso-enable.
	TSO bool
}

// Switch is a running Open vSwitch.
type Switch struct {
	*lab.OVSD
	// Netns is the name of the network namespace that ovs-vswitchd runs in.
	Netns string
	tb    testing.TB
}

// Start starts a switch and stops it in tb's Cleanup.
// Where that is not possible the test is skipped (see package itest).
func Start(tb testing.TB) *Switch { return StartConfig(tb, Config{}) }

// StartConfig is Start with a Config.
func StartConfig(tb testing.TB, cfg Config) *Switch {
	tb.Helper()
	itest.Require(tb, "ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl", "ip")
	// tb.TempDir is too long for unix sockets.
	dir, err := os.MkdirTemp("", "vo")
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, os.RemoveAll(dir)) })
	id := make([]byte, 4)
	_, err = rand.Read(id)
	require.NoError(tb, err)
	s := &Switch{Netns: "vo" + hex.EncodeToString(id), tb: tb}
	s.IP("netns", "add", s.Netns)
	tb.Cleanup(func() { s.IP("netns", "del", s.Netns) })
	s.IP("-n", s.Netns, "link", "set", "lo", "up")
	s.OVSD, err = lab.StartOVSD(tb.Context(), lab.OVSDConfig{Dir: dir, Netns: s.Netns, TSO: cfg.TSO})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, s.Stop()) })
	return s
}

// Bridge makes a bridge with the datapath that itest.Datapath names, without any flow,
// and returns its OpenFlow address for ofctl.Dial.
func (s *Switch) Bridge(name string) string {
	s.tb.Helper()
	s.MustVsctl("add-br", name, "--", "set", "bridge", name, "datapath_type="+itest.BridgeType(s.tb), "fail-mode=secure")
	return s.Mgmt(name)
}

// Port makes a veth pair in the switch's namespace, adds its end name to the
// bridge, and leaves the other end, peer, to the test. It returns the ofport.
func (s *Switch) Port(bridge, name, peer string) string {
	s.tb.Helper()
	s.IP("-n", s.Netns, "link", "add", name, "type", "veth", "peer", "name", peer)
	for _, end := range []string{name, peer} {
		s.IP("-n", s.Netns, "link", "set", end, "up")
	}
	s.MustVsctl("add-port", bridge, name)
	return s.MustVsctl("get", "interface", name, "ofport")
}

// MustVsctl is Vsctl that fails the test on an error.
func (s *Switch) MustVsctl(args ...string) string {
	s.tb.Helper()
	out, err := s.Vsctl(context.Background(), args...)
	require.NoError(s.tb, err)
	return out
}

// MustOfctl is Ofctl that fails the test on an error.
func (s *Switch) MustOfctl(args ...string) string {
	s.tb.Helper()
	out, err := s.Ofctl(context.Background(), args...)
	require.NoError(s.tb, err)
	return out
}

// DumpFlows is what ovs-ofctl dump-flows prints, a line per flow, without counters.
func (s *Switch) DumpFlows(bridge string) []string {
	s.tb.Helper()
	out := s.MustOfctl("--no-stats", "dump-flows", bridge)
	var lines []string
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// IP runs ip(8) and fails the test on an error.
func (s *Switch) IP(args ...string) {
	s.tb.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	require.NoError(s.tb, err, "ip %s: %s", strings.Join(args, " "), out)
}
