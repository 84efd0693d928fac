package ofctltest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/ofctl"
)

// bench is a switch with three ports, whose frames it keeps, and an event log.
type bench struct {
	*Switch
	t   *testing.T
	out map[uint32][][]byte
}

func newBench(t *testing.T) *bench {
	b := &bench{Switch: New(Config{DatapathID: 1}), t: t, out: make(map[uint32][][]byte)}
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	for no := uint32(1); no <= 3; no++ {
		_, err := b.AddPort(Port{No: no, Output: func(f []byte) { b.out[no] = append(b.out[no], f) }})
		require.NoError(t, err)
	}
	return b
}

// sent is how many frames left by each of the three ports since the last call.
func (b *bench) sent() [3]int {
	n := [3]int{len(b.out[1]), len(b.out[2]), len(b.out[3])}
	clear(b.out)
	return n
}

func add(f ofctl.Flow) []ofctl.Mod { return []ofctl.Mod{ofctl.FlowMod{Flow: f}} }

func toPort(no uint32) []ofctl.Action { return []ofctl.Action{ofctl.Output{Port: no}} }

func (b *bench) watch(sw ofctl.Switch) *eventLog {
	l := &eventLog{end: make(chan error, 1)}
	go func() {
		l.end <- sw.Watch(b.t.Context(), func(ev ofctl.Event) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.events = append(l.events, ev)
		})
	}()
	synctest.Wait()
	return l
}

type eventLog struct {
	end chan error

	mu     sync.Mutex
	events []ofctl.Event
}

// take is what was logged since the last call, once all is quiet.
func (l *eventLog) take() []ofctl.Event {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	evs := l.events
	l.events = nil
	return evs
}

func TestTimeouts(t *testing.T) {
	type step struct {
		at      time.Duration // since the flow was added
		frame   bool
		modify  bool
		present bool
	}
	flow := ofctl.Flow{Cookie: 7, Match: ofctl.TCP4(), SendFlowRemoved: true, Apply: toPort(2)}
	for name, c := range map[string]struct {
		idle, hard uint16
		steps      []step
		why        ofctl.RemovedReason
		end        time.Duration
	}{
		"idle":             {idle: 2, steps: []step{{at: 1999 * time.Millisecond, present: true}}, why: ofctl.RemovedIdle, end: 2 * time.Second},
		"idle, used":       {idle: 2, steps: []step{{at: time.Second, frame: true, present: true}, {at: 2900 * time.Millisecond, present: true}}, why: ofctl.RemovedIdle, end: 3 * time.Second},
		"idle, modified":   {idle: 2, steps: []step{{at: time.Second, modify: true, present: true}}, why: ofctl.RemovedIdle, end: 2 * time.Second},
		"hard":             {hard: 2, steps: []step{{at: time.Second, frame: true, present: true}}, why: ofctl.RemovedHard, end: 2 * time.Second},
		"hard, renewed":    {hard: 2, steps: []step{{at: time.Second, modify: true, present: true}, {at: 2500 * time.Millisecond, present: true}}, why: ofctl.RemovedHard, end: 3 * time.Second},
		"hard before idle": {hard: 2, idle: 5, steps: nil, why: ofctl.RemovedHard, end: 2 * time.Second},
		"idle before hard": {hard: 9, idle: 5, steps: nil, why: ofctl.RemovedIdle, end: 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				log := b.watch(b)
				start := time.Now()
				f := flow
				f.IdleTimeout, f.HardTimeout = c.idle, c.hard
				require.NoError(t, b.Apply(t.Context(), add(f)))
				for _, s := range c.steps {
					<-time.After(s.at - time.Since(start))
					if s.frame {
						b.Input(1, tcpAB(1, 2, "x"))
					}
					if s.modify {
						require.NoError(t, b.Apply(t.Context(), []ofctl.Mod{ofctl.FlowMod{Command: ofctl.Modify, Flow: f}}))
					}
					fs, err := b.Flows(t.Context(), ofctl.AllFlows)
					require.NoError(t, err)
					require.Equal(t, s.present, len(fs) == 1)
				}
				<-time.After(c.end - time.Since(start) - time.Nanosecond)
				require.Empty(t, log.take())
				<-time.After(time.Nanosecond)
				evs := log.take()
				require.Len(t, evs, 1)
				ev := evs[0].(ofctl.FlowRemoved)
				require.Equal(t, c.why, ev.Reason)
				require.Equal(t, c.end, time.Duration(ev.DurationSeconds)*time.Second+time.Duration(ev.DurationNanosecs))
			})
		})
	}
}

// TestStale: a five-tuple that was seen goes on as before a change, for as long as
// was set; one that was not seen does not.
func TestStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.SetStale(200 * time.Millisecond)
		old := ofctl.Flow{Match: ofctl.TCP4(), Apply: append(sets(ofctl.TCPDst(99)), toPort(2)...)}
		require.NoError(t, b.Apply(t.Context(), add(old)))
		b.Input(1, tcpAB(1, 80, "x"))
		require.Equal(t, [3]int{0, 1, 0}, b.sent())
		<-time.After(time.Hour)
		changed := old
		changed.Apply = toPort(3)
		require.NoError(t, b.Apply(t.Context(), add(changed)))
		b.Input(1, tcpAB(2, 80, "not seen before"))
		require.Equal(t, [3]int{0, 0, 1}, b.sent())
		<-time.After(199 * time.Millisecond)
		b.Input(1, tcpAB(1, 80, "stale"))
		require.Equal(t, tcpAB(1, 99, "stale"), b.out[2][0])
		require.Equal(t, [3]int{0, 1, 0}, b.sent())
		<-time.After(time.Millisecond)
		b.Input(1, tcpAB(1, 80, "x"))
		require.Equal(t, [3]int{0, 0, 1}, b.sent())
		// A second change does not lengthen the life of what is stale already.
		require.NoError(t, b.Apply(t.Context(), add(old)))
		<-time.After(150 * time.Millisecond)
		require.NoError(t, b.Apply(t.Context(), add(changed)))
		<-time.After(50 * time.Millisecond)
		require.NoError(t, b.Apply(t.Context(), add(old)))
		b.Input(1, tcpAB(1, 80, "x"))
		require.Equal(t, [3]int{0, 1, 0}, b.sent())
		// Expiry is a change too.
		brief := old
		brief.Priority, brief.HardTimeout, brief.Apply = 9, 1, toPort(3)
		require.NoError(t, b.Apply(t.Context(), add(brief)))
		b.Input(1, tcpAB(7, 80, "x"))
		<-time.After(time.Second)
		b.Input(1, tcpAB(7, 80, "x"))
		require.Equal(t, [3]int{0, 0, 2}, b.sent())
		<-time.After(200 * time.Millisecond)
		b.Input(1, tcpAB(7, 80, "x"))
		require.Equal(t, [3]int{0, 1, 0}, b.sent())
	})
}

// TestFailover: a fast-failover group takes the first bucket that is alive.
func TestFailover(t *testing.T) {
	b := newBench(t)
	g := ofctl.Group{ID: 1, Type: ofctl.GroupFastFailover, Buckets: []ofctl.Bucket{
		{WatchPort: 2, Actions: toPort(2)}, {WatchPort: 3, Actions: toPort(3)},
	}}
	require.NoError(t, b.Apply(t.Context(), []ofctl.Mod{
		ofctl.GroupMod{Group: g}, ofctl.FlowMod{Flow: ofctl.Flow{Apply: []ofctl.Action{ofctl.ToGroup{ID: 1}}}},
	}))
	b.Input(1, tcpAB(1, 2, "x"))
	require.Equal(t, [3]int{0, 1, 0}, b.sent())
	require.True(t, b.SetPort(2, func(p *Port) { p.NoLink = true }))
	b.Input(1, tcpAB(1, 2, "x"))
	require.Equal(t, [3]int{0, 0, 1}, b.sent())
	require.True(t, b.RemovePort(3))
	b.Input(1, tcpAB(1, 2, "x"))
	require.Equal(t, [3]int{}, b.sent())
}

// TestSelectSpreads: different five-tuples take different buckets, by weight.
func TestSelectSpreads(t *testing.T) {
	b := newBench(t)
	g := ofctl.Group{ID: 1, Type: ofctl.GroupSelect, Buckets: []ofctl.Bucket{
		{Weight: 1, Actions: toPort(2)}, {Weight: 3, Actions: toPort(3)},
	}}
	require.NoError(t, b.Apply(t.Context(), []ofctl.Mod{
		ofctl.GroupMod{Group: g}, ofctl.FlowMod{Flow: ofctl.Flow{Apply: []ofctl.Action{ofctl.ToGroup{ID: 1}}}},
	}))
	for port := range uint16(1000) {
		b.Input(1, tcpAB(port, 80, "x"))
	}
	n := b.sent()
	require.Equal(t, 1000, n[1]+n[2])
	require.InDelta(t, 250, n[1], 75)
}

// TestLacks: a switch without an extension does not claim it and refuses its use.
func TestLacks(t *testing.T) {
	for cap, f := range map[ofctl.Capabilities]ofctl.Flow{
		ofctl.CapFragMatch: {Match: ofctl.IP4(ofctl.NotFragment())},
		ofctl.CapPortMask:  {Match: ofctl.TCP4(ofctl.PortRange(ofctl.TCPDst(0xf000), 0xf000))},
		ofctl.CapTTLMatch:  {Match: ofctl.IP4(ofctl.TTL(255))},
		ofctl.CapTether:    {Apply: []ofctl.Action{ofctl.Tether{Table: 1}}},
	} {
		with, without := New(Config{DatapathID: 1}), New(Config{DatapathID: 2, Lacks: cap})
		require.NoError(t, with.Apply(t.Context(), add(f)))
		_, refused := errors.AsType[*ofctl.SwitchError](without.Apply(t.Context(), add(f)))
		require.True(t, refused)
		require.True(t, with.Features().Capabilities.Has(cap))
		require.False(t, without.Features().Capabilities.Has(cap))
		require.NoError(t, with.Close())
		c, err := ofctl.Dial(t.Context(), serveUnix(t, without), ofctl.Config{})
		require.NoError(t, err)
		require.False(t, c.Features().Capabilities.Has(cap), "probed")
		require.NoError(t, c.Close())
		require.NoError(t, without.Close())
	}
}

// TestSlowWatcher: packet-ins are lost, other events are not.
func TestSlowWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		require.NoError(t, b.Apply(t.Context(), add(ofctl.Flow{
			Apply: []ofctl.Action{ofctl.ToController(0xffff)},
		})))
		go1 := make(chan struct{})
		var packetIns, statuses int
		done := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			done <- b.Watch(ctx, func(ev ofctl.Event) {
				<-go1
				switch ev.(type) {
				case ofctl.PacketIn:
					packetIns++
				case ofctl.PortStatus:
					statuses++
				}
			})
		}()
		synctest.Wait()
		for range 2 * packetInLimit {
			b.Input(1, tcpAB(1, 2, "x"))
			require.True(t, b.SetPort(3, func(*Port) {}))
		}
		close(go1)
		synctest.Wait()
		cancel()
		require.NoError(t, <-done)
		require.Equal(t, 2*packetInLimit, statuses)
		require.GreaterOrEqual(t, packetIns, packetInLimit)
		require.Less(t, packetIns, 2*packetInLimit)
	})
}

// TestDetours: groups and tables that refer to themselves end.
func TestDetours(t *testing.T) {
	b := newBench(t)
	g := indirect(1, ofctl.ToGroup{ID: 1})
	table := ofctl.Output{Port: ofctl.PortTable}
	require.NoError(t, b.Apply(t.Context(), []ofctl.Mod{
		ofctl.GroupMod{Group: g},
		ofctl.FlowMod{Flow: ofctl.Flow{Apply: []ofctl.Action{ofctl.ToGroup{ID: 1}, table, table, ofctl.Output{Port: 2}}}},
	}))
	b.Input(1, tcpAB(1, 2, "x"))
	require.NotZero(t, b.sent()[1])
}

// TestConcurrent is for the race detector, and two switches wired to each other.
func TestConcurrent(t *testing.T) {
	var mu sync.Mutex
	received := 0
	left, right := New(Config{}), New(Config{})
	for _, sw := range []*Switch{left, right} {
		t.Cleanup(func() { require.NoError(t, sw.Close()) })
		require.NoError(t, sw.Apply(t.Context(), add(ofctl.Flow{Match: ofctl.Match{ofctl.InPort(1)}, Apply: toPort(2)})))
	}
	_, err := left.AddPort(Port{No: 2, Output: func(f []byte) { right.Input(1, f) }})
	require.NoError(t, err)
	_, err = left.AddPort(Port{No: 1})
	require.NoError(t, err)
	_, err = right.AddPort(Port{No: 1})
	require.NoError(t, err)
	_, err = right.AddPort(Port{No: 2, Output: func([]byte) { mu.Lock(); received++; mu.Unlock() }})
	require.NoError(t, err)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for j := range 100 {
				left.Input(1, tcpAB(uint16(i), uint16(j), "x"))
				if err := left.Apply(t.Context(), add(ofctl.Flow{Table: 9, Priority: uint16(j), HardTimeout: 1})); err != nil {
					t.Error(err)
				}
				_, _ = left.Flows(t.Context(), ofctl.AllFlows)
			}
		})
	}
	all.Wait()
	require.Equal(t, 400, received)
}

func TestClosed(t *testing.T) {
	sw := New(Config{})
	c := sw.Connect()
	require.NoError(t, sw.Close())
	require.NoError(t, sw.Close())
	_, err := sw.AddPort(Port{})
	require.ErrorIs(t, err, ofctl.ErrClosed)
	for _, s := range []ofctl.Switch{c, sw, sw.Connect()} {
		require.ErrorIs(t, s.Apply(t.Context(), nil), ofctl.ErrClosed)
		require.ErrorIs(t, s.Watch(t.Context(), nil), ofctl.ErrClosed)
		require.ErrorIs(t, s.PacketOut(t.Context(), ofctl.PacketOut{}), ofctl.ErrClosed)
	}
	sw.Input(1, tcpAB(1, 2, "x"))
}
