package pump

import (
	"context"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/control"
	"github.com/viasnet/vias/internal/flowtable"
	"github.com/viasnet/vias/internal/l2"
	"github.com/viasnet/vias/internal/leaktest"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// wire is an overlay.Link that counts, and a tap.Device that does.
type wire struct {
	peer      overlay.PeerID
	mtu       int
	sent      int
	bytes     int
	last      []byte
	err       error
	delivered int
}

func (w *wire) Peer() overlay.PeerID { return w.peer }
func (w *wire) SendBatch(b *tap.Batch) error {
	if w.err != nil {
		return w.err
	}
	w.sent += b.Len()
	for i := range b.Len() {
		w.bytes += len(b.Frame(i))
		w.last = append(w.last[:0], b.Frame(i)...)
	}
	return nil
}
func (w *wire) RecvBatch(*tap.Batch) error    { return overlay.ErrClosed }
func (w *wire) Path() overlay.Path            { return overlay.Path{MTU: w.mtu} }
func (w *wire) Stats() overlay.LinkStats      { return overlay.LinkStats{} }
func (w *wire) Close() error                  { return nil }
func (w *wire) ReadBatch(*tap.Batch) error    { return tap.ErrClosed }
func (w *wire) WriteBatch(b *tap.Batch) error { w.delivered += b.Len(); return w.err }
func (w *wire) Caps() tap.Caps                { return tap.Caps{} }
func (w *wire) MTU() int                      { return 1500 }

var (
	peerID   = overlay.PeerID{1}
	macHere  = tap.MAC{2, 1}
	macThere = tap.MAC{2, 2}
	ipHere   = netip.MustParseAddr("10.0.0.1")
	ipThere  = netip.MustParseAddr("10.0.0.2")
)

func shared(tb testing.TB, port *Port) Shared {
	s := Shared{Stations: l2.New(), Flows: flowtable.New(0), Ports: &Ports{}, Counters: &Counters{}}
	_, err := s.Stations.Attach(l2.Endpoint{Name: "here", MAC: macHere, IPs: []netip.Addr{ipHere}, Tag: "h"}, 4)
	require.NoError(tb, err)
	s.Stations.SetLinked(peerID, true)
	_, err = s.Stations.Announce(peerID, l2.Announcement{Version: 1, Add: []l2.Endpoint{{MAC: macThere, IPs: []netip.Addr{ipThere}}}})
	require.NoError(tb, err)
	s.Ports.Put(port)
	return s
}

// mirrored is what the node of macThere and ipThere shares: macHere is its peer's, peer 9.
func mirrored(tb testing.TB, port *Port) Shared {
	s := Shared{Stations: l2.New(), Flows: flowtable.New(0), Ports: &Ports{}, Counters: &Counters{}}
	_, err := s.Stations.Attach(l2.Endpoint{Name: "there", MAC: macThere, IPs: []netip.Addr{ipThere}}, 4)
	require.NoError(tb, err)
	s.Stations.SetLinked(port.Peer(), true)
	_, err = s.Stations.Announce(port.Peer(), l2.Announcement{Version: 1, Add: []l2.Endpoint{{MAC: macHere, IPs: []netip.Addr{ipHere}}}})
	require.NoError(tb, err)
	s.Ports.Put(port)
	return s
}

func udp(src, dst tap.MAC, from, to netip.Addr, payload int) []byte {
	f := tcp(src, dst, from, to, 0, payload-12)
	f[23] = 17
	u := f[34:]
	clear(u[4:20])
	binary.BigEndian.PutUint16(u[4:], uint16(len(u)))
	return f
}

func tcp(src, dst tap.MAC, from, to netip.Addr, flags byte, payload int) []byte {
	f := make([]byte, 54+payload)
	copy(f, dst[:])
	copy(f[6:], src[:])
	f[12] = 8
	ip := f[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	a, b := from.As4(), to.As4()
	copy(ip[12:], a[:])
	copy(ip[16:], b[:])
	binary.BigEndian.PutUint16(ip[20:], 1000)
	binary.BigEndian.PutUint16(ip[22:], 80)
	ip[32], ip[33] = 5<<4, flags
	return f
}

func batch(frames ...[]byte) *tap.Batch {
	b := tap.NewBatch(64, 1<<17)
	for _, f := range frames {
		b.Append(f, tap.Offload{})
	}
	return b
}

func TestOutAllocatesNothing(t *testing.T) {
	w := &wire{peer: peerID, mtu: 1400, last: make([]byte, 0, 2048)}
	o := NewOut(OutConfig{Shared: shared(t, NewPort(w)), Device: w})
	b := batch(
		tcp(macHere, macThere, ipHere, ipThere, 0x10, 1000),
		tcp(macHere, tap.Broadcast, ipHere, ipThere, 0x10, 1000),
		tcp(macThere, macHere, ipHere, ipThere, 0x10, 1000), // spoofed
	)
	b.Append(tcp(macHere, macThere, ipHere, ipThere, 0x10, 30000),
		tap.Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16, GSO: tap.GSOTCP4, SegmentSize: 1300, HeaderLen: 54})
	o.Batch(b)
	require.Equal(t, 1+1+24, w.sent)
	require.Equal(t, byte(control.KindPartial), w.last[0], "its checksum was left out")
	require.Equal(t, macThere[:], w.last[1:7])
	require.Equal(t, uint64(1), o.Counters.Dropped(OutSourceMAC))
	require.Zero(t, testing.AllocsPerRun(100, func() { o.Batch(b) }))
}

func TestInAllocatesNothing(t *testing.T) {
	w := &wire{peer: peerID, mtu: 1400}
	port := NewPort(w)
	in := NewIn(InConfig{Shared: shared(t, port), Port: port, Writer: NewWriter(w), Flush: func() error { return nil }})
	b := tap.NewBatch(64, 1<<17)
	good := append([]byte{control.KindFrame}, tcp(macThere, macHere, ipThere, ipHere, 0x10, 1000)...)
	bad := append([]byte{control.KindFrame}, tcp(macHere, macHere, ipThere, ipHere, 0x10, 1000)...)
	fill := func() {
		b.Reset()
		for range 20 {
			b.Append(good, tap.Offload{})
			b.Append(bad, tap.Offload{})
		}
	}
	fill()
	require.NoError(t, in.Batch(b))
	require.Zero(t, w.delivered)
	require.Equal(t, uint64(40), in.Counters.Dropped(InEarly), "before both hellos")
	port.SetReady(0)
	fill()
	require.NoError(t, in.Batch(b))
	require.Equal(t, 20, w.delivered)
	require.Equal(t, uint64(20), in.Counters.Dropped(InSourceMAC))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		fill()
		if in.Batch(b) != nil {
			t.Error("failed")
		}
	}))
}

func TestLinkErrorIsCounted(t *testing.T) {
	w := &wire{peer: peerID, mtu: 1400, err: overlay.ErrClosed}
	o := NewOut(OutConfig{Shared: shared(t, NewPort(w)), Device: w})
	f := tcp(macHere, macThere, ipHere, ipThere, 0x10, 10)
	o.Batch(batch(f, f, f))
	require.Equal(t, uint64(3), o.Counters.Dropped(OutLinkError))
	o.Ports.Remove(o.Ports.Get(peerID))
	o.Batch(batch(f))
	require.Equal(t, uint64(1), o.Counters.Dropped(OutNoLink))
	require.ErrorIs(t, o.Run(), ErrDevice)
}

// More frames than one batch of a link takes.
func TestFullBatchIsFlushed(t *testing.T) {
	w := &wire{peer: peerID, mtu: 1400}
	o := NewOut(OutConfig{Shared: shared(t, NewPort(w)), Device: w})
	b := tap.NewBatch(8, 8*tap.MaxFrame)
	for range 8 {
		b.Append(tcp(macHere, macThere, ipHere, ipThere, 0x10, 60000),
			tap.Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16, GSO: tap.GSOTCP4, SegmentSize: 1000, HeaderLen: 54})
	}
	o.Batch(b)
	require.Equal(t, 8*60, w.sent)
	require.Equal(t, 8*60*1055, w.bytes)
}

func TestTaggedFrameMustFitToo(t *testing.T) {
	w := &wire{peer: peerID, mtu: 115}
	o := NewOut(OutConfig{Shared: shared(t, NewPort(w)), Device: w})
	f := append(append(append([]byte{}, macThere[:]...), macHere[:]...), 0x81, 0, 0, 5, 0x88, 0xb5)
	o.Batch(batch(append(f, make([]byte, 96)...)))
	require.Equal(t, 115, w.bytes)
	o.Batch(batch(append(f, make([]byte, 97)...)))
	require.Equal(t, 115+115+2*fragmentHeader, w.bytes, "in two")
	require.Equal(t, 3, w.sent)
}

// A link may take more than the peer's device does: a super-frame is cut for both.
func TestSuperFrameIsCutForTheDevice(t *testing.T) {
	w := &wire{peer: peerID, mtu: 9000}
	o := NewOut(OutConfig{Shared: shared(t, NewPort(w)), Device: w})
	b := batch()
	b.Append(tcp(macHere, macThere, ipHere, ipThere, 0x10, 2*1460),
		tap.Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16, GSO: tap.GSOTCP4, SegmentSize: 1470, HeaderLen: 54})
	o.Batch(b)
	require.Equal(t, 2, w.sent)
	require.Equal(t, 2*(1+54+1460), w.bytes)
}

// member says what the trigger asked.
type member struct {
	requests int
	status   bypass.Status
}

func (m *member) Request(bypass.Flow, bypass.Verdict) { m.requests++ }
func (m *member) Status(bypass.Flow) (bypass.Status, bool) {
	return m.status, m.status.Flow != bypass.Flow{}
}

func TestTriggerReasons(t *testing.T) {
	flow := bypass.Flow{Proto: bypass.TCP, Src: netip.AddrPortFrom(ipHere, 1000), Dst: netip.AddrPortFrom(ipThere, 80)}
	always, hold := bypass.Verdict{Bypass: true}, time.Duration(-1)
	for name, c := range map[string]struct {
		verdict  bypass.Verdict
		flags    byte
		spoil    func(*Out, *member)
		reason   bypass.Reason
		requests int
		held     int
	}{
		"policy":        {flags: 2, reason: bypass.ReasonPolicy},
		"SYN":           {verdict: always, flags: 2, requests: 1, held: 1},
		"SYN not held":  {verdict: bypass.Verdict{Bypass: true, Hold: hold}, flags: 2, requests: 1},
		"SYN ACK":       {verdict: always, flags: 0x12, requests: 1},
		"middle":        {verdict: always, flags: 0x10, requests: 1},
		"threshold":     {verdict: bypass.Verdict{Bypass: true, After: 1000}, flags: 2, reason: bypass.ReasonThreshold},
		"no link":       {verdict: always, flags: 2, reason: bypass.ReasonLinkDown, spoil: func(o *Out, _ *member) { o.Ports.Remove(o.Ports.Get(peerID)) }},
		"failed lately": {verdict: always, flags: 2, spoil: func(_ *Out, m *member) { m.status = bypass.Status{Flow: flow, RetryAt: time.Now().Add(time.Hour)} }},
		"no host":       {verdict: always, flags: 2, reason: bypass.ReasonNoHost, spoil: func(o *Out, _ *member) { o.Bypass = false }},
		"the peer's":    {verdict: always, flags: 0x12, spoil: func(o *Out, _ *member) { opened(o, flow) }},
		"under way":     {verdict: always, flags: 2, spoil: func(o *Out, _ *member) { moving(o, flow) }},
		"answer":        {verdict: always, flags: 0x12, held: 1, spoil: func(o *Out, _ *member) { moving(o, flow) }},
		"answer, open": {verdict: always, flags: 0x12, spoil: func(o *Out, _ *member) {
			opened(o, flow)
			moving(o, flow)
		}},
		"data under way": {verdict: always, flags: 0x10, spoil: func(o *Out, _ *member) { moving(o, flow) }},
		"decided meanwhile": {verdict: always, flags: 0x12, spoil: func(o *Out, _ *member) {
			moving(o, flow)
			o.Trigger.Held = func() { bypassed(o, flow) }
		}},
		"full hold list": {verdict: always, flags: 2, requests: 1, held: flowtable.MaxHeld, spoil: func(o *Out, _ *member) { fillHolds(o) }},
	} {
		t.Run(name, func(t *testing.T) {
			w, m := &wire{peer: peerID, mtu: 1400}, &member{}
			s := shared(t, NewPort(w))
			s.Bypass = true
			o := NewOut(OutConfig{Shared: s, Device: w, Trigger: Trigger{
				Policy: func() (bypass.Policy, uint64) {
					return func(bypass.Request) bypass.Verdict { return c.verdict }, 1
				},
				Asker: m, Holds: flowtable.NewHolds(), Held: func() {},
			}})
			if c.spoil != nil {
				c.spoil(o, m)
			}
			o.Batch(batch(tcp(macHere, macThere, ipHere, ipThere, c.flags, 0)))
			_, reason := s.Flows.Get(flow).State()
			require.Equal(t, c.reason, reason)
			require.Equal(t, c.requests, m.requests)
			require.Equal(t, c.held, o.Trigger.Holds.Len())
			if c.held == 0 && name != "no link" {
				require.Equal(t, 1, w.sent, "what is not held goes over the overlay")
			}
		})
	}
}

// A UDP flow is asked for by the end whose packet is the one that is enough, counting both ways. It
// is never held.
func TestTriggerUDP(t *testing.T) {
	for name, v := range map[string]bypass.Verdict{
		"packets": {Bypass: true}, "bytes": {Bypass: true, Packets: 1000, After: 16 * 142},
	} {
		t.Run(name, func(t *testing.T) {
			for _, p := range []packet{{proto: 17, payload: 100}, {v6: true, proto: 17, payload: 80}} {
				m := &member{}
				e := newEnds(t, 1400, 1500, 1500)
				e.out.Bypass = true
				e.out.Trigger = Trigger{
					Policy: func() (bypass.Policy, uint64) {
						return func(bypass.Request) bypass.Verdict { return v }, 1
					},
					Asker: m, Holds: flowtable.NewHolds(), Held: func() {},
				}
				out := p.build()
				var packet bypass.Packet
				bypass.NewClassifier().Classify(out, &packet)
				require.Equal(t, bypass.ReasonNone, packet.Reason)
				entry, _ := e.out.Flows.Track(packet.Flow, time.Now())
				for range bypass.DefaultUDPPackets - 2 {
					entry.In.Add(len(out)) // as an In does
				}
				e.pass(t, out, tap.Offload{})
				_, reason := entry.State()
				require.Equal(t, bypass.ReasonThreshold, reason)
				require.Zero(t, m.requests)
				e.pass(t, out, tap.Offload{})
				require.Equal(t, 1, m.requests)
				require.Zero(t, e.out.Trigger.Holds.Len())
				require.Len(t, e.wire.frames, 1)
				there := e.in.Flows.Get(packet.Flow.Reverse())
				require.Equal(t, uint64(2), there.In.Packets(), "the other end knows of it too")
			}
		})
	}
}

func opened(o *Out, f bypass.Flow) {
	e, _ := o.Flows.Track(f, time.Now())
	e.SetOpened(flowtable.OpenedThere)
}

func moving(o *Out, f bypass.Flow) {
	e, _ := o.Flows.Track(f, time.Now())
	e.SetStatus(bypass.Status{Flow: f, State: bypass.Moving})
}

func bypassed(o *Out, f bypass.Flow) {
	e, _ := o.Flows.Track(f, time.Now())
	e.SetStatus(bypass.Status{Flow: f, State: bypass.Bypassed})
}

func fillHolds(o *Out) {
	for i := range flowtable.MaxHeld {
		o.Trigger.Holds.Put(flowtable.Held{Flow: bypass.Flow{Src: netip.AddrPortFrom(ipHere, uint16(i))}})
	}
}

func TestSendFrame(t *testing.T) {
	w := &wire{peer: peerID, mtu: 115}
	p, b := NewPort(w), tap.NewBatch(1, 256)
	require.NoError(t, p.SendFrame(make([]byte, 114), b))
	require.Equal(t, 115, w.bytes)
	require.Error(t, p.SendFrame(make([]byte, 115), b))
	require.Error(t, p.SendFrame(make([]byte, 1000), b))
	w.err = context.Canceled
	require.ErrorIs(t, p.SendFrame(make([]byte, 10), b), context.Canceled)
	require.Equal(t, uint64(1), p.Out.Packets())
}

func BenchmarkOut(b *testing.B) {
	w := &wire{peer: peerID, mtu: 1400, last: make([]byte, 0, 2048)}
	o := NewOut(OutConfig{Shared: shared(b, NewPort(w)), Device: w})
	in := batch()
	for range 64 {
		in.Append(tcp(macHere, macThere, ipHere, ipThere, 0x10, 1300), tap.Offload{})
	}
	b.ReportAllocs()
	b.SetBytes(64 * 1354)
	for b.Loop() {
		o.Batch(in)
	}
}

func BenchmarkIn(b *testing.B) {
	w := &wire{peer: peerID, mtu: 1400}
	port := NewPort(w)
	port.SetReady(0)
	in := NewIn(InConfig{Shared: shared(b, port), Port: port, Writer: NewWriter(w), Flush: func() error { return nil }})
	d := append([]byte{control.KindFrame}, tcp(macThere, macHere, ipThere, ipHere, 0x10, 1300)...)
	batch := tap.NewBatch(64, 1<<17)
	b.ReportAllocs()
	b.SetBytes(64 * 1354)
	for b.Loop() {
		batch.Reset()
		for range 64 {
			batch.Append(d, tap.Offload{})
		}
		if err := in.Batch(batch); err != nil {
			b.Fatal(err)
		}
	}
}
