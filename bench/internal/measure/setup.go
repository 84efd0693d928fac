//go:build linux

package measure

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/viasnet/vias/bench"
	"github.com/viasnet/vias/internal/lab"
)

// setUp measures what it costs to bypass so many flows, in a lab of their own: what earlier ones
// left in the switches would count.
func setUp(ctx context.Context, o Options, flows, round int, r *bench.Report) (err error) {
	var w wire
	if err := w.begin(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	l, err := w.openLab(ctx, lab.Config{})
	if err != nil {
		return err
	}
	if err := l.StartCounted(ctx, filepath.Join(o.Bin, "node")); err != nil {
		return err
	}
	s, err := l.SetUp(ctx, flows)
	if err != nil {
		return err
	}
	took, each := s.Took.Seconds(), float64(s.Bypassed)
	for _, x := range []struct {
		test  string
		value float64
	}{
		{bench.SetUpShare, 100 * each / float64(flows)},
		{bench.SetUp50, s.First.P50Micros / 1000}, {bench.SetUp99, s.First.P99Micros / 1000}, {bench.SetUpMore, s.More.P50Micros / 1000},
		{bench.SetUpRate, each / took}, {bench.SetUpNodes, s.NodesMicros}, {bench.SetUpSwitches, s.SwitchesMicros},
		{bench.SetUpMods, float64(s.Messages.FlowMods) / each}, {bench.SetUpModRate, float64(s.Messages.FlowMods) / took},
		{bench.SetUpOuts, float64(s.Messages.PacketOuts) / each}, {bench.SetUpIns, float64(s.Messages.PacketIns) / took},
	} {
		r.Rows = append(r.Rows, bench.Row{Mode: bench.ModeSetUp, Round: round, Peer: strconv.Itoa(flows), Test: x.test, Value: x.value})
		fmt.Fprintf(o.Progress, "  %-16s %10.1f\n", x.test, x.value)
	}
	return nil
}
