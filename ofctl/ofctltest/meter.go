package ofctltest

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/viasnet/vias/ofctl"
)

// maxMeters is the highest ID of a meter.
const maxMeters = 1 << 16

// Codes of ErrTypeMeterModFailed.
const (
	meterModExists  = 1
	meterModInvalid = 2
	meterModUnknown = 3
	meterModCommand = 4

	meterModBadFlags = 5
	meterModBadBand  = 8
)

// meter is a token bucket. Switch.mu guards it.
type meter struct {
	ofctl.Meter
	tokens float64
	filled time.Time
	made   time.Time
	count  ofctl.MeterStat
}

// capacity is how many frames may come at once.
func (m *meter) capacity() float64 {
	if m.Burst > 0 {
		return float64(m.Burst)
	}
	return float64(m.Rate)
}

func newMeter(m ofctl.Meter, now time.Time) *meter {
	n := &meter{Meter: m, filled: now, made: now, count: ofctl.MeterStat{ID: m.ID, Bands: make([]ofctl.Counter, 1)}}
	n.tokens = n.capacity()
	return n
}

// passesLocked counts a frame and tells whether the meter lets it go on; 0 is no meter.
func (s *Switch) passesLocked(id uint32, size int, now time.Time) bool {
	m := s.tables.meters[id]
	if m == nil {
		return true
	}
	m.tokens = min(m.capacity(), m.tokens+now.Sub(m.filled).Seconds()*float64(m.Rate))
	m.filled = now
	m.count.Packets++
	m.count.Bytes += uint64(size)
	if m.tokens < 1 {
		m.count.Bands[0].Packets++
		m.count.Bands[0].Bytes += uint64(size)
		return false
	}
	m.tokens--
	return true
}

// meterMod executes m, or says why not.
func (t *transaction) meterMod(m ofctl.MeterMod) error {
	meters, id := t.sw.tables.meters, m.Meter.ID
	old := meters[id]
	switch {
	case t.sw.cfg.Lacks.Has(ofctl.CapMeter):
		return refuse(ofctl.ErrTypeBadRequest, badRequestType)
	case m.Command == ofctl.Delete:
		t.removeMeters(id)
		return nil
	case m.Meter.Remark.Rate > 0 || m.Meter.Rate == 0:
		return refuse(ofctl.ErrTypeMeterModFailed, meterModBadBand)
	case m.Meter.Kilobits:
		return refuse(ofctl.ErrTypeMeterModFailed, meterModBadFlags)
	case id == 0 || id > maxMeters:
		return refuse(ofctl.ErrTypeMeterModFailed, meterModInvalid)
	case m.Command == ofctl.Add && old != nil:
		return refuse(ofctl.ErrTypeMeterModFailed, meterModExists)
	case m.Command == ofctl.Modify && old == nil:
		return refuse(ofctl.ErrTypeMeterModFailed, meterModUnknown)
	case m.Command != ofctl.Add && m.Command != ofctl.Modify:
		return refuse(ofctl.ErrTypeMeterModFailed, meterModCommand)
	}
	meters[id] = newMeter(m.Meter, t.now)
	return nil
}

// removeMeters also removes the flows that name the meter (OpenFlow 1.3.5, section
// 6.6). One that is not there is no error. A meter's modification is alone in its
// transaction: there is nothing to undo.
func (t *transaction) removeMeters(id uint32) {
	for _, f := range t.sw.tables.every() {
		if f.Meter != 0 && (f.Meter == id || id == ofctl.MeterAll) {
			t.remove(f, ofctl.RemovedDelete)
		}
	}
	maps.DeleteFunc(t.sw.tables.meters, func(k uint32, _ *meter) bool { return k == id || id == ofctl.MeterAll })
}

// Meters dumps meters in rising order of their IDs; the caller owns the result.
func (c *Conn) Meters(ctx context.Context) (list []ofctl.Meter, err error) {
	err = c.use(ctx, "meters", func() {
		for _, id := range slices.Sorted(maps.Keys(c.sw.tables.meters)) {
			list = append(list, c.sw.tables.meters[id].Meter)
		}
	})
	return list, err
}

// meterFeatures is what a switch with f says of its meters.
func meterFeatures(f ofctl.Features) ofctl.MeterFeatures {
	if !f.Capabilities.Has(ofctl.CapMeter) {
		return ofctl.MeterFeatures{}
	}
	const dropBand, countsFrames, bursts = 1 << 1, 2, 4
	return ofctl.MeterFeatures{MaxMeters: maxMeters, Bands: dropBand, Capabilities: countsFrames | bursts, MaxBands: 1}
}
