package nat

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
)

// roamBound is how long a connection may stand still, TCP's own timer included. Where UDP is
// blocked 1.5 s of it go by until that is certain, at either end.
const roamBound = 10 * time.Second

// laptop is a node that is at one place after the other.
type laptop struct {
	*world
	*place
	at   int // number of the router that it is plugged into; 0 = none
	desk *place
}

// plug moves the laptop: its cable is pulled, its address is gone, then there is another
// network, with another address behind another NAT.
func (l *laptop) plug(router string, number int) {
	l.t.Helper()
	if l.at != 0 {
		l.ip(l.ns, fmt.Sprintf("link del eth%d", l.at))
	}
	l.at = number
	l.routers = []string{router}
	l.connect(l.place, fmt.Sprintf("eth%d", number), "lan1", number, 1, true, false)
}

// member makes a place's node a member with a TAP.
func (w *world) member(p *place, k kind, addr string) (id overlay.PeerID) {
	w.t.Helper()
	w.ip(p.ns, "tuntap add "+device+" mode tap", "link set "+device+" mtu 1300 up", "addr add "+addr+"/24 dev "+device)
	w.start(p)
	require.NoError(w.t, p.Call("node.Member", w.opening(0, k), &id))
	return id
}

// TestIntegrationLaptop: a node goes from NAT to NAT, of other kinds and with other addresses,
// and through a place where UDP is blocked; the same TCP connection carries on.
func TestIntegrationLaptop(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stops := []struct {
		name  string
		r     Router
		relay bool
	}{
		{"home, behind a symmetric NAT", symmetric, true},
		{"a full cone", Router{}, false},
		{"a hotel that blocks UDP", Router{Filtering: AddressAndPortDependent, Egress: NoUDP}, true},
		{"a train that lets out port 443", Router{Filtering: AddressAndPortDependent, Egress: HTTPS}, true},
		{"an office, address-restricted", Router{Filtering: AddressDependent}, false},
		{"home again", symmetric, true},
	}
	l := &laptop{world: w, place: &place{ns: "laptop"}, desk: w.behind(portRestricted)}
	w.namespace(l.ns)
	w.ip(l.ns, "link set lo up")
	move := func(i int) {
		n := w.number()
		l.plug(w.router(n, stops[i].r, true, false), n)
	}
	move(0)
	k := natKind("", "", Router{})
	mine, theirs := w.member(l.place, k, "192.168.77.1"), w.member(l.desk, k, "192.168.77.2")
	require.NoError(t, l.Call("node.Join", theirs, &Nothing{}))
	require.NoError(t, l.desk.Call("node.Join", mine, &Nothing{}))
	last := l.settles(stops[0].name, stops[0].relay, Path{})
	require.NoError(t, l.Call("node.Talk", netip.MustParseAddrPort("192.168.77.2:7"), &Nothing{}))
	l.talks(stops[0].name)
	for i := 1; i < len(stops); i++ {
		start := time.Now()
		move(i)
		last = l.settles(stops[i].name, stops[i].relay, last)
		settled := time.Since(start)
		p := l.talks(stops[i].name)
		require.Less(t, p.Gap, roamBound, stops[i].name)
		t.Logf("%s: there after %v, the connection stood still for %v", stops[i].name, settled.Round(time.Millisecond), p.Gap.Round(time.Millisecond))
	}
	var p Progress
	require.NoError(t, l.Call("node.Talked", true, &p))
	require.Equal(t, p.Sent, p.Received)
	t.Logf("%d bytes there and back", p.Received)
}

// settles waits until the laptop's link is by another path than the last, and as it should be.
func (l *laptop) settles(name string, relay bool, last Path) (now Path) {
	l.t.Helper()
	require.Eventually(l.t, func() bool {
		var at, from Path // gob leaves alone what is zero
		if l.Call("node.PathOf", Nothing{}, &at) != nil || l.desk.Call("node.PathOf", Nothing{}, &from) != nil {
			return false
		}
		now = at
		mine := netip.AddrFrom4([4]byte{10, byte(l.at), 1, 2})
		return at.Local.IsValid() && from.Local.IsValid() && at.Relay == relay && from.Relay == relay &&
			at.Local != last.Local && (relay || at.Local.Addr() == mine)
	}, patience, 20*time.Millisecond, name)
	return now
}

// talks waits until the connection has gone on.
func (l *laptop) talks(name string) (p Progress) {
	l.t.Helper()
	require.NoError(l.t, l.Call("node.Talked", false, &p))
	before, gap := p.Received, p.Gap
	require.Eventually(l.t, func() bool {
		p = Progress{}
		require.NoError(l.t, l.Call("node.Talked", false, &p))
		gap = max(gap, p.Gap)
		return p.Received > before+100*talkChunk
	}, patience, 20*time.Millisecond, name)
	p.Gap = gap
	return p
}
