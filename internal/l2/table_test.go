package l2

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/leaktest"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

var (
	peerA, peerB = overlay.PeerID{1}, overlay.PeerID{2}
	mac1, mac2   = tap.MAC{2, 1}, tap.MAC{2, 2}
	ip1, ip2     = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
)

func announce(t *testing.T, table *Table, p overlay.PeerID, list ...Endpoint) Change {
	t.Helper()
	table.SetLinked(p, true)
	c, err := table.Announce(p, Announcement{Version: 1, Add: list})
	require.NoError(t, err)
	return c
}

func TestFirstComeFirstServed(t *testing.T) {
	table := New()
	one := Endpoint{MAC: mac1, IPs: []netip.Addr{ip1}, Name: "one"}
	c := announce(t, table, peerB, one)
	require.Len(t, c.Up, 1)
	c = announce(t, table, peerA, one)
	require.Equal(t, []Conflict{{MAC: mac1, Holder: peerB, Claimer: peerA}}, c.Conflicts)
	require.Equal(t, peerB, table.View().MAC(mac1).Peer)
	c, err := table.Announce(peerA, Announcement{Version: 2, Base: 1})
	require.NoError(t, err)
	require.True(t, c.Empty(), "the same conflict is told once")

	c, err = table.Announce(peerA, Announcement{Version: 3, Add: []Endpoint{{MAC: mac2, IPs: []netip.Addr{ip1, ip2}}}})
	require.NoError(t, err)
	require.Equal(t, []Conflict{{MAC: mac2, IP: ip1, Holder: peerB, Claimer: peerA}}, c.Conflicts)
	require.Equal(t, []netip.Addr{ip2}, table.View().MAC(mac2).IPs)
	require.Equal(t, uint64(2), table.Conflicts())

	// The holder takes an address that is somebody else's: it stays where it is.
	_, err = table.Announce(peerB, Announcement{Version: 2, Add: []Endpoint{{MAC: mac1, IPs: []netip.Addr{ip1, ip2}}}})
	require.NoError(t, err)
	require.Equal(t, mac2, table.View().IP(ip2).MAC)

	// Local ones win, whenever they come.
	_, err = table.Attach(Endpoint{MAC: mac1, IPs: []netip.Addr{ip2}, Name: "mine"}, 1)
	require.NoError(t, err)
	require.True(t, table.View().MAC(mac1).Local())
	require.True(t, table.View().IP(ip2).Local())
	require.Equal(t, ip1, table.View().MAC(mac2).IPs[0], "ip1 is free: its holder lost the MAC")
	table.Detach("mine")
	require.Equal(t, peerB, table.View().MAC(mac1).Peer)
}

func TestLostPeerYields(t *testing.T) {
	table := New()
	one := Endpoint{MAC: mac1, IPs: []netip.Addr{ip1}}
	announce(t, table, peerA, one)
	table.SetLinked(peerA, false)
	require.Equal(t, peerA, table.View().MAC(mac1).Peer, "a lost link is not a lost workload")
	announce(t, table, peerB, one)
	require.Equal(t, peerB, table.View().MAC(mac1).Peer, "it moved")
	table.SetLinked(peerA, true)
	require.Equal(t, peerB, table.View().MAC(mac1).Peer)
	c := table.Forget(peerB)
	require.Equal(t, peerA, table.View().MAC(mac1).Peer)
	require.Len(t, c.Up, 1)
	require.Len(t, c.Down, 1)
	require.True(t, table.Forget(peerB).Empty())
}

func TestDelta(t *testing.T) {
	table := New()
	announce(t, table, peerA, Endpoint{MAC: mac1}, Endpoint{MAC: mac2})
	_, err := table.Announce(peerA, Announcement{Version: 5, Base: 4})
	require.ErrorIs(t, err, ErrGap)
	c, err := table.Announce(peerA, Announcement{Version: 2, Base: 1, Remove: []tap.MAC{mac1}, Add: []Endpoint{{MAC: mac2, Tag: "t"}}})
	require.NoError(t, err)
	require.Len(t, c.Up, 1)
	require.Len(t, c.Down, 2)
	require.Equal(t, []Endpoint{{MAC: mac2, Tag: "t", IPs: []netip.Addr{}}}, table.Of(peerA))
	_, err = table.Announce(peerA, Announcement{Version: 1, Add: []Endpoint{{MAC: tap.Broadcast}}})
	require.Error(t, err)
	var many []Endpoint
	for i := range MaxAnnounced + 1 {
		many = append(many, Endpoint{MAC: tap.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}})
	}
	_, err = table.Announce(peerA, Announcement{Version: 9, Add: many})
	require.ErrorIs(t, err, ErrTooMany)
	require.Len(t, table.Of(peerA), 1, "a bad announcement changes nothing")
}

func TestAttachInUse(t *testing.T) {
	table := New()
	_, err := table.Attach(Endpoint{Name: "a", MAC: mac1, IPs: []netip.Addr{ip1}}, 1)
	require.NoError(t, err)
	c, err := table.Attach(Endpoint{Name: "a", MAC: mac1, IPs: []netip.Addr{ip1}}, 1)
	require.NoError(t, err)
	require.True(t, c.Empty())
	for _, e := range []struct {
		e    Endpoint
		port uint32
	}{{Endpoint{Name: "b", MAC: mac1}, 2}, {Endpoint{Name: "b", MAC: mac2}, 1}, {Endpoint{Name: "b", MAC: mac2, IPs: []netip.Addr{ip1}}, 2}} {
		_, err := table.Attach(e.e, e.port)
		require.ErrorIs(t, err, ErrInUse)
	}
	_, err = table.Attach(Endpoint{Name: "b", MAC: mac2}, 0)
	require.NoError(t, err)
	require.Len(t, table.Locals(), 2)
}

func TestLearn(t *testing.T) {
	table, now := New(), time.Unix(1000, 0)
	announce(t, table, peerA, Endpoint{MAC: mac1})
	_, ok := table.Learn(mac1, now)
	require.False(t, ok, "a peer speaks for it")
	_, ok = table.Learn(tap.Broadcast, now)
	require.False(t, ok)
	learned := 0
	for i := range 2 * LearnRate {
		if _, ok := table.Learn(tap.MAC{6, 0, 0, 0, byte(i >> 8), byte(i)}, now); ok {
			learned++
		}
	}
	require.Equal(t, LearnRate, learned)
	for i := range MaxLearned + 500 {
		table.Learn(tap.MAC{6, 1, 0, byte(i >> 16), byte(i >> 8), byte(i)}, now.Add(time.Duration(i)*10*time.Millisecond))
	}
	require.Len(t, table.Locals(), MaxLearned)
	s := table.View().MAC(tap.MAC{6})
	require.NotNil(t, s)
	s.Touch(now.Add(LearnedAge))
	c := table.Age(now.Add(LearnedAge + time.Second/2))
	require.Len(t, c.Down, LearnRate-1, "all of the first second but the one just seen")
	require.True(t, table.Age(now).Empty())
}

// What is still heard of a station that was detached is no reason to announce it: its new
// host would be refused.
func TestDetachedIsNotLearned(t *testing.T) {
	table := New()
	_, err := table.Attach(Endpoint{Name: "a", MAC: mac1}, 1)
	require.NoError(t, err)
	_, err = table.Attach(Endpoint{Name: "a", MAC: mac2}, 1)
	require.NoError(t, err)
	table.Detach("a")
	for _, m := range []tap.MAC{mac1, mac2} {
		_, ok := table.Learn(m, time.Now())
		require.False(t, ok)
		_, ok = table.Learn(m, time.Now().Add(DetachedAge+time.Second))
		require.True(t, ok)
	}
	require.Len(t, table.Locals(), 2)
}

// A local station that a peer has claimed is told about when the peer does no longer.
func TestFreed(t *testing.T) {
	table := New()
	announce(t, table, peerA, Endpoint{MAC: mac1, Name: "a"})
	announce(t, table, peerB, Endpoint{MAC: mac1, Name: "a"})
	c, err := table.Attach(Endpoint{Name: "a", MAC: mac1}, 1)
	require.NoError(t, err)
	require.Len(t, c.Conflicts, 2)
	require.Empty(t, c.Freed)
	c, err = table.Announce(peerA, Announcement{Version: 2, Base: 1, Add: []Endpoint{{MAC: mac2}}})
	require.NoError(t, err)
	require.Empty(t, c.Freed)
	c, err = table.Announce(peerA, Announcement{Version: 3, Base: 2, Remove: []tap.MAC{mac1}})
	require.NoError(t, err)
	require.Len(t, c.Freed, 1)
	require.Equal(t, mac1, c.Freed[0].MAC)
	require.Len(t, table.Forget(peerB).Freed, 1)
	announce(t, table, peerB, Endpoint{MAC: mac1})
	require.Empty(t, table.Detach("a").Freed, "it is the peer's now")
}

func TestEndpointCheck(t *testing.T) {
	for name, e := range map[string]Endpoint{
		"zero MAC":    {},
		"multicast":   {MAC: tap.MAC{1}},
		"long name":   {MAC: mac1, Name: string(make([]byte, 256))},
		"long tag":    {MAC: mac1, Tag: string(make([]byte, 256))},
		"many":        {MAC: mac1, IPs: make([]netip.Addr, 17)},
		"no IP":       {MAC: mac1, IPs: make([]netip.Addr, 1)},
		"unspecified": {MAC: mac1, IPs: []netip.Addr{netip.IPv4Unspecified()}},
		"multicast 4": {MAC: mac1, IPs: []netip.Addr{netip.MustParseAddr("224.0.0.1")}},
		"loopback":    {MAC: mac1, IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}},
		"broadcast":   {MAC: mac1, IPs: []netip.Addr{netip.MustParseAddr("255.255.255.255")}},
		"mapped":      {MAC: mac1, IPs: []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.1")}},
		"zone":        {MAC: mac1, IPs: []netip.Addr{netip.MustParseAddr("fe80::1%eth0")}},
		"twice":       {MAC: mac1, IPs: []netip.Addr{ip1, ip1}},
	} {
		t.Run(name, func(t *testing.T) { require.Error(t, e.Check()) })
	}
	require.NoError(t, Endpoint{MAC: mac1, IPs: []netip.Addr{ip1, ip2}}.Check())
}

// Whatever is announced by whom: no address is in the view twice, locals have all
// of theirs, and every station's peer did announce it.
func TestViewInvariants(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 2))
	table := New()
	peers := []overlay.PeerID{{1}, {2}, {3}}
	version := uint64(1)
	for range 3000 {
		e := Endpoint{MAC: tap.MAC{2, byte(r.IntN(6))}, Name: string(rune('a' + r.IntN(3)))}
		for k := range r.IntN(3) {
			e.IPs = append(e.IPs, netip.AddrFrom4([4]byte{10, 0, byte(k), byte(r.IntN(4))}))
		}
		p := peers[r.IntN(len(peers))]
		switch r.IntN(6) {
		case 0:
			_, _ = table.Attach(e, 0)
		case 1:
			table.Detach(e.Name)
		case 2:
			table.SetLinked(p, r.IntN(2) == 0)
		case 3:
			table.Forget(p)
		default:
			version++
			_, err := table.Announce(p, Announcement{Version: version, Add: []Endpoint{e}})
			require.NoError(t, err)
		}
		v := table.View()
		for m, s := range v.macs {
			require.Equal(t, m, s.MAC)
			for _, ip := range s.IPs {
				require.Same(t, s, v.ips[ip])
			}
			if !s.Local() {
				require.Contains(t, table.peers[s.Peer].list, m)
			}
		}
		for ip, s := range v.ips {
			require.Contains(t, s.IPs, ip)
			require.Same(t, s, v.macs[s.MAC])
		}
		for _, s := range table.attached {
			require.Same(t, s, v.macs[s.MAC])
		}
	}
}
