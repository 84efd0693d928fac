package ofpath

import (
	"context"
	"fmt"

	"github.com/viasnet/vias/ofctl"
)

// Anybody on the provider's network can send packets that go up to us: orphans and
// guarded ones, and, to the ports on which we listen, what looks like a probe. Meters in
// the switch bound what that costs, in the switch as well as here. One flood must not
// keep the other kinds out, so each has its own.
const (
	meterOdd    = 0 // orphans and guarded packets: one of them in a while is enough
	meterProbes = 1
	meterErrors = 2 // copies of ICMP errors
	meterCount  = 3
)

// Rates in packets a second, and how many may come at once. A peer's proof takes some
// ten packets, and is renewed by four a second.
const (
	oddRate    = 100
	oddBurst   = 100
	probeRate  = 2000
	probeBurst = 2000
	errorRate  = 100
	errorBurst = 100
)

// meter is the ID of one of our meters; 0 if the switch has none.
func (l layout) meter(which uint32) uint32 {
	if !l.metered {
		return 0
	}
	return l.cfg.MeterBase + which
}

func (l layout) meters() []ofctl.Meter {
	return []ofctl.Meter{
		{ID: l.cfg.MeterBase + meterOdd, Rate: oddRate, Burst: oddBurst},
		{ID: l.cfg.MeterBase + meterProbes, Rate: probeRate, Burst: probeBurst},
		{ID: l.cfg.MeterBase + meterErrors, Rate: errorRate, Burst: errorBurst},
	}
}

// ours are the meters of ms that have our IDs.
func (l layout) ours(ms []ofctl.Meter) map[uint32]ofctl.Meter {
	have := map[uint32]ofctl.Meter{}
	for _, m := range ms {
		if m.ID >= l.cfg.MeterBase && m.ID-l.cfg.MeterBase < meterCount {
			have[m.ID] = m
		}
	}
	return have
}

// setMeters makes our meters be there, before the flows that name them; with wanted
// false it removes them, after these flows. No bundle takes a meter.
func (d *datapath) setMeters(ctx context.Context, sw ofctl.Switch, l layout, wanted bool) error {
	if !l.metered {
		return nil
	}
	all, err := sw.Meters(ctx)
	if err != nil {
		return convert("listing meters", err)
	}
	have := l.ours(all)
	for _, m := range l.meters() {
		old, there := have[m.ID]
		mod := ofctl.MeterMod{Command: ofctl.Add, Meter: m}
		switch {
		case !wanted:
			mod = ofctl.MeterMod{Command: ofctl.Delete, Meter: ofctl.Meter{ID: m.ID}}
		case there:
			mod.Command = ofctl.Modify
		}
		if wanted && old == m || !wanted && !there {
			continue
		}
		if err := d.send(ctx, sw, fmt.Sprintf("meter %d", m.ID), []ofctl.Mod{mod}); err != nil {
			return err
		}
	}
	return nil
}
