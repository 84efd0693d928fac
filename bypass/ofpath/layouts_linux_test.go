package ofpath_test

import (
	"context"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/bypass/ofpath"
	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/internal/ovstest"
	"github.com/viasnet/vias/ofctl"
)

// twoBridges is a bench whose uplink and host's address are on an external bridge, joined by patch
// ports with the workloads': Open vSwitch's and OVN's layout.
type twoBridges struct {
	*ovsBench
	ex   other
	name string
	mgmt string
}

// newTwoBridges moves the uplinks of benches to external bridges.
func newTwoBridges(t testing.TB, ovs *ovstest.Switch, count int) (list []*twoBridges) {
	for i, b := range newOVSBenches(t, ovs, 1, count) {
		n := strconv.Itoa(i + 1)
		x := &twoBridges{ovsBench: b, name: "ex" + n, mgmt: ovs.Mgmt("ex" + n)}
		ovs.MustVsctl("del-port", b.br, b.uplink,
			"--", "add-br", x.name, "--", "set", "bridge", x.name, "datapath_type="+itest.BridgeType(t), "fail-mode=secure",
			"--", "set", "port", x.name, "trunks=0",
			"--", "add-port", x.name, b.uplink, "trunks=0", "--", "set", "interface", b.uplink, "ofport_request=1",
			"--", "add-port", x.name, "pe"+n, "trunks=0", "--", "set", "interface", "pe"+n, "type=patch", "options:peer=pi"+n, "ofport_request=9",
			"--", "add-port", b.br, "pi"+n, "trunks=0", "--", "set", "interface", "pi"+n, "type=patch", "options:peer=pe"+n, "ofport_request=9")
		require.Equal(t, "9", ovs.MustVsctl("get", "interface", "pi"+n, "ofport"))
		ovs.IP("-n", ovs.Netns, "link", "set", x.name, "up")
		b.fds[bypasstest.Stack] = packetSocket(t, ovs.Netns, x.name)
		sw, err := ofctl.Dial(context.Background(), x.mgmt, ofctl.Config{})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, sw.Close()) })
		x.ex = other{t, sw}
		list = append(list, x)
	}
	return list
}

func (x *twoBridges) config() ofpath.Config {
	n := x.name[len("ex"):]
	return ofpath.Config{Dial: x.dial, Uplink: "pi" + n, External: &ofpath.External{
		Dial:   func(ctx context.Context) (ofctl.Switch, error) { return ofctl.Dial(ctx, x.mgmt, ofctl.Config{}) },
		Uplink: x.uplink, Patch: "pe" + n,
	}}
}

func (x *twoBridges) Open(ctx context.Context) (bypass.Datapath, error) {
	return ofpath.Open(x.config())(ctx)
}

func (x *twoBridges) Foreign() func() string {
	inner, outer := x.foreign(), x.ex.foreign()
	return func() string { return inner() + "\n" + outer() }
}

func (x *twoBridges) reset() {
	clear := func(o other) {
		o.apply(ofctl.FlowMod{Command: ofctl.Delete, Flow: ofctl.Flow{Table: ofctl.TableAll}},
			ofctl.GroupMod{Command: ofctl.Delete, Group: ofctl.Group{ID: 0xfffffffc}}) // OFPG_ALL
	}
	clear(x.ex)
	_, err := x.ovs.Appctl(context.Background(), "fdb/flush", x.name)
	require.NoError(x.t, err)
	x.ovsBench.reset()
}

// beside has t run beside other runs of the suite, which spend their time waiting; not on the one slow core
// that a kernel of its own has, where leases would end before they are renewed.
func beside(t *testing.T) {
	if itest.Datapath(t) != itest.System {
		t.Parallel()
	}
}

// TestIntegrationTwoBridges runs the conformance suite where the uplink is on an external bridge.
func TestIntegrationTwoBridges(t *testing.T) {
	beside(t)
	runSuite(t, newTwoBridges(t, ovstest.Start(t), suiteBenches))
}

func (x *twoBridges) take(t *testing.T) {
	x.ovsBench.take(t)
	x.ex.t = t
	x.ex.normal()
}

// sharedBench is a bench whose bridge has a pipeline of somebody else's instead of NORMAL.
type sharedBench struct {
	*ovsBench
	pipeline []ofctl.Flow
}

func (x *sharedBench) Open(ctx context.Context) (bypass.Datapath, error) {
	return ofpath.Open(ofpath.Config{Dial: x.dial, Uplink: x.uplink, Mark: mark, Priority: 20000})(ctx)
}

func (x *sharedBench) install() {
	for _, f := range x.pipeline {
		x.apply(ofctl.FlowMod{Flow: f})
	}
}

// TestIntegrationShared runs the conformance suite on bridges that have a pipeline of somebody else's.
func TestIntegrationShared(t *testing.T) {
	for name, pipeline := range pipelines(2) {
		t.Run(name, func(t *testing.T) {
			beside(t)
			var benches []*sharedBench
			for _, b := range newOVSBenches(t, ovstest.Start(t), 1, suiteBenches) {
				benches = append(benches, &sharedBench{b, pipeline})
			}
			runSuite(t, benches)
		})
	}
}

func (x *sharedBench) take(t *testing.T) {
	x.t = t
	x.install()
}
