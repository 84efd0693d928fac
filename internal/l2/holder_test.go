package l2

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

func TestSetHolder(t *testing.T) {
	table := New()
	none := netip.Addr{}
	set := func(mac tap.MAC, ip netip.Addr, holder overlay.PeerID) (Change, bool) {
		return table.SetHolder(mac, ip, holder)
	}
	table.SetLinked(peerB, true)
	announce(t, table, peerB, Endpoint{MAC: mac1, IPs: []netip.Addr{ip1, ip2}})
	require.Equal(t, peerB, table.View().MAC(mac1).Peer)

	c, disputed := set(mac1, none, peerB)
	require.False(t, disputed)
	require.True(t, c.Empty())
	c, disputed = set(tap.MAC{}, ip1, peerA)
	require.True(t, disputed)
	require.Equal(t, []Conflict{{MAC: mac1, IP: ip1, Holder: peerA, Claimer: peerB}}, c.Conflicts)
	require.Equal(t, []netip.Addr{ip2}, table.View().MAC(mac1).IPs)
	c, disputed = set(mac1, none, peerA)
	require.True(t, disputed)
	require.Len(t, c.Down, 1)
	require.Nil(t, table.View().MAC(mac1))
	c, disputed = set(mac1, none, peerA)
	require.True(t, disputed)
	require.True(t, c.Empty(), "nothing new")

	// The holder gets it, whenever it comes, linked or not; a local one is always first.
	announce(t, table, peerA, Endpoint{MAC: mac1, IPs: []netip.Addr{ip1}})
	require.Equal(t, peerA, table.View().MAC(mac1).Peer)
	require.Equal(t, peerA, table.View().IP(ip1).Peer)
	_, err := table.Attach(Endpoint{Name: "x", MAC: mac1}, 0)
	require.NoError(t, err)
	require.True(t, table.View().MAC(mac1).Local())
	table.Detach("x")

	// Nobody holds it: the older rule.
	table.SetLinked(peerA, false)
	c, disputed = set(mac1, none, overlay.PeerID{})
	require.False(t, disputed)
	require.Equal(t, peerB, table.View().MAC(mac1).Peer, "it is linked, the other is not")
	require.NotEmpty(t, c.Up)
	set(tap.MAC{}, ip1, peerA)
	table.Forget(peerB)
	_, disputed = set(tap.MAC{}, ip1, peerA)
	require.False(t, disputed)
	require.Empty(t, table.held, "nothing is remembered that nobody disputes")
}
