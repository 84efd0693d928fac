package ofpath_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/bypass/ofpath"
	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/ofctl/ofctltest"
)

// tableOf is where a direction's rules are in the default layout.
var tableOf = map[bypass.Direction]uint8{bypass.Outbound: 20, bypass.Inbound: 10}

// foreignFlows are what the host itself has in the switch: NORMAL for all, and
// flows in tables and with priorities that are ours too.
var foreignFlows = []ofctl.Flow{
	{Apply: []ofctl.Action{ofctl.Normal()}},
	{Priority: 300, Cookie: 0x1234, Match: ofctl.TCP4(ofctl.InPort(77)), Apply: []ofctl.Action{ofctl.Normal()}},
	{Table: 10, Priority: 7, Cookie: 5, Match: ofctl.ARP(), Apply: []ofctl.Action{ofctl.Normal()}},
	{Table: 21, Priority: 100, Match: ofctl.UDP4(), Apply: []ofctl.Action{ofctl.Normal()}},
	{Table: 22, Priority: 100, Match: ofctl.TCP4(), Apply: []ofctl.Action{ofctl.Tether{Table: 20, Cookie: 0x1234}}},
}

// other is somebody else's connection to the switch.
type other struct {
	t  testing.TB
	sw ofctl.Switch
}

func (o other) apply(mods ...ofctl.Mod) {
	o.t.Helper()
	require.NoError(o.t, o.sw.Apply(context.Background(), mods))
}

// normal does what every bridge is told to do with what is not bypassed.
func (o other) normal() { o.apply(ofctl.FlowMod{Flow: foreignFlows[0]}) }

// foreign adds flows and a group, and returns what dumps them.
func (o other) foreign() func() string {
	o.t.Helper()
	o.apply(ofctl.GroupMod{Group: ofctl.Group{
		ID: 1, Type: ofctl.GroupIndirect,
		Buckets: []ofctl.Bucket{{Actions: []ofctl.Action{ofctl.Output{Port: ofctl.PortLocal}}}},
	}})
	for _, f := range foreignFlows {
		o.apply(ofctl.FlowMod{Flow: f})
	}
	return func() string {
		var lines []string
		for _, s := range o.flows() {
			if s.Cookie>>48 != 0x7661 {
				lines = append(lines, s.Flow.String())
			}
		}
		groups, err := o.sw.Groups(context.Background())
		require.NoError(o.t, err)
		for _, g := range groups {
			if g.ID>>16 != 0x7661 {
				lines = append(lines, g.String())
			}
		}
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
}

func (o other) flows() []ofctl.FlowStat {
	o.t.Helper()
	flows, err := o.sw.Flows(context.Background(), ofctl.AllFlows)
	require.NoError(o.t, err)
	return flows
}

// delete deletes a peer's rules of one direction.
func (o other) delete(epoch uint16, dir bypass.Direction, peer uint32) {
	o.t.Helper()
	n := len(o.flows())
	o.apply(ofctl.FlowMod{
		Command: ofctl.Delete, CookieMask: ^uint64(0), Flow: ofctl.Flow{Table: tableOf[dir], Cookie: cookie(epoch, peer)},
	})
	require.Less(o.t, len(o.flows()), n, "no such flow: %v of %d", dir, peer)
}

func cookie(epoch uint16, whose uint32) uint64 { return 0x7661<<48 | uint64(epoch)<<32 | uint64(whose) }

// fakeBench is a datapath on an OpenFlow switch in memory.
type fakeBench struct {
	other
	fake  *ofctltest.Switch
	ports [5]uint32
	out   [5]chan []byte
}

// portsOf are the ports of a bench's bridge. Tags keep workloads and the overlay
// apart from the uplink and the host, as a real bridge's must.
var portsOf = [...]ofctltest.Port{
	bypasstest.Uplink:    {No: 1, Name: "eth0", Trunks: []uint16{0}},
	bypasstest.WorkloadA: {No: 3, Name: "w1", Tag: 7},
	bypasstest.WorkloadB: {No: 4, Name: "w2", Tag: 7},
	bypasstest.Plain:     {No: 5, Name: "vias0", Tag: 7},
	bypasstest.Stack:     {No: ofctl.PortLocal, Name: "br0", Trunks: []uint16{0}},
}

func newFake(t testing.TB) *fakeBench {
	return newFakeOf(t, bypasstest.Uplink, bypasstest.WorkloadA, bypasstest.WorkloadB, bypasstest.Plain, bypasstest.Stack)
}

// newFakeOf is a switch with some of the ports.
func newFakeOf(t testing.TB, ends ...bypasstest.End) *fakeBench {
	b := &fakeBench{fake: ofctltest.New(ofctltest.Config{})}
	t.Cleanup(func() { _ = b.fake.Close() })
	for _, i := range ends {
		p := portsOf[i]
		out := make(chan []byte, 64)
		p.MAC = [6]byte{2, 2, 2, 2, 2, byte(i)}
		p.Output = func(f []byte) {
			if bypasstest.Sought(f) {
				out <- f
			}
		}
		no, err := b.fake.AddPort(p)
		require.NoError(t, err)
		b.ports[i], b.out[i] = no, out
	}
	return b
}

func newFakeBench(t *testing.T) bypasstest.Bench {
	b := newFake(t)
	b.other = other{t, b.fake}
	b.normal()
	return b
}

func (b *fakeBench) config() ofpath.Config {
	return ofpath.Config{
		Dial:   func(context.Context) (ofctl.Switch, error) { return b.fake.Connect(), nil },
		Uplink: "eth0",
	}
}

func (b *fakeBench) Open(ctx context.Context) (bypass.Datapath, error) {
	return ofpath.Open(b.config())(ctx)
}

func (b *fakeBench) Ofport(e bypasstest.End) uint32                   { return b.ports[e] }
func (b *fakeBench) Send(e bypasstest.End, frame []byte)              { b.fake.Input(b.ports[e], frame) }
func (b *fakeBench) Settle()                                          {}
func (b *fakeBench) Foreign() func() string                           { return b.foreign() }
func (b *fakeBench) Delete(e uint16, d bypass.Direction, peer uint32) { b.delete(e, d, peer) }

func (b *fakeBench) Recv(e bypasstest.End, timeout time.Duration) []byte {
	select {
	case f := <-b.out[e]:
		return f
	case <-time.After(timeout):
		return nil
	}
}

func TestDatapath(t *testing.T) {
	bypasstest.RunDatapath(t, bypasstest.DatapathHarness{New: newFakeBench, Virtual: true})
}

// dumpFlows is all our flows as ovs-ofctl prints them, by table and priority.
func (o other) dumpFlows() []string {
	var lines []string
	for _, s := range o.flows() {
		if s.Cookie>>48 == 0x7661 {
			lines = append(lines, fmt.Sprintf("%03d %05d %s", s.Table, 0xffff-s.Priority, s.Flow))
		}
	}
	slices.Sort(lines)
	for i, l := range lines {
		lines[i] = l[len("000 00000 "):]
	}
	return lines
}
