package ofpath_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/bypass/ofpath"
	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/ofctl/ofctltest"
)

// mark is Config.Mark in these tests.
const mark = 1 << 63

// Two pipelines that forward as the suite's bridge does: ports with VLAN 7 to each other, the uplink and the
// host to each other; first is the first of the three workloads' ports.
func pipelines(first uint32) map[string][]ofctl.Flow {
	workloads := []uint32{first, first + 1, first + 2}
	return map[string][]ofctl.Flow{"like OVN": ovnLike(workloads), "like Faucet": faucetLike(workloads)}
}

// ovnLike is in the manner of OVN: table 0 loads the datapath's number into metadata, port security by
// source, ingress tables that look up the destination, output by port. OVN has its ports in registers; here it is metadata's
// upper half.
func ovnLike(workloads []uint32) []ofctl.Flow {
	const ofCookie = 0x4d59
	var flows []ofctl.Flow
	add := func(f ofctl.Flow) { f.Cookie = ofCookie; flows = append(flows, f) }
	meta := func(v uint64) []ofctl.Action { return []ofctl.Action{ofctl.SetField{Field: ofctl.Metadata(v, 0)}} }
	for _, in := range workloads {
		add(ofctl.Flow{Priority: 100, Match: ofctl.Match{ofctl.InPort(in)}, Apply: meta(7), Goto: 32})
	}
	for _, in := range []uint32{1, ofctl.PortLocal} {
		add(ofctl.Flow{Priority: 100, Match: ofctl.Match{ofctl.InPort(in)}, Apply: meta(1), Goto: 32})
	}
	// Port security: a source that nobody has.
	add(ofctl.Flow{Table: 32, Priority: 100, Match: ofctl.Match{ofctl.EthSrc(spoofed)}})
	add(ofctl.Flow{Table: 32, Goto: 40})
	for _, net := range [][]uint32{workloads, {1, ofctl.PortLocal}} {
		number := uint64(7)
		if len(net) == 2 {
			number = 1
		}
		for _, in := range net {
			var out []ofctl.Action
			for _, to := range net {
				if to != in {
					out = append(out, ofctl.Output{Port: to})
				}
			}
			add(ofctl.Flow{Table: 40, Priority: 50, Match: ofctl.Match{ofctl.InPort(in), ofctl.Metadata(number, 0)}, Apply: out})
		}
	}
	return flows
}

// faucetLike is in the manner of Faucet: a table of VLANs, one of sources, one of destinations, and floods; what it
// does with a frame it writes into the action set.
func faucetLike(workloads []uint32) []ofctl.Flow {
	const ofCookie = 0x5adc15c0
	var flows []ofctl.Flow
	add := func(f ofctl.Flow) { f.Cookie = ofCookie; flows = append(flows, f) }
	for _, in := range workloads {
		add(ofctl.Flow{Priority: 9000, Match: ofctl.Match{ofctl.InPort(in), ofctl.Untagged()},
			Apply: []ofctl.Action{ofctl.PushVLAN{}, ofctl.SetField{Field: ofctl.VLAN(7)}}, Goto: 40})
	}
	for _, in := range []uint32{1, ofctl.PortLocal} {
		add(ofctl.Flow{Priority: 9000, Match: ofctl.Match{ofctl.InPort(in), ofctl.Untagged()},
			Apply: []ofctl.Action{ofctl.PushVLAN{}, ofctl.SetField{Field: ofctl.VLAN(1)}}, Goto: 40})
	}
	add(ofctl.Flow{})
	add(ofctl.Flow{Table: 40, Priority: 9001, Match: ofctl.Match{ofctl.EthSrc(spoofed)}})
	add(ofctl.Flow{Table: 40, Priority: 9000, Goto: 50})
	for vid, net := range map[uint16][]uint32{7: workloads, 1: {1, ofctl.PortLocal}} {
		for _, in := range net {
			as := []ofctl.Action{ofctl.PopVLAN{}}
			for _, to := range net {
				if to != in {
					as = append(as, ofctl.Output{Port: to})
				}
			}
			add(ofctl.Flow{Table: 50, Priority: 8000, Match: ofctl.Match{ofctl.InPort(in), ofctl.VLAN(vid)}, Apply: as})
		}
	}
	return flows
}

// spoofed is a source that the pipelines take from nobody.
var spoofed = [6]byte{2, 0xbad & 0xff, 0xba, 0xd0, 0, 1}

// fakeTwo is two switches in memory, joined by a pair of patch ports.
type fakeTwo struct {
	*fakeBench
	outer *fakeBench
}

func newFakeTwo(t *testing.T) bypasstest.Bench {
	x := &fakeTwo{newFakeOf(t, bypasstest.WorkloadA, bypasstest.WorkloadB, bypasstest.Plain), newFakeOf(t, bypasstest.Uplink, bypasstest.Stack)}
	for from, to := range map[*fakeBench]*fakeBench{x.fakeBench: x.outer, x.outer: x.fakeBench} {
		_, err := from.fake.AddPort(ofctltest.Port{No: 9, Name: "patch", Trunks: []uint16{0},
			Output: func(f []byte) { to.fake.Input(9, f) }})
		require.NoError(t, err)
		from.other = other{t, from.fake}
		from.normal()
	}
	return x
}

func (x *fakeTwo) Open(ctx context.Context) (bypass.Datapath, error) {
	c, outer := x.config(), x.outer.config()
	c.Uplink, c.External = "patch", &ofpath.External{Dial: outer.Dial, Uplink: outer.Uplink, Patch: "patch"}
	return ofpath.Open(c)(ctx)
}

func (x *fakeTwo) at(e bypasstest.End) *fakeBench {
	if e == bypasstest.Uplink || e == bypasstest.Stack {
		return x.outer
	}
	return x.fakeBench
}

func (x *fakeTwo) Send(e bypasstest.End, frame []byte) { x.at(e).Send(e, frame) }

func (x *fakeTwo) Recv(e bypasstest.End, timeout time.Duration) []byte {
	return x.at(e).Recv(e, timeout)
}

func (x *fakeTwo) Foreign() func() string {
	inner, outer := x.foreign(), x.outer.foreign()
	return func() string { return inner() + "\n" + outer() }
}

// TestTwoBridges runs the conformance suite where the uplink is on an external bridge.
func TestTwoBridges(t *testing.T) {
	bypasstest.RunDatapath(t, bypasstest.DatapathHarness{New: newFakeTwo, Virtual: true})
}

// fakeShared is a switch in memory with a pipeline of somebody else's.
type fakeShared struct{ *fakeBench }

func (x fakeShared) Open(ctx context.Context) (bypass.Datapath, error) {
	c := x.config()
	c.Mark, c.Priority = mark, 20000
	return ofpath.Open(c)(ctx)
}

// TestShared runs the conformance suite on switches that have a pipeline of somebody else's.
func TestShared(t *testing.T) {
	for name, pipeline := range pipelines(3) {
		t.Run(name, func(t *testing.T) {
			bypasstest.RunDatapath(t, bypasstest.DatapathHarness{Virtual: true, New: func(sub *testing.T) bypasstest.Bench {
				b := newFake(sub)
				b.other = other{sub, b.fake}
				for _, f := range pipeline {
					b.apply(ofctl.FlowMod{Flow: f})
				}
				return fakeShared{b}
			}})
		})
	}
}
