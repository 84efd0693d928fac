package pump

import (
	"sync"
	"time"

	"github.com/viasnet/vias/tap"
)

// DefaultOpenRate is Opens' default.
const DefaultOpenRate = 1000

// Opens bounds the connections that a workload opens and that come to nothing. Each
// SYN costs this process and the peer's as much as any packet of the overlay, and a new
// flow besides: a workload that scans would take the CPU from the proofs of paths and,
// where the switch forwards in user space, from the switch, and with it the throughput
// of everybody's bypassed flows. So a workload has an allowance of SYNs, which fills
// up with time. A connection that gets through gives back what its SYN took: who opens
// many that are answered is not bounded. A SYN over the allowance is lost, and TCP
// repeats it. While half of the allowance is gone no SYN asks for a bypass, which costs
// both ends' switches four rules: the connection asks when it has got through.
//
// A nil Opens bounds nothing. All methods may be called by several goroutines.
type Opens struct {
	rate int // SYNs a second; twice as many at once

	mu sync.Mutex
	by map[tap.MAC]*allowance // of those that may not have all of theirs
}

type allowance struct {
	left float64
	at   time.Time
}

// maxAllowances is when those that are full again are forgotten.
const maxAllowances = 1024

// NewOpens makes an Opens with an allowance of rate SYNs a second for each workload;
// 0 = DefaultOpenRate, below 0: nil.
func NewOpens(rate int) *Opens {
	switch {
	case rate < 0:
		return nil
	case rate == 0:
		rate = DefaultOpenRate
	}
	return &Opens{rate: rate, by: map[tap.MAC]*allowance{}}
}

// Allow takes one SYN from the workload's allowance; not ok: there is none left.
// plenty: there is more than half.
func (o *Opens) Allow(workload tap.MAC, now time.Time) (ok, plenty bool) {
	if o == nil {
		return true, true
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	a := o.by[workload]
	if a == nil {
		if len(o.by) >= maxAllowances {
			o.forgetLocked(now)
		}
		a = &allowance{o.most(), now}
		o.by[workload] = a
	}
	a.left, a.at = o.leftLocked(a, now), now
	if a.left < 1 {
		return false, false
	}
	a.left--
	return true, a.left >= float64(o.rate)
}

// Through gives one back: a connection has got through.
func (o *Opens) Through(workload tap.MAC) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if a := o.by[workload]; a != nil {
		a.left = min(a.left+1, o.most())
	}
}

func (o *Opens) most() float64 { return float64(2 * o.rate) }

func (o *Opens) leftLocked(a *allowance, now time.Time) float64 {
	return min(a.left+max(now.Sub(a.at).Seconds(), 0)*float64(o.rate), o.most())
}

func (o *Opens) forgetLocked(now time.Time) {
	for mac, a := range o.by {
		if o.leftLocked(a, now) >= o.most() {
			delete(o.by, mac)
		}
	}
}
