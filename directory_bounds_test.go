package vias

import (
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/pump"
	"github.com/viasnet/vias/tap"
)

// scanned is the i-th address that nobody has.
func scanned(i int) tap.MAC {
	m := tap.MAC{2, 0x77}
	binary.BigEndian.PutUint32(m[2:], uint32(i))
	return m
}

// A guest that scans does not flood the directory, nor keep others from finding.
func TestScanIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 2, nil)
		a := f.nodes[0]
		require.NoError(t, a.Attach(t.Context(), testEndpoint(5)))
		<-time.After(time.Second)
		before, begun, sent := f.dir.Counts(a.ID()), time.Now(), 0
		for range 100 { // 10 s
			for range 100 {
				a.send(ethernet(scanned(sent), testMAC(0), "anybody?"))
				sent++
			}
			<-time.After(100 * time.Millisecond)
		}
		frame := ethernet(testMAC(1), testMAC(5), "another endpoint's")
		asked := time.Now()
		a.send(frame)
		f.nodes[1].expect(frame)
		require.Less(t, time.Since(asked), 500*time.Millisecond)
		<-time.After(5 * time.Second)
		took := f.dir.Counts(a.ID())
		most := 2*askRate + askRate*int(time.Since(begun)/time.Second)
		// Each address is asked for twice: before it is watched and after.
		require.LessOrEqual(t, int(took.Lookups-before.Lookups), 2*most+20)
		require.GreaterOrEqual(t, int(took.Lookups-before.Lookups), askRate, "or it does not look up at all")
		d := a.Stats().Drops
		require.EqualValues(t, sent, d.OutLookups+d.OutUnresolved)
		require.GreaterOrEqual(t, int(d.OutLookups), sent-most)
		require.Zero(t, a.Directory().Searches, "nothing stays")
	})
}

// One address that nobody has is not looked up for every frame.
func TestMissesAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 1, nil)
		a, sent := f.nodes[0], 0
		before := f.dir.Counts(a.ID()).Lookups
		for range 200 { // 20 s: five times searched, and missed for a second
			a.send(ethernet(scanned(1), testMAC(0), "?"))
			sent++
			<-time.After(100 * time.Millisecond)
		}
		<-time.After(5 * time.Second)
		require.InDelta(t, 2*5, int(f.dir.Counts(a.ID()).Lookups-before), 3)
		require.EqualValues(t, sent, a.Stats().Drops.OutUnresolved)
	})
}

func TestWaitingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 1, func(c *Config) {})
		a, sent := f.nodes[0], 0
		payload := string(make([]byte, 1400))
		for i := range 30 { // to each more than may wait for one, to all more than may wait
			for range 250 {
				a.send(ethernet(scanned(i), testMAC(0), payload))
				sent++
			}
			synctest.Wait() // or the device drops some
		}
		a.finder.mu.Lock()
		bytes := a.finder.bytes
		for _, s := range a.finder.searches {
			require.LessOrEqual(t, s.bytes, maxWaitingOne)
		}
		a.finder.mu.Unlock()
		require.LessOrEqual(t, bytes, maxWaiting)
		require.Greater(t, bytes, maxWaiting/2)
		require.Positive(t, a.Stats().Drops.OutCrowded)
		<-time.After(searchTime + time.Second)
		d, came := a.Stats().Drops, a.Stats().Sent.Frames
		require.Equal(t, came, d.OutCrowded+d.OutUnresolved)
		require.Greater(t, came, uint64(sent/2), "the device may drop some")
		require.Zero(t, a.finder.bytes)
	})
}

// What is still waiting when a node ends is counted, too.
func TestWaitingEndsWithTheNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 2, nil)
		f.nodes[0].send(ethernet(scanned(1), testMAC(0), "?"))
		<-time.After(time.Second)
		require.NoError(t, f.nodes[0].shut())
		require.EqualValues(t, 1, f.nodes[0].Stats().Drops.OutUnresolved)
		// And what it published is gone at once.
		f.nodes[1].send(arpRequest(testMAC(1), testIP(1), testIP(0)))
		f.nodes[1].quiet(5 * time.Second)
	})
}

func TestBroadcastsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 2, nil)
		f.say(0, 1)
		a, had := f.nodes[0], f.nodes[1].Stats().Received.Frames
		for range 1000 {
			a.send(ethernet(tap.Broadcast, testMAC(0), "all"))
		}
		<-time.After(time.Second)
		got := int(f.nodes[1].Stats().Received.Frames - had)
		require.InDelta(t, 2*pump.GroupRate, got, 5)
		require.EqualValues(t, 1000-got, a.Stats().Drops.OutBroadcast)
	})
}

func TestDirectoryAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 3, nil)
		a := f.nodes[0]
		f.say(0, 1)
		require.NoError(t, a.Directory().Err)
		f.dir.SetAway(true)
		a.send(ethernet(testMAC(2), testMAC(0), "nobody knows where it is"))
		<-time.After(time.Second)
		require.Error(t, a.Directory().Err, "the reason is to be seen")
		require.InDelta(t, time.Second, time.Since(a.Directory().Since), float64(50*time.Millisecond))
		for range 100 { // longer than entries live
			f.say(0, 1)
			f.say(1, 0)
			<-time.After(time.Second)
		}
		require.EqualValues(t, 1, a.Stats().Drops.OutUnresolved)
		frame := ethernet(testMAC(2), testMAC(0), "it waits")
		a.send(frame)
		<-time.After(time.Second)
		f.dir.SetAway(false)
		begun := time.Now()
		f.nodes[2].expect(frame)
		require.Less(t, time.Since(begun), 2*time.Second)
		<-time.After(5 * time.Second)
		require.NoError(t, a.Directory().Err)
		f.dir.Reset()
		<-time.After(time.Second)
		require.Less(t, f.say(2, 1), 2*time.Second, "all is published again when the directory says that it is back")
		f.say(1, 2)
	})
}

// What a peer announced while the directory was away is held against it when it is back.
func TestLiesWhileDirectoryIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 3, nil)
		a, liar := f.nodes[0], f.nodes[2]
		f.say(2, 0)
		f.dir.SetAway(true)
		lie := testEndpoint(1)
		lie.Name = "lie"
		require.NoError(t, liar.Attach(t.Context(), lie))
		<-time.After(10 * time.Second)
		said := ethernet(testMAC(0), testMAC(1), "I am 1")
		liar.send(said)
		a.expect(said) // first come, first served, among those that are linked
		f.dir.SetAway(false)
		<-time.After(5 * time.Second)
		liar.send(said)
		a.quiet(time.Second)
		require.EqualValues(t, 1, a.Stats().Drops.InSourceMAC)
		f.say(0, 1)
	})
}

// A node whose host died yields to where its endpoint is now.
func TestDeadHolderYields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 3, nil)
		moved := testEndpoint(1)
		moved.Name = "moved"
		f.net.Cut(f.nodes[0].ID(), f.nodes[1].ID())
		require.NoError(t, f.nodes[2].Attach(t.Context(), moved))
		<-time.After(time.Second)
		begun, had := time.Now(), f.nodes[2].Stats().Received.Frames
		eventually(t, func() bool {
			f.nodes[0].send(ethernet(testMAC(1), testMAC(0), "?"))
			<-time.After(100 * time.Millisecond)
			return f.nodes[2].Stats().Received.Frames > had
		})
		require.Less(t, time.Since(begun), 7*time.Second, "a dial that fails takes 5 s")
	})
}

func TestFoundNeedsNobodyAdded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 2, func(c *Config) { c.Admission = nil })
		f.nodes[0].send(ethernet(testMAC(1), testMAC(0), "?"))
		<-time.After(time.Minute)
		require.Empty(t, f.links(0), "without a rule nobody is admitted but who was added")
		require.NoError(t, f.nodes[0].AddPeer(f.nodes[1].ID()))
		require.NoError(t, f.nodes[1].AddPeer(f.nodes[0].ID()))
		<-time.After(10 * time.Second)
		f.say(0, 1)
	})
}
