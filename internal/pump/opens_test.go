package pump

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/tap"
)

func TestOpens(t *testing.T) {
	o, now := NewOpens(10), time.Now()
	take := func(mac tap.MAC, n int) (got int) {
		for range n {
			if o.Allow(mac, now) {
				got++
			}
		}
		return got
	}
	require.Equal(t, 20, take(macHere, 100), "twice the rate at once")
	require.Equal(t, 20, take(macThere, 100), "each has its own")
	now = now.Add(500 * time.Millisecond)
	require.Equal(t, 5, take(macHere, 100))
	for range 3 {
		o.Through(macHere)
	}
	require.Equal(t, 3, take(macHere, 100), "what got through costs nothing")
	now = now.Add(-time.Hour)
	require.Zero(t, take(macHere, 100), "the clock was set back")
	now = now.Add(3 * time.Hour)
	for range 100 {
		o.Through(macHere)
	}
	require.Equal(t, 20, take(macHere, 100), "never more than that")
	require.Equal(t, 20, take(macThere, 100))

	for i := range 3 * maxAllowances {
		now = now.Add(time.Second)
		o.Allow(tap.MAC{2, 9, 0, 0, byte(i >> 8), byte(i)}, now)
	}
	require.LessOrEqual(t, len(o.by), maxAllowances)

	o = NewOpens(0)
	require.Equal(t, 2*DefaultOpenRate, take(macHere, 3*DefaultOpenRate))
	o = NewOpens(-1)
	require.Equal(t, 5000, take(macHere, 5000))
	o.Through(macHere)
}

// A workload that scans loses SYNs; one whose connections get through, on the overlay or
// by a bypass, loses none.
func TestScanIsBounded(t *testing.T) {
	w := &wire{peer: peerID, mtu: 1400}
	s := shared(t, NewPort(w))
	s.Opens = NewOpens(10)
	o := NewOut(OutConfig{Shared: s, Device: w})
	say := func(n int, flags byte) {
		f := tcp(macHere, macThere, ipHere, ipThere, flags, 0)
		binary.BigEndian.PutUint16(f[34:], uint16(n))
		o.Batch(batch(f))
	}
	const syn, ack, rst = 0x02, 0x10, 0x04
	for n := range 200 {
		say(n, syn)
		say(n, ack)
	}
	require.Zero(t, s.Counters.Dropped(OutOpening), "all got through")
	require.Equal(t, 400, w.sent)
	for n := range 200 {
		say(n, syn)
		e := s.Flows.Get(o.packet.Flow)
		e.SetStatus(bypass.Status{Flow: o.packet.Flow, State: bypass.Bypassed})
		s.Opened(e, macHere)
		s.Opened(e, macHere) // gives nothing more back
	}
	require.Zero(t, s.Counters.Dropped(OutOpening), "all are bypassed")
	w.sent = 0
	for n := range 200 {
		say(1000+n, syn)
		say(1000+n, rst)
	}
	require.InDelta(t, 180, s.Counters.Dropped(OutOpening), 5, "the rest of the allowance, and what time adds")
	say(5000, syn)
	require.Nil(t, s.Flows.Get(o.packet.Flow), "what is dropped is not tracked")
	w.sent = 0
	say(5000, ack)
	require.Equal(t, 1, w.sent, "other packets pass")
}
