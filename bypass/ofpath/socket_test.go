package ofpath_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/bypass/ofpath"
	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/ofctl/ofctltest"
)

// servedBench is a datapath that speaks OpenFlow over a socket to a switch in memory, as it would
// to a real one.
type servedBench struct {
	*fakeBench
	address string
}

func newServedBench(t *testing.T) bypasstest.Bench {
	b := newFake(t)
	b.other = other{t, b.fake}
	b.normal()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- ofctltest.Serve(ctx, l, b.fake) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-served) })
	return &servedBench{b, "unix:" + l.Addr().String()}
}

func (b *servedBench) Open(ctx context.Context) (bypass.Datapath, error) {
	return ofpath.Open(ofpath.Config{Dial: ofctl.Dialer(b.address, ofctl.Config{}), Uplink: "eth0"})(ctx)
}

// TestDatapathOverSocket runs the conformance suite, as on Open vSwitch, in real time: what the two do
// differently is a bug of the one in memory.
func TestDatapathOverSocket(t *testing.T) {
	t.Parallel()
	bypasstest.RunDatapath(t, bypasstest.DatapathHarness{New: newServedBench, AtOnce: 24, Brief: true})
}
