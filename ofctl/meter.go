package ofctl

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// Meter limits how many frames pass the flows that name it, all together: those over
// Rate are dropped, whatever the flow would have done. It needs CapMeter. (OpenFlow
// has meters that count bits or mark packets, too; of these a dump shows the ID alone.)
type Meter struct {
	ID uint32 // from 1 to what the switch has: Open vSwitch's user-space datapath has 65,536
	// Rate is in frames a second, Burst how many may come at once; 0 = as many as Rate.
	Rate, Burst uint32
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
	s := "meter=" + strconv.FormatUint(uint64(m.ID), 10) + ",pktps"
	if m.Burst > 0 {
		s += ",burst"
	}
	if m.Rate > 0 {
		s += ",band=type=drop,rate=" + strconv.FormatUint(uint64(m.Rate), 10)
	}
	if m.Burst > 0 {
		s += ",burst_size=" + strconv.FormatUint(uint64(m.Burst), 10)
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
	return dump[Meter](ctx, c, "meters", ofp.MeterConfigRequest{})
}

// probeMeters finds out whether the switch has meters that count frames and drop. One
// that refuses the question has none.
func (c *Conn) probeMeters(ctx context.Context) (Capabilities, error) {
	reply, err := c.roundTrip(ctx, ofp.MeterFeaturesRequest{})
	if _, refused := errors.AsType[*SwitchError](err); refused {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	f, ok := reply.(ofp.MeterFeatures)
	if !ok || f.MaxMeters == 0 || f.MaxBands == 0 || f.Bands&(1<<bandDrop) == 0 || f.Capabilities&meterPackets == 0 {
		return 0, nil
	}
	return CapMeter, nil
}
