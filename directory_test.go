package vias

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/seg"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
)

// found is a network with a directory: node i has endpoint i, and nobody was added.
type found struct {
	*lab
	dir   *overlaytest.Directory
	nodes []*node
}

func newFound(t testing.TB, count int, change func(*Config)) *found {
	t.Helper()
	return newFoundIn(t, overlaytest.Config{Delay: 5 * time.Millisecond}, count, change)
}

func newFoundIn(t testing.TB, c overlaytest.Config, count int, change func(*Config)) *found {
	t.Helper()
	f := &found{
		lab: newLab(t, c),
		dir: overlaytest.NewDirectory(overlaytest.DirectoryConfig{Delay: 10 * time.Millisecond}),
	}
	for i := range count {
		m := f.join(change)
		require.NoError(t, m.Attach(t.Context(), testEndpoint(i)))
		m.run()
	}
	for i := range f.nodes {
		f.published(testMAC(i), i)
	}
	return f
}

// join makes one more node, that does not run.
func (f *found) join(change func(*Config)) *node {
	f.tb.Helper()
	m := f.node(func(c *Config) {
		c.Directory, c.Admission = f.dir.Opener(), overlay.AdmitFunc(func(overlay.PeerID) bool { return true })
		if change != nil {
			change(c)
		}
	})
	f.nodes = append(f.nodes, m)
	return m
}

// published waits until the directory's first claim to a MAC is a node's.
func (f *found) published(mac tap.MAC, at int) {
	f.tb.Helper()
	d, err := f.dir.Opener()(context.Background(), overlay.DirectoryEnv{Identity: f.nodes[0].config.Identity, Network: "test"})
	require.NoError(f.tb, err)
	defer d.Close()
	eventually(f.tb, func() bool {
		list, err := d.Lookup(context.Background(), overlay.KeyMAC(mac))
		if err != nil || len(list) == 0 {
			return false
		}
		r, err := overlay.OpenEntry("test", list[0].Signed)
		return err == nil && r.Peer == f.nodes[at].ID()
	})
}

// links lists the nodes that a node is linked to.
func (f *found) links(at int) (list []int) {
	for _, p := range f.nodes[at].Peers() {
		if p.State == PeerLinked {
			list = append(list, slices.IndexFunc(f.nodes, func(m *node) bool { return m.ID() == p.ID }))
		}
	}
	return list
}

// say has endpoint i say something to j, at these nodes, and returns how long it took.
func (f *found) say(i, j int) time.Duration {
	f.tb.Helper()
	begun, text := time.Now(), fmt.Sprint(i, " to ", j, " at ", time.Now().UnixNano())
	frame := ethernet(testMAC(j), testMAC(i), text)
	f.nodes[i].send(frame)
	f.nodes[j].expect(frame)
	return time.Since(begun)
}

// quiet requires that nothing comes to a node's workloads.
func (m *node) quiet(d time.Duration) {
	m.lab.tb.Helper()
	before := m.Stats().Received.Frames + m.Stats().Answered
	<-time.After(d)
	require.Equal(m.lab.tb, before, m.Stats().Received.Frames+m.Stats().Answered)
}

func TestLinksOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 3, nil)
		<-time.After(time.Minute)
		for i := range f.nodes {
			require.Empty(t, f.links(i), "nobody asked")
		}
		// All that is sent before the link is there goes, in order, whatever it is.
		super := tcpFrame(0, 1, 1000, 80, ack, 30_000)
		in := tap.NewBatch(4, 1<<16)
		in.Append(ethernet(testMAC(1), testMAC(0), "one"), tap.Offload{})
		in.Append(super, tap.Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16, GSO: tap.GSOTCP4, SegmentSize: 1000, HeaderLen: 54})
		in.Append(ethernet(testMAC(1), testMAC(0), "three"), tap.Offload{})
		begun := time.Now()
		require.NoError(t, f.nodes[0].wire.WriteBatch(in))
		var got []string
		for payload := 0; len(got) < 3; {
			require.NoError(t, f.nodes[1].wire.ReadBatch(f.nodes[1].buffer))
			for i := range f.nodes[1].buffer.Len() {
				switch frame := f.nodes[1].buffer.Frame(i); {
				case frame[12] != 8:
					got = append(got, string(frame[14:]))
				default:
					if payload += len(frame) - 54; payload == 30_000 {
						got = append(got, "two")
					}
				}
			}
		}
		require.Equal(t, []string{"one", "two", "three"}, got)
		require.Less(t, time.Since(begun), 200*time.Millisecond)
		require.Equal(t, []int{1}, f.links(0))
		require.Equal(t, []int{0}, f.links(1))
		require.Empty(t, f.links(2))
		f.say(1, 0)
		require.Zero(t, f.nodes[0].Stats().Drops.Total()+f.nodes[1].Stats().Drops.Total())
		require.EqualValues(t, 3, f.nodes[0].Stats().Sent.Frames, "frames that waited count once")
		require.Equal(t, 1, f.nodes[0].Directory().Published)
	})
}

// arpRequest asks who has target.
func arpRequest(asker tap.MAC, from, target netip.Addr) []byte {
	f := make([]byte, 42)
	copy(f, tap.Broadcast[:])
	copy(f[6:], asker[:])
	copy(f[12:], []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1})
	copy(f[22:], asker[:])
	copy(f[28:], from.AsSlice())
	copy(f[38:], target.AsSlice())
	return f
}

func arpReply(owner tap.MAC, target netip.Addr, asker tap.MAC, from netip.Addr) []byte {
	f := make([]byte, 60)
	copy(f, asker[:])
	copy(f[6:], owner[:])
	copy(f[12:], []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 2})
	copy(f[22:], owner[:])
	copy(f[28:], target.AsSlice())
	copy(f[32:], asker[:])
	copy(f[38:], from.AsSlice())
	return f
}

// icmp6 makes an ICMPv6 frame.
func icmp6(dst, src tap.MAC, from, to netip.Addr, m []byte) []byte {
	f := make([]byte, 54+len(m))
	copy(f, dst[:])
	copy(f[6:], src[:])
	copy(f[12:], []byte{0x86, 0xdd, 0x60})
	binary.BigEndian.PutUint16(f[18:], uint16(len(m)))
	f[20], f[21] = 58, 255
	copy(f[22:], from.AsSlice())
	copy(f[38:], to.AsSlice())
	copy(f[54:], m)
	binary.BigEndian.PutUint16(f[56:], seg.TransportChecksum(from, to, 58, f[54:]))
	return f
}

func solicitation(asker tap.MAC, from, target netip.Addr) []byte {
	a := target.As16()
	m := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, a[:]...)
	if !from.IsUnspecified() {
		m = append(append(m, 1, 1), asker[:]...)
	}
	group := netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]})
	return icmp6(tap.MAC{0x33, 0x33, 0xff, a[13], a[14], a[15]}, asker, from, group, m)
}

func advertisement(dst, owner tap.MAC, target, to netip.Addr, flags byte) []byte {
	a := target.As16()
	m := append([]byte{136, 0, 0, 0, flags, 0, 0, 0}, a[:]...)
	return icmp6(dst, owner, target, to, append(append(m, 2, 1), owner[:]...))
}

func TestWhoHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 3, nil)
		six := func(i int) netip.Addr { return netip.AddrFrom16([16]byte{0xfd, 15: byte(i)}) }
		for i := range 2 {
			e := testEndpoint(i)
			e.IPs = append(e.IPs, six(i))
			require.NoError(t, f.nodes[i].Attach(t.Context(), e))
		}
		<-time.After(time.Second)
		a, none := f.nodes[0], netip.IPv4Unspecified()
		mac, other := testMAC(0), testMAC(1)
		all := tap.MAC{0x33, 0x33, 0, 0, 0, 1}
		ask := func(question, answer []byte) {
			t.Helper()
			a.send(question)
			a.expect(answer)
		}
		both := func() {
			ask(arpRequest(mac, testIP(0), testIP(1)), arpReply(other, testIP(1), mac, testIP(0)))
			ask(arpRequest(mac, none, testIP(1)), arpReply(other, testIP(1), mac, none))
			ask(solicitation(mac, six(0), six(1)), advertisement(mac, other, six(1), six(0), 0x60))
			ask(solicitation(mac, netip.IPv6Unspecified(), six(1)), advertisement(all, other, six(1), netip.MustParseAddr("ff02::1"), 0x20))
			tagged := func(b []byte) []byte { return slices.Insert(slices.Clone(b), 12, 0x81, 0, 0, 7) }
			want := tagged(arpReply(other, testIP(1), mac, testIP(0)))[:60]
			ask(tagged(arpRequest(mac, testIP(0), testIP(1))), want)
			// About itself, and what nobody has, it hears nothing.
			for _, q := range [][]byte{
				arpRequest(mac, testIP(0), testIP(0)), arpRequest(mac, none, testIP(0)), arpRequest(mac, testIP(0), testIP(9)),
				solicitation(mac, netip.IPv6Unspecified(), six(0)), solicitation(mac, six(0), six(9)), arpRequest(mac, none, testIP(9)),
			} {
				a.send(q)
				a.quiet(10 * time.Second)
			}
		}
		both()
		require.Empty(t, f.links(0), "it took no link")
		f.say(0, 1)
		flooded := a.Stats().Flooded
		both() // from what the peer announced
		require.Equal(t, flooded+3, a.Stats().Flooded, "what it says of itself goes to peers, questions do not")
		require.Equal(t, 3, int(f.nodes[1].Stats().Received.Frames)-1)
	})
}

func TestWhoHasLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 3, nil)
		a, mac, none := f.nodes[0], testMAC(0), netip.IPv4Unspecified()
		// One that is about to be published is answered then.
		a.send(arpRequest(mac, testIP(0), testIP(8)))
		<-time.After(time.Second)
		require.NoError(t, f.nodes[2].Attach(t.Context(), testEndpoint(8)))
		begun := time.Now()
		a.expect(arpReply(testMAC(8), testIP(8), mac, testIP(0)))
		require.Less(t, time.Since(begun), time.Second)
		// Its own address is free for an endpoint that comes from another node.
		require.NoError(t, a.Attach(t.Context(), Endpoint{Name: "moving", MAC: testMAC(6)}))
		require.NoError(t, f.nodes[2].Attach(t.Context(), testEndpoint(6)))
		<-time.After(time.Second)
		a.send(arpRequest(testMAC(6), none, testIP(6)))
		a.quiet(10 * time.Second)
		// A local owner heard it himself: the switch's job.
		require.NoError(t, a.Attach(t.Context(), testEndpoint(7)))
		a.send(arpRequest(mac, testIP(0), testIP(7)))
		a.quiet(10 * time.Second)
	})
}

func TestIdleLinksClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 3, func(c *Config) { c.IdleLink = time.Minute })
		require.NoError(t, f.nodes[0].AddPeer(f.nodes[2].ID()))
		begun := time.Now()
		f.say(0, 1)
		f.say(0, 2)
		for range 3 { // in use, one way
			<-time.After(50 * time.Second)
			f.say(0, 1)
		}
		for range 5 { // broadcasts are no use
			require.Equal(t, []int{1, 2}, sorted(f.links(0)))
			<-time.After(10 * time.Second)
			f.nodes[1].send(ethernet(tap.Broadcast, testMAC(1), "all"))
			f.nodes[0].send(ethernet(tap.Broadcast, testMAC(0), "all"))
		}
		<-time.After(15 * time.Second)
		require.Equal(t, []int{2}, f.links(0), "who was added stays")
		require.Empty(t, f.links(1))
		<-time.After(5 * time.Minute)
		require.Equal(t, []int{2}, f.links(0))
		require.Less(t, f.nodes[0].Peers()[0].Since.Sub(begun), 10*time.Second, "and was never away")
		require.Len(t, f.nodes[0].Peers(), 1, "it is forgotten")
		f.nodes[1].drainWire()
		require.Less(t, f.say(0, 1), 2*time.Second)
	})
}

// drainWire reads what workloads were sent.
func (m *node) drainWire() {
	m.lab.tb.Helper()
	mark := ethernet(tap.MAC{2, 9, 9}, testMAC(0), "mark")
	require.NoError(m.lab.tb, m.device.WriteBatch(batch(mark)))
	for {
		require.NoError(m.lab.tb, m.wire.ReadBatch(m.buffer))
		for i := range m.buffer.Len() {
			if string(m.buffer.Frame(i)) == string(mark) {
				return
			}
		}
	}
}

func sorted(list []int) []int { slices.Sort(list); return list }

// A link is not idle while flows use what it arranged.
func TestBypassedFlowsKeepTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := overlaytest.NewDirectory(overlaytest.DirectoryConfig{})
		_, sites := newSitesOf(t, func(c *Config) {
			c.Directory, c.IdleLink = dir.Opener(), 20*time.Second
			c.Admission = overlay.AdmitFunc(func(overlay.PeerID) bool { return true })
		})
		for i, s := range sites { // as if they had found each other
			s.mu.Lock()
			s.Network.mu.Lock()
			s.peers[sites[1-i].ID()].added = false
			s.Network.mu.Unlock()
			s.mu.Unlock()
		}
		flow, data := testFlow(0, 1, 40000, 80), tcpFrame(0, 1, 40000, 80, ack, 100)
		eventually(t, func() bool {
			sites[0].sw.Send(1, data)
			<-time.After(100 * time.Millisecond)
			return sites[0].state(flow) == bypass.Bypassed && sites[1].state(flow) == bypass.Bypassed
		})
		for range 60 {
			sites[0].sw.Send(1, data)
			<-time.After(time.Second)
		}
		require.Equal(t, PeerLinked, sites[0].Peers()[0].State)
		require.Equal(t, bypass.Bypassed, sites[0].state(flow))
		<-time.After(5 * time.Minute)
		require.NotEqual(t, bypass.Bypassed, sites[0].state(flow), "or this shows nothing")
		for _, s := range sites {
			require.Empty(t, s.Peers())
		}
	})
}

func TestLostLinkWaitsForTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 2, nil)
		f.say(0, 1)
		f.net.Cut(f.nodes[0].ID(), f.nodes[1].ID())
		<-time.After(5 * time.Second)
		f.net.Heal(f.nodes[0].ID(), f.nodes[1].ID())
		<-time.After(5 * time.Second)
		require.Empty(t, f.links(0))
		require.Less(t, f.say(1, 0), 2*time.Second)
		f.say(0, 1)
	})
}

// Traffic does not wait for the lower PeerID to dial, as peers that were added do otherwise.
func TestDemandHasNoPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 2, nil)
		low, high := 0, 1
		if f.nodes[0].ID().Compare(f.nodes[1].ID()) > 0 {
			low, high = 1, 0
		}
		require.NoError(t, f.nodes[high].AddPeer(f.nodes[low].ID()))
		require.Less(t, f.say(high, low), time.Second)
	})
}

// A node that cannot be linked is not dialled for every frame.
func TestDemandBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFound(t, 1, nil)
		b := f.join(func(c *Config) { c.Admission = overlay.AdmitFunc(func(overlay.PeerID) bool { return false }) })
		require.NoError(t, b.Attach(t.Context(), testEndpoint(1)))
		b.run()
		f.published(testMAC(1), 1)
		sent := 0
		for begun := time.Now(); time.Since(begun) < time.Minute; sent++ {
			f.nodes[0].send(ethernet(testMAC(1), testMAC(0), "x"))
			<-time.After(20 * time.Millisecond)
		}
		refused := b.Stats().Transport.Refused
		require.Positive(t, refused)
		require.LessOrEqual(t, refused, uint64(16), "0.2 s, doubled up to 10 s, in a minute")
		require.ErrorIs(t, f.nodes[0].Peers()[0].Err, overlay.ErrRefused)
		<-time.After(10 * time.Second)
		d := f.nodes[0].Stats().Drops
		require.EqualValues(t, sent, d.OutUnresolved+d.OutCrowded+d.OutLookups)
	})
}
