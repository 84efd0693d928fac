package pump

import (
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/control"
	"github.com/viasnet/vias/internal/flowtable"
	"github.com/viasnet/vias/tap"
)

func TestOpens(t *testing.T) {
	o, now := NewOpens(10), time.Now()
	take := func(mac tap.MAC, n int) (got int) {
		for range n {
			if ok, _ := o.Allow(mac, now); ok {
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
func TestScanIsBounded(t *testing.T) { synctest.Test(t, scanIsBounded) } // no time passes

func scanIsBounded(t *testing.T) {
	w := &wire{peer: peerID, mtu: 1400}
	port := NewPort(w)
	port.SetReady(0)
	s := shared(t, port)
	s.Opens = NewOpens(10)
	s.Bypass = true
	m := &member{}
	o := NewOut(OutConfig{Shared: s, Device: w, Trigger: Trigger{
		Policy: func() (bypass.Policy, uint64) {
			return func(bypass.Request) bypass.Verdict { return bypass.Verdict{Bypass: true, Hold: -1} }, 1
		},
		Asker: m, Holds: flowtable.NewHolds(), Held: func() {},
	}})
	say := func(n int, flags byte) {
		f := tcp(macHere, macThere, ipHere, ipThere, flags, 0)
		binary.BigEndian.PutUint16(f[34:], uint16(n))
		o.Batch(batch(f))
	}
	in := NewIn(InConfig{Shared: s, Port: port, Writer: NewWriter(w), Flush: func() error { return nil }})
	hear := func(n int, flags byte) {
		f := append([]byte{control.KindFrame}, tcp(macThere, macHere, ipThere, ipHere, flags, 0)...)
		binary.BigEndian.PutUint16(f[1+34:], 80)
		binary.BigEndian.PutUint16(f[1+36:], uint16(n))
		require.NoError(t, in.Batch(batch(f)))
	}
	const syn, ack, rst = 0x02, 0x10, 0x04
	for n := range 200 {
		say(n, syn)
		hear(n, syn|ack)
		hear(n, ack) // gives nothing more back
	}
	require.Zero(t, s.Counters.Dropped(OutOpening), "all got through")
	require.Equal(t, 200, w.sent)
	require.Equal(t, 200, m.requests, "each SYN asks")
	for n := range 200 {
		say(n, syn)
		e := s.Flows.Get(o.packet.Flow)
		e.SetStatus(bypass.Status{Flow: o.packet.Flow, State: bypass.Bypassed})
		s.Opened(e, macHere)
		s.Opened(e, macHere) // gives nothing more back
	}
	require.Zero(t, s.Counters.Dropped(OutOpening), "all are bypassed")
	require.Equal(t, 400, m.requests, "each SYN asks")
	w.sent, m.requests = 0, 0
	for n := range 200 {
		say(1000+n, syn)
		hear(1000+n, rst|ack)
	}
	require.Equal(t, 10, m.requests, "half of the allowance")
	require.Equal(t, uint64(180), s.Counters.Dropped(OutOpening), "what is over the allowance")
	say(5000, syn)
	require.Nil(t, s.Flows.Get(o.packet.Flow), "what is dropped is not tracked")
	w.sent, m.requests = 0, 0
	say(1015, ack) // who scans may say so
	say(6000, syn)
	require.Nil(t, s.Flows.Get(o.packet.Flow))
	hear(1015, syn|ack)
	say(1015, ack)
	require.Equal(t, 2, w.sent, "other packets pass")
	require.Equal(t, 1, m.requests, "what got through asks")
}
