package vias

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
)

func TestEndpointMovesBetweenFound(t *testing.T) {
	for _, overlap := range []bool{false, true} {
		for _, linked := range []bool{false, true} {
			t.Run(fmt.Sprintf("overlap=%v,linked=%v", overlap, linked), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testFoundMoves(t, overlap, linked) })
			})
		}
	}
}

func testFoundMoves(t *testing.T, overlap, linked bool) {
	f := newFound(t, 3, nil)
	a, b, c := f.nodes[0], f.nodes[1], f.nodes[2]
	f.say(0, 1)
	if linked {
		f.say(0, 2)
	}
	moved := testEndpoint(1)
	moved.Name = "moved"
	if overlap {
		require.NoError(t, c.Attach(t.Context(), moved))
		<-time.After(2 * time.Second)
		f.say(0, 1)
		require.NoError(t, b.Detach(t.Context(), testEndpoint(1).Name))
	} else {
		require.NoError(t, b.Detach(t.Context(), testEndpoint(1).Name))
		<-time.After(500 * time.Millisecond)
		require.NoError(t, c.Attach(t.Context(), moved))
	}
	begun, had := time.Now(), c.Stats().Received.Frames
	eventually(t, func() bool {
		a.send(ethernet(testMAC(1), testMAC(0), "where are you?"))
		<-time.After(100 * time.Millisecond)
		return c.Stats().Received.Frames > had
	})
	require.Less(t, time.Since(begun), 2*time.Second)
	<-time.After(time.Second)
	for range 10 { // and there it stays
		had = c.Stats().Received.Frames
		a.send(ethernet(testMAC(1), testMAC(0), "there?"))
		<-time.After(time.Second)
		require.Equal(t, had+1, c.Stats().Received.Frames)
	}
	c.send(ethernet(testMAC(0), testMAC(1), "from here"))
	a.expect(ethernet(testMAC(0), testMAC(1), "from here"))
}

// events collects Conflicts of a node.
func (m *node) conflicts() func() []Conflict {
	var list []Conflict
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	seq := m.Events(ctx)
	go func() {
		defer close(done)
		for e := range seq {
			if c, ok := e.(Conflict); ok {
				list = append(list, c)
			}
		}
	}()
	return func() []Conflict {
		synctest.Wait()
		cancel()
		<-done
		return list
	}
}

func TestDuplicateAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 3, nil)
		a, holder, late := f.nodes[0], f.nodes[1], f.nodes[2]
		ofHolder, ofLate := holder.conflicts(), late.conflicts()
		twin := testEndpoint(1)
		twin.Name = "twin"
		require.NoError(t, late.Attach(t.Context(), twin))
		<-time.After(time.Second)
		mac, ip := testMAC(1), testIP(1)
		atHolder := []Conflict{{Claimer: late.ID(), MAC: mac}, {Claimer: late.ID(), MAC: mac, IP: ip}}
		atLate := []Conflict{{Claimer: late.ID(), Holder: holder.ID(), MAC: mac}, {Claimer: late.ID(), Holder: holder.ID(), MAC: mac, IP: ip}}
		require.Equal(t, atHolder, holder.Directory().Conflicts)
		require.Equal(t, atLate, late.Directory().Conflicts)
		<-time.After(5 * time.Minute) // renewal changes nothing
		f.say(0, 1)
		require.Equal(t, []int{1}, f.links(0))
		f.say(2, 0) // the late one is linked, and announces it, too
		<-time.After(time.Second)
		f.say(0, 1)
		require.Equal(t, atHolder, holder.Directory().Conflicts)
		require.ElementsMatch(t, atHolder, ofHolder(), "once")
		require.ElementsMatch(t, atLate, ofLate(), "once")

		require.NoError(t, holder.Detach(t.Context(), testEndpoint(1).Name))
		<-time.After(time.Second)
		frame := ethernet(mac, testMAC(0), "who is it now?")
		a.send(frame)
		late.expect(frame)
		require.Empty(t, late.Directory().Conflicts)
		require.Empty(t, holder.Directory().Conflicts)
	})
}

// TestLyingEntry: a node publishes, and announces, what another has. Who is linked to the liar alone
// finds the holder all the same, and takes nothing of the liar's from there.
func TestLyingEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 3, nil)
		a, holder, liar := f.nodes[0], f.nodes[1], f.nodes[2]
		f.say(2, 0) // it is linked in earnest
		lie := testEndpoint(1)
		lie.Name = "lie"
		require.NoError(t, liar.Attach(t.Context(), lie))
		<-time.After(time.Second)
		require.Equal(t, []int{2}, f.links(0))
		liar.send(ethernet(testMAC(0), testMAC(1), "I am 1"), tcpFrame(1, 0, 1, 80, syn, 0))
		a.quiet(time.Second)
		require.EqualValues(t, 2, a.Stats().Drops.InSourceMAC)
		f.say(0, 1)
		f.say(1, 0)
		// Another MAC, but the holder's IP.
		require.NoError(t, liar.Detach(t.Context(), "lie"))
		lie.MAC = testMAC(9)
		require.NoError(t, liar.Attach(t.Context(), lie))
		<-time.After(time.Second)
		stolen := tcpFrame(1, 0, 1, 80, syn, 0)
		copy(stolen[6:], lie.MAC[:])
		liar.send(stolen)
		a.quiet(time.Second)
		require.EqualValues(t, 1, a.Stats().Drops.InSourceIP)
		a.send(arpRequest(testMAC(0), testIP(0), testIP(1)))
		a.expect(arpReply(testMAC(1), testIP(1), testMAC(0), testIP(0)))
		require.NotEmpty(t, holder.Directory().Conflicts)
		// It ends with the holder's claim: within a moment, not at the next look.
		require.NoError(t, holder.Detach(t.Context(), testEndpoint(1).Name))
		<-time.After(time.Second)
		liar.send(stolen)
		a.expect(stolen)
	})
}

// lateWatch is a Directory that has something happen before the first watch of a key.
type lateWatch struct {
	overlay.Directory
	key    overlay.DirectoryKey
	before func()
}

func (d *lateWatch) Watch(key overlay.DirectoryKey, changed func()) func() {
	if before := d.before; key == d.key && before != nil {
		d.before = nil
		before()
	}
	return d.Directory.Watch(key, changed)
}

// TestDisputeEndsUnwatched: the holder's claim ends between the look-up that found a dispute and the
// watch over it, which is not told of that.
func TestDisputeEndsUnwatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late, first := &lateWatch{key: overlay.KeyIP(testIP(1))}, true
		f := newFound(t, 3, func(c *Config) {
			if open := c.Directory; first {
				first = false
				c.Directory = func(ctx context.Context, env overlay.DirectoryEnv) (overlay.Directory, error) {
					d, err := open(ctx, env)
					late.Directory = d
					return late, err
				}
			}
		})
		a, holder, next := f.nodes[0], f.nodes[1], f.nodes[2]
		f.say(2, 0)
		began := make(chan struct{})
		late.before = func() {
			close(began)
			require.NoError(t, holder.Detach(t.Context(), testEndpoint(1).Name))
			<-time.After(100 * time.Millisecond) // the directory has it
		}
		e := testEndpoint(1)
		e.MAC, e.Name = testMAC(9), "next"
		require.NoError(t, next.Attach(t.Context(), e))
		<-began
		<-time.After(time.Second)
		frame := tcpFrame(1, 0, 1, 80, syn, 0)
		copy(frame[6:], e.MAC[:])
		next.send(frame)
		a.expect(frame)
	})
}

// TestLyingDirectory: what nobody signed for this network and this address is not believed.
func TestLyingDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 3, nil)
		liar, wrong := f.nodes[2], overlay.Entry{MAC: testMAC(1), Issued: time.Now(), Life: time.Minute, Sequence: 1}
		sign := func(network string, change func(*overlay.Entry)) []byte {
			e := wrong
			change(&e)
			r, err := overlay.SignEntry(liar.config.Identity, network, e)
			require.NoError(t, err)
			return r.Signed
		}
		good := sign("test", func(*overlay.Entry) {})
		key := overlay.KeyMAC(testMAC(1))
		for i, signed := range [][]byte{
			nil, []byte("x"), good[:len(good)-1],
			sign("other", func(*overlay.Entry) {}),
			sign("test", func(e *overlay.Entry) { e.MAC = testMAC(2) }),
			sign("test", func(e *overlay.Entry) { e.Issued = e.Issued.Add(-4 * time.Minute) }),
			sign("test", func(e *overlay.Entry) { e.Issued = e.Issued.Add(4 * time.Minute) }),
		} {
			f.dir.Forge("test", key, overlay.PeerID{byte(i + 1)}, signed)
		}
		f.say(0, 1)
		require.Equal(t, []int{1}, f.links(0))
		// A good one, so that the test can tell; a node that there is not yields.
		f.dir.Forge("test", key, overlay.PeerID{99}, good)
		require.Empty(t, f.links(2))
	})
}

// A directory that lies takes nothing away from a peer that is linked.
func TestLinkedHolderKeepsItsAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 3, nil)
		liar := f.nodes[2]
		f.say(0, 1)
		f.say(2, 0)
		lie := testEndpoint(1)
		lie.Name = "lie"
		require.NoError(t, liar.Attach(t.Context(), lie))
		<-time.After(time.Second)
		r, err := overlay.SignEntry(liar.config.Identity, "test", overlay.Entry{
			MAC: lie.MAC, IPs: lie.IPs, Issued: time.Now(), Life: 10 * time.Minute, Sequence: 1 << 62,
		})
		require.NoError(t, err)
		f.dir.Forge("test", overlay.KeyMAC(lie.MAC), overlay.PeerID{99}, r.Signed)
		f.dir.Forge("test", overlay.KeyIP(lie.IPs[0]), overlay.PeerID{99}, r.Signed)
		for range 6 { // it is looked up every 30 s
			f.say(0, 1)
			f.say(1, 0)
			<-time.After(10 * time.Second)
		}
		require.Positive(t, f.nodes[1].Directory().Published)
	})
}

// An entry that was replaced is not believed again.
func TestOldEntryIsNotShownAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 2, nil)
		a, b := f.nodes[0], f.nodes[1]
		d, err := f.dir.Opener()(t.Context(), overlay.DirectoryEnv{Identity: a.config.Identity, Network: "test"})
		require.NoError(t, err)
		old, err := d.Lookup(t.Context(), overlay.KeyIP(testIP(1)))
		require.NoError(t, err)
		a.send(arpRequest(testMAC(0), testIP(0), testIP(1)))
		a.expect(arpReply(testMAC(1), testIP(1), testMAC(0), testIP(0)))
		e := testEndpoint(1)
		e.IPs = []netip.Addr{testIP(5)}
		require.NoError(t, b.Attach(t.Context(), e))
		<-time.After(10 * time.Second)
		a.send(arpRequest(testMAC(0), testIP(0), testIP(5)))
		a.expect(arpReply(testMAC(1), testIP(5), testMAC(0), testIP(0)))
		f.dir.Forge("test", overlay.KeyIP(testIP(1)), b.ID(), old[0].Signed)
		a.send(arpRequest(testMAC(0), testIP(0), testIP(1)))
		a.quiet(10 * time.Second)
	})
}
