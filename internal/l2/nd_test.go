package l2

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// header is an IPv6 extension header of 8 bytes; its type stands in what comes before it.
type header struct {
	kind byte
	body [7]byte // behind "next header"
}

// nd makes an IPv6 frame of src with these extension headers and this ICMPv6 message.
func nd(src netip.Addr, message []byte, headers ...header) []byte {
	b := ipv6(src)
	next := &b[8]
	for _, h := range headers {
		*next = h.kind
		b = append(append(b, 0), h.body[:]...)
		next = &b[len(b)-8]
	}
	*next = nextICMPv6
	b = append(b, message...)
	binary.BigEndian.PutUint16(b[6:], uint16(len(b)-42))
	return b
}

// message is an ICMPv6 message of fixed bytes, with a target if it has one, and options.
func message(kind byte, fixed int, target netip.Addr, options ...byte) []byte {
	m := make([]byte, fixed)
	m[0] = kind
	if target.IsValid() {
		a := target.As16()
		copy(m[8:], a[:])
	}
	return append(m, options...)
}

func linkLayer(kind byte, mac tap.MAC) []byte { return append([]byte{kind, 1}, mac[:]...) }

func TestNeighbourDiscovery(t *testing.T) {
	table := New()
	six, other, ll := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2"), netip.MustParseAddr("fe80::7")
	_, err := table.Attach(Endpoint{Name: "one", MAC: mac1, IPs: []netip.Addr{six}}, 0)
	require.NoError(t, err)
	own, foreign := linkLayer(1, mac1), linkLayer(1, mac2)
	ownTarget, foreignTarget := linkLayer(2, mac1), linkLayer(2, mac2)
	none := netip.Addr{}
	hop, later := header{kind: nextHopByHop}, header{kind: nextFragment, body: [7]byte{0, 0, 8}}
	na := message(neighborAdvertisement, 24, six, ownTarget...)
	bad := message(neighborAdvertisement, 24, other, ownTarget...)
	for name, c := range map[string]struct {
		frame []byte
		want  Cause
	}{
		"solicitation":                    {nd(six, message(neighborSolicitation, 24, other, own...)), OK},
		"solicitation, foreign MAC":       {nd(six, message(neighborSolicitation, 24, other, foreign...)), ForeignMAC},
		"solicitation of another":         {nd(other, message(neighborSolicitation, 24, six, own...)), ForeignIP},
		"duplicate address detection":     {nd(netip.IPv6Unspecified(), message(neighborSolicitation, 24, six, 14, 1, 1, 2, 3, 4, 5, 6)), OK},
		"advertisement":                   {nd(six, na), OK},
		"advertisement from link-local":   {nd(ll, na), OK},
		"advertisement of a link-local":   {nd(ll, message(neighborAdvertisement, 24, ll, ownTarget...)), OK},
		"advertisement without MAC":       {nd(six, message(neighborAdvertisement, 24, six)), OK},
		"advertisement, foreign IP":       {nd(ll, bad), ForeignIP},
		"advertisement, foreign MAC":      {nd(six, message(neighborAdvertisement, 24, six, foreignTarget...)), ForeignMAC},
		"advertisement, MAC further on":   {nd(six, message(neighborAdvertisement, 24, six, append([]byte{14, 1, 0, 0, 0, 0, 0, 0}, foreignTarget...)...)), ForeignMAC},
		"advertisement of none":           {nd(six, message(neighborAdvertisement, 24, netip.IPv6Unspecified())), Malformed},
		"advertisement of many":           {nd(six, message(neighborAdvertisement, 24, netip.MustParseAddr("ff02::1"))), Malformed},
		"advertisement cut":               {nd(six, na[:20]), Malformed},
		"advertisement, option cut":       {nd(six, na[:30]), Malformed},
		"advertisement, half an option":   {nd(six, message(neighborAdvertisement, 24, six, 2)), Malformed},
		"advertisement, option of none":   {nd(six, message(neighborAdvertisement, 24, six, 2, 0, 0, 0, 0, 0, 0, 0)), Malformed},
		"behind hop-by-hop":               {nd(ll, bad, hop), ForeignIP},
		"behind many headers":             {nd(ll, bad, hop, header{kind: nextDestination}, header{kind: nextRouting}, header{kind: nextDestination}), ForeignIP},
		"own, behind hop-by-hop":          {nd(ll, na, hop), OK},
		"in a first fragment":             {nd(ll, na, header{kind: nextFragment, body: [7]byte{0, 0, 1}}), Malformed},
		"in a later fragment":             {nd(ll, bad, later), OK},
		"behind a header that is cut":     {nd(ll, bad, header{kind: nextHopByHop, body: [7]byte{200}}), OK},
		"router solicitation":             {nd(ll, message(routerSolicitation, 8, none, own...)), OK},
		"router solicitation, foreign":    {nd(ll, message(routerSolicitation, 8, none, foreign...)), ForeignMAC},
		"router advertisement":            {nd(ll, message(routerAdvertisement, 16, none, own...)), OK},
		"router advertisement, foreign":   {nd(ll, message(routerAdvertisement, 16, none, foreign...)), ForeignMAC},
		"router advertisement, cut":       {nd(ll, message(routerAdvertisement, 12, none)), Malformed},
		"redirect to itself":              {nd(ll, message(redirect, 40, none, ownTarget...)), OK},
		"redirect to another":             {nd(ll, message(redirect, 40, none, foreignTarget...)), ForeignMAC},
		"redirect, cut":                   {nd(ll, message(redirect, 36, none)), Malformed},
		"echo":                            {nd(six, message(128, 8, none)), OK},
		"multicast listener report":       {nd(ll, message(143, 8, none), hop), OK},
		"padding is no option":            {append(nd(six, na), 2, 1, 9, 9), OK},
		"advertisement, IP of all others": {nd(netip.IPv6Unspecified(), bad), ForeignIP},
	} {
		t.Run(name, func(t *testing.T) {
			for _, b := range [][]byte{c.frame, tagged(c.frame)} {
				_, got := table.View().CheckSource(frame(mac1, b...), overlay.PeerID{})
				require.Equal(t, c.want, got)
			}
		})
	}
}

func TestNeighbourDiscoveryAllocs(t *testing.T) {
	table, six := New(), netip.MustParseAddr("fd00::1")
	_, err := table.Attach(Endpoint{Name: "one", MAC: mac1, IPs: []netip.Addr{six}}, 0)
	require.NoError(t, err)
	f, v := frame(mac1, nd(six, message(neighborAdvertisement, 24, six, linkLayer(2, mac1)...))...), table.View()
	require.Zero(t, testing.AllocsPerRun(100, func() { v.CheckSource(f, overlay.PeerID{}) }))
}
