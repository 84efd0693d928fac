package ovs_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	goovs "github.com/digitalocean/go-openvswitch/ovs"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/ovstest"
	"github.com/viasnet/vias/ofctl"
)

// benchFlow is a flow with a rewrite, in the words of both libraries.
func benchFlow(i int) (ofctl.Flow, *goovs.Flow) {
	return ofctl.Flow{Table: 20, Priority: 100, IdleTimeout: 60,
			Match: ofctl.TCP4(ofctl.InPort(3), ofctl.TCPSrc(uint16(i)), ofctl.TCPDst(80)),
			Apply: []ofctl.Action{ofctl.SetField{Field: ofctl.TCPSrc(61441)}, ofctl.Output{Port: 1}}},
		&goovs.Flow{Table: 20, Priority: 100, IdleTimeout: 60, Protocol: goovs.ProtocolTCPv4, InPort: 3,
			Matches: []goovs.Match{goovs.TransportSourcePort(uint16(i)), goovs.TransportDestinationPort(80)},
			Actions: []goovs.Action{goovs.SetField("61441", "tcp_src"), goovs.Output(1)}}
}

// rig is one switch and the ways into it.
type rig struct {
	s       *ovstest.Switch
	address string
	native  *ofctl.Conn
	library *goovs.Client
}

func newRig(b *testing.B) *rig {
	s := ovstest.Start(b)
	r := &rig{s: s, address: s.Bridge("br0"), library: goovs.New(goovs.Protocols([]string{goovs.ProtocolOpenFlow13}))}
	var err error
	r.native, err = ofctl.Dial(b.Context(), r.address, ofctl.Config{})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, r.native.Close()) })
	return r
}

// BenchmarkOneFlow adds one flow to Open vSwitch and knows that it is in its tables.
func BenchmarkOneFlow(b *testing.B) {
	r := newRig(b)
	flow, theirs := benchFlow(1)
	text, mods := flow.String(), []ofctl.Mod{ofctl.FlowMod{Flow: flow}}
	for _, row := range []struct {
		name string
		add  func() error
	}{
		{"ofctl", func() error { return r.native.Apply(b.Context(), mods) }},
		{"ovs-ofctl", func() error { _, err := r.s.Ofctl(b.Context(), "add-flow", r.address, text); return err }},
		{"go-openvswitch", func() error { return r.library.OpenFlow.AddFlow(r.address, theirs) }},
	} {
		b.Run(row.name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				start := time.Now()
				require.NoError(b, row.add())
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}

// BenchmarkManyFlows adds 10,000 flows to empty tables: one after the other, and atomically.
func BenchmarkManyFlows(b *testing.B) {
	const n = 10_000
	r := newRig(b)
	var messages []ofctl.Message
	var mods []ofctl.Mod
	var theirs []*goovs.Flow
	var text strings.Builder
	for i := range n {
		f, g := benchFlow(i)
		messages, mods, theirs = append(messages, ofctl.FlowMod{Flow: f}), append(mods, ofctl.FlowMod{Flow: f}), append(theirs, g)
		text.WriteString(f.String() + "\n")
	}
	file := filepath.Join(b.TempDir(), "flows")
	require.NoError(b, os.WriteFile(file, []byte(text.String()), 0o600))
	for _, row := range []struct {
		name string
		add  func() error
	}{
		{"ofctl pipelined", func() error { return r.native.Send(b.Context(), messages...) }},
		{"ofctl bundle", func() error { return r.native.Apply(b.Context(), mods) }},
		{"ovs-ofctl add-flows", func() error { _, err := r.s.Ofctl(b.Context(), "add-flows", r.address, file); return err }},
		{"ovs-ofctl bundle", func() error { _, err := r.s.Ofctl(b.Context(), "--bundle", "add-flows", r.address, file); return err }},
		{"go-openvswitch bundle", func() error {
			return r.library.OpenFlow.AddFlowBundle(r.address, func(tx *goovs.FlowTransaction) error {
				tx.Add(theirs...)
				return tx.Commit()
			})
		}},
	} {
		b.Run(row.name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				require.NoError(b, r.native.Send(b.Context(), ofctl.FlowMod{Command: ofctl.Delete, Flow: ofctl.Flow{Table: ofctl.TableAll}}))
				b.StartTimer()
				require.NoError(b, row.add())
			}
			b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "flow-mods/s")
		})
	}
}
