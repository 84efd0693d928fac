package flowtable

import (
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/leaktest"
	"github.com/viasnet/vias/overlay"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func flow(i int) bypass.Flow {
	return bypass.Flow{
		Proto: bypass.TCP,
		Src:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 16), 1}), uint16(i)),
		Dst:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 2}), 80),
	}
}

func flow6(i int) bypass.Flow {
	return bypass.Flow{
		Proto: bypass.UDP,
		Src:   netip.AddrPortFrom(netip.AddrFrom16([16]byte{0xfd, 15: byte(i >> 16)}), uint16(i)),
		Dst:   netip.AddrPortFrom(netip.AddrFrom16([16]byte{0xfd, 15: 0xff}), 443),
	}
}

func udp(i int) bypass.Flow {
	f := flow(i)
	f.Proto = bypass.UDP
	return f
}

func TestTrack(t *testing.T) {
	for name, flow := range map[string]func(int) bypass.Flow{"IPv4": flow, "IPv6": flow6, "UDP": udp} {
		t.Run(name, func(t *testing.T) { testTrack(t, flow) })
	}
}

func testTrack(t *testing.T, flow func(int) bypass.Flow) {
	table, now := New(0), time.Unix(1000, 0)
	require.Nil(t, table.Get(flow(1)))
	e, fresh := table.Track(flow(1), now)
	require.True(t, fresh)
	again, fresh := table.Track(flow(1), now)
	require.False(t, fresh)
	require.Same(t, e, again)
	require.Same(t, e, table.Get(flow(1)))
	e.Out.Add(100)
	e.In.Add(20)
	e.In.Add(30)
	require.Equal(t, flow(1), e.Flow())
	require.Equal(t, flow(1).Proto, e.Proto())
	require.Nil(t, table.Get(flow(1).Reverse()))
	require.Equal(t, int64(150), e.Total())
	require.Equal(t, int64(3), e.Packets())
	require.Equal(t, uint64(2), e.In.Packets())
	require.True(t, e.Peer().IsZero())
	id := overlay.PeerID{7}
	e.SetPeer(&id)
	require.Equal(t, id, e.Peer())
}

func TestBounded(t *testing.T) {
	table, now := New(640), time.Unix(1000, 0)
	for i := range 5000 {
		_, fresh := table.Track(flow(i), now.Add(time.Duration(i)*time.Millisecond))
		require.True(t, fresh)
	}
	require.Equal(t, 640, table.Len())
	require.Equal(t, uint64(5000-640), table.Evicted())
	require.NotNil(t, table.Get(flow(4999)), "the newest stays")

	// Flows that a switch forwards stay, whatever comes.
	table.Each(func(e *Entry) bool {
		e.SetStatus(bypass.Status{Flow: e.Flow(), State: bypass.Bypassed})
		return true
	})
	e, _ := table.Track(flow(9999), now)
	require.Nil(t, e)
	require.Equal(t, uint64(1), table.Untracked())
	require.Equal(t, 640, table.Len())
}

func TestSweep(t *testing.T) {
	table, now := New(0), time.Unix(1000, 0)
	for i := range 4 {
		_, _ = table.Track(flow(i), now)
	}
	table.Get(flow(1)).SetClosed()
	table.Get(flow(2)).SetStatus(bypass.Status{Flow: flow(2), State: bypass.Bypassed})
	table.Get(flow(3)).SetClosed()
	table.Get(flow(3)).SetOpened(OpenedHere)
	table.Sweep(now.Add(ClosedTime))
	require.Nil(t, table.Get(flow(1)))
	require.Equal(t, 3, table.Len())
	table.Get(flow(3)).Seen(now.Add(time.Second))
	table.Sweep(now.Add(IdleTime))
	require.Nil(t, table.Get(flow(0)))
	require.NotNil(t, table.Get(flow(2)), "bypassed: its packets do not come here")
	require.NotNil(t, table.Get(flow(3)))
}

func TestReasonAndStatus(t *testing.T) {
	table, now := New(0), time.Unix(1000, 0)
	e, _ := table.Track(flow(1), now)
	e.SetReason(bypass.ReasonPolicy)
	state, reason := e.State()
	require.Equal(t, bypass.OnOverlay, state)
	require.Equal(t, bypass.ReasonPolicy, reason)
	s, told := e.Status()
	require.False(t, told)
	require.Equal(t, now, s.Since)
	want := bypass.Status{
		Flow: flow(1), State: bypass.Bypassed, Since: now.Add(1), RetryAt: now.Add(2),
		Local: netip.MustParseAddrPort("10.9.0.1:61441"), Remote: netip.MustParseAddrPort("10.9.0.2:61442"),
	}
	e.SetStatus(want)
	e.SetReason(bypass.ReasonThreshold)
	state, reason = e.State()
	require.Equal(t, bypass.Bypassed, state, "the Member knows better")
	require.Equal(t, bypass.ReasonNone, reason)
	s, told = e.Status()
	require.True(t, told)
	require.Equal(t, want, s)
	want.State, want.Reason, want.Local, want.Remote = bypass.OnOverlay, bypass.ReasonIdle, netip.AddrPort{}, netip.AddrPort{}
	e.SetStatus(want)
	s, _ = e.Status()
	require.Equal(t, want, s)
}

// Flows that no Classifier gives are none.
func TestOtherFlows(t *testing.T) {
	table := New(0)
	for _, ends := range [][2]string{
		{"10.0.0.1:1", "[fd00::1]:80"}, {"[fd00::1]:80", "10.0.0.1:1"},
		{"[::ffff:10.0.0.1]:1", "[fd00::1]:80"}, {"[fd00::1]:1", "[::ffff:10.0.0.1]:80"},
	} {
		f := bypass.Flow{Proto: bypass.TCP, Src: netip.MustParseAddrPort(ends[0]), Dst: netip.MustParseAddrPort(ends[1])}
		e, fresh := table.Track(f, time.Unix(1000, 0))
		require.Nil(t, e)
		require.False(t, fresh)
		require.Nil(t, table.Get(f))
	}
	require.Nil(t, table.Get(bypass.Flow{}))
	require.Zero(t, table.Len()+int(table.Untracked()))
}

func TestHotPathAllocs(t *testing.T) {
	table, now, id := New(0), time.Unix(1000, 0), overlay.PeerID{1}
	f, f6 := flow(1), flow6(1)
	table.Track(f, now)
	table.Track(f6, now)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		table.Track(f6, now)
		e, _ := table.Track(f, now)
		e.Seen(now)
		e.SetPeer(&id)
		e.Out.Add(1400)
		e.SetReason(bypass.ReasonNoHost)
		e.State()
	}))
}

func TestHoldOnce(t *testing.T) {
	q, due := NewHolds(), time.Unix(1000, 0)
	h := Held{Flow: flow(1), Frame: []byte("syn"), Due: due}
	require.True(t, q.Put(h))
	require.False(t, q.Put(h), "one a flow")
	h.Frame[0] = 'X'
	list, next := q.Expire(due.Add(-1))
	require.Empty(t, list)
	require.Equal(t, due, next)
	require.Equal(t, 1, q.Len())
	got, ok := q.Take(flow(1))
	require.True(t, ok)
	require.Equal(t, "syn", string(got.Frame), "it was copied")
	_, ok = q.Take(flow(1))
	require.False(t, ok)
	list, next = q.Expire(due)
	require.Empty(t, list)
	require.True(t, next.IsZero())

	require.False(t, q.Put(Held{Flow: flow(2), Frame: make([]byte, MaxHeldFrame+1)}))
	for i := range MaxHeld {
		require.True(t, q.Put(Held{Flow: flow(i), Due: due}))
	}
	require.False(t, q.Put(Held{Flow: flow(MaxHeld), Due: due}))
}

// Outcome and time race; each frame is released by exactly one.
func TestHoldRace(t *testing.T) {
	q, due := NewHolds(), time.Unix(1000, 0)
	for range 200 {
		for i := range 50 {
			require.True(t, q.Put(Held{Flow: flow(i), Due: due}))
		}
		released := make(chan bypass.Flow, 200)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for i := range 50 {
					if h, ok := q.Take(flow(i)); ok {
						released <- h.Flow
					}
				}
			})
			wg.Go(func() {
				list, _ := q.Expire(due)
				for _, h := range list {
					released <- h.Flow
				}
			})
		}
		wg.Wait()
		close(released)
		seen := map[bypass.Flow]int{}
		for f := range released {
			seen[f]++
		}
		require.Len(t, seen, 50)
		for _, n := range seen {
			require.Equal(t, 1, n)
		}
	}
}

func BenchmarkTrack(b *testing.B)  { benchmarkTrack(b, flow) }
func BenchmarkTrack6(b *testing.B) { benchmarkTrack(b, flow6) }

func benchmarkTrack(b *testing.B, flow func(int) bypass.Flow) {
	table, now := New(0), time.Unix(1000, 0)
	for i := range 10000 {
		table.Track(flow(i), now)
	}
	f := flow(77)
	b.ReportAllocs()
	for b.Loop() {
		e, _ := table.Track(f, now)
		e.Seen(now)
		e.Out.Add(1400)
	}
}

// The cost of a new flow when the table is full, as in a port scan.
func BenchmarkTrackFull(b *testing.B) {
	table, now := New(0), time.Unix(1000, 0)
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		table.Track(flow(i), now)
		i++
	}
}

// TestMemory: what a bypassed flow costs, told about by a Member. Its bound, and those of
// the TestMemory of bypass and of bypass/ofpath, add up to less than 1,024 bytes.
func TestMemory(t *testing.T) {
	for name, flow := range map[string]func(int) bypass.Flow{"IPv4": flow, "IPv6": flow6} {
		t.Run(name, func(t *testing.T) { testMemory(t, flow) })
	}
}

func testMemory(t *testing.T, flow func(int) bypass.Flow) {
	const flows = 50_000
	inUse := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	table, now, id := New(2*flows), time.Unix(1000, 0), &overlay.PeerID{1}
	before := inUse()
	for i := range flows {
		e, fresh := table.Track(flow(i), now)
		require.True(t, fresh)
		e.SetPeer(id)
		e.SetStatus(bypass.Status{Flow: e.Flow(), Peer: *id, State: bypass.Bypassed, Since: now, Local: e.Flow().Src, Remote: e.Flow().Dst})
		e.Out.Add(1400)
	}
	size := float64(inUse()-before) / flows
	t.Logf("%.0f bytes a flow", size)
	require.Equal(t, flows, table.Len())
	require.Less(t, size, 250.)
}
