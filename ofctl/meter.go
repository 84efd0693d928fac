package ofctl

import (
	"context"
	"errors"
	"fmt"
	"strconv"
)

// Meter limits what passes the flows that name it, all together: what is over Rate is
// dropped, whatever the flow would have done. Of a meter with more bands than one of
// each kind a dump shows the ID alone. It needs CapMeter, which is for meters that
// count frames and drop.
type Meter struct {
	ID uint32 // from 1 to what the switch has: Open vSwitch's user-space datapath has 65,536
	// Kilobits makes the meter count kilobits instead of frames.
	Kilobits bool
	// Rate is in frames (or kilobits) a second, 0 = nothing is dropped; Burst is how many
	// may come at once; 0 = as many as Rate.
	Rate, Burst uint32
	// Remark marks instead of dropping; of two bands the one with the highest rate that
	// is exceeded acts.
	Remark RemarkBand
}

// RemarkBand raises the drop precedence of what is over Rate (0 = there is no such band)
// by Levels, in the DSCP (RFC 2597). Open vSwitch's user-space datapath has none.
type RemarkBand struct {
	Rate, Burst uint32
	Levels      uint8
}

// MeterAll in a deletion stands for every meter.
const MeterAll uint32 = 0xffffffff

// MeterMod changes a meter: Add, Modify or Delete. Deleting one deletes the flows that
// name it; Modify keeps them. A MeterMod must be alone in its Apply: Open vSwitch takes
// none into a bundle.
type MeterMod struct {
	Command Command
	Meter   Meter
}

func (MeterMod) mod() {}

// String is the meter as ovs-ofctl add-meter takes it.
func (m Meter) String() string {
	s := "meter=" + strconv.FormatUint(uint64(m.ID), 10)
	if m.Kilobits {
		s += ",kbps"
	} else {
		s += ",pktps"
	}
	burst := m.Burst > 0 || m.Remark.Burst > 0
	if burst {
		s += ",burst"
	}
	band := func(kind string, rate, size uint32) string {
		if rate == 0 {
			return ""
		}
		w := ",band=type=" + kind + ",rate=" + strconv.FormatUint(uint64(rate), 10)
		if burst {
			w += ",burst_size=" + strconv.FormatUint(uint64(size), 10)
		}
		return w
	}
	s += band("drop", m.Rate, m.Burst)
	if r := m.Remark; r.Rate > 0 {
		s += band("dscp_remark", r.Rate, r.Burst) + ",prec_level=" + strconv.Itoa(int(r.Levels))
	}
	return s
}

// String is the modification in words; no file for ovs-ofctl has one.
func (m MeterMod) String() string {
	if m.Command >= Delete {
		return "meter delete meter=" + strconv.FormatUint(uint64(m.Meter.ID), 10)
	}
	return "meter " + m.Command.String() + " " + m.Meter.String()
}

var errMeterAlone = errors.New("a meter's modification must be applied alone")

// CheckMods tells why mods cannot be one Apply. A Switch calls it.
func CheckMods(mods []Mod) error {
	for i, m := range mods {
		if _, ok := m.(MeterMod); ok && len(mods) > 1 {
			return fmt.Errorf("step %d (%s): %w", i, m, errMeterAlone)
		}
	}
	return nil
}

// Meters implements Switch.
func (c *Conn) Meters(ctx context.Context) ([]Meter, error) {
	return dump(ctx, c, "meters", MeterConfigRequest{})
}

// probeMeters finds out whether the switch has meters that count frames and drop. One
// that refuses the question has none.
func (c *Conn) probeMeters(ctx context.Context) (Capabilities, error) {
	f, err := Ask(ctx, c, MeterFeaturesRequest{})
	if _, refused := errors.AsType[*SwitchError](err); refused {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if f.MaxMeters == 0 || f.MaxBands == 0 || f.Bands&(1<<bandDrop) == 0 || f.Capabilities&meterPackets == 0 {
		return 0, nil
	}
	return CapMeter, nil
}
