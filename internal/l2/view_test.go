package l2

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// frame makes an Ethernet frame from src with these bytes behind its addresses.
func frame(src tap.MAC, rest ...byte) []byte {
	return append(append(append([]byte{}, mac2[:]...), src[:]...), rest...)
}

func ipv4(src netip.Addr) []byte {
	a := src.As4()
	return append([]byte{8, 0, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 6, 0, 0}, append(a[:], 10, 0, 0, 9)...)
}

func ipv6(src netip.Addr) []byte {
	a := src.As16()
	return append(append([]byte{0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 59, 64}, a[:]...), make([]byte, 16)...)
}

func arp(mac tap.MAC, src netip.Addr) []byte {
	a := src.As4()
	b := append([]byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, mac[:]...)
	return append(append(b, a[:]...), make([]byte, 10)...)
}

func tagged(rest []byte) []byte { return append([]byte{0x81, 0, 0, 5}, rest...) }

func TestCheckSource(t *testing.T) {
	table := New()
	free, foreign, six := tap.MAC{2, 3}, tap.MAC{2, 9}, netip.MustParseAddr("fd00::1")
	_, err := table.Attach(Endpoint{Name: "one", MAC: mac1, IPs: []netip.Addr{ip1, six}}, 0)
	require.NoError(t, err)
	_, err = table.Attach(Endpoint{Name: "free", MAC: free}, 0)
	require.NoError(t, err)
	announce(t, table, peerA, Endpoint{MAC: foreign, IPs: []netip.Addr{ip2}})
	ll, none4, other := netip.MustParseAddr("fe80::7"), netip.IPv4Unspecified(), netip.MustParseAddr("10.0.0.77")
	for name, c := range map[string]struct {
		frame []byte
		peer  overlay.PeerID
		want  Cause
	}{
		"own IPv4":               {frame: frame(mac1, ipv4(ip1)...)},
		"other IPv4":             {frame: frame(mac1, ipv4(other)...), want: ForeignIP},
		"DHCP":                   {frame: frame(mac1, ipv4(none4)...)},
		"other IPv4 in a tag":    {frame: frame(mac1, tagged(ipv4(other))...), want: ForeignIP},
		"own IPv4 in two tags":   {frame: frame(mac1, tagged(tagged(ipv4(ip1)))...)},
		"other in two tags":      {frame: frame(mac1, tagged(tagged(ipv4(other)))...), want: ForeignIP},
		"three tags":             {frame: frame(mac1, tagged(tagged(tagged(ipv4(ip1))))...), want: Malformed},
		"half a tag":             {frame: frame(mac1, 0x81, 0, 1), want: Malformed},
		"short IPv4":             {frame: frame(mac1, ipv4(ip1)[:15]...), want: Malformed},
		"own IPv6":               {frame: frame(mac1, ipv6(six)...)},
		"link-local IPv6":        {frame: frame(mac1, ipv6(ll)...)},
		"no address yet":         {frame: frame(mac1, ipv6(netip.IPv6Unspecified())...)},
		"other IPv6":             {frame: frame(mac1, ipv6(netip.MustParseAddr("fd00::2"))...), want: ForeignIP},
		"own IPv4, mapped":       {frame: frame(mac1, ipv6(netip.MustParseAddr("::ffff:10.0.0.1"))...), want: ForeignIP},
		"short IPv6":             {frame: frame(mac1, ipv6(six)[:30]...), want: Malformed},
		"own ARP":                {frame: frame(mac1, arp(mac1, ip1)...)},
		"ARP probe":              {frame: frame(mac1, arp(mac1, none4)...)},
		"ARP for another MAC":    {frame: frame(mac1, arp(free, ip1)...), want: ForeignMAC},
		"ARP for another IP":     {frame: frame(mac1, arp(mac1, other)...), want: ForeignIP},
		"short ARP":              {frame: frame(mac1, arp(mac1, ip1)[:20]...), want: Malformed},
		"odd ARP":                {frame: frame(mac1, append([]byte{8, 6, 0, 9}, make([]byte, 30)...)...), want: Malformed},
		"something else":         {frame: frame(mac1, 0x88, 0xcc, 1, 2)},
		"any IPv4":               {frame: frame(free, ipv4(other)...)},
		"any IPv4 but others'":   {frame: frame(free, ipv4(ip1)...), want: ForeignIP},
		"any IPv4 but a peer's":  {frame: frame(free, arp(free, ip2)...), want: ForeignIP},
		"unknown":                {frame: frame(tap.MAC{2, 7}, ipv4(ip1)...), want: UnknownMAC},
		"a peer's":               {frame: frame(foreign, ipv4(ip2)...), want: ForeignMAC},
		"multicast":              {frame: frame(tap.Broadcast, ipv4(ip1)...), want: ForeignMAC},
		"zero":                   {frame: frame(tap.MAC{}, ipv4(ip1)...), want: ForeignMAC},
		"runt":                   {frame: mac1[:], want: Malformed},
		"peer's own":             {frame: frame(foreign, ipv4(ip2)...), peer: peerA},
		"peer's other IP":        {frame: frame(foreign, ipv4(other)...), peer: peerA, want: ForeignIP},
		"peer as another peer":   {frame: frame(foreign, ipv4(ip2)...), peer: peerB, want: ForeignMAC},
		"peer as a local":        {frame: frame(mac1, ipv4(ip1)...), peer: peerA, want: ForeignMAC},
		"peer, never announced":  {frame: frame(tap.MAC{2, 7}, ipv4(ip2)...), peer: peerA, want: UnknownMAC},
		"peer, any, but a local": {frame: frame(foreign, arp(foreign, ip1)...), peer: peerA, want: ForeignIP},
	} {
		t.Run(name, func(t *testing.T) {
			s, got := table.View().CheckSource(c.frame, c.peer)
			require.Equal(t, c.want, got)
			if got == OK {
				require.NotNil(t, s)
			}
		})
	}
}

// A station whose every IP is somebody else's must not become one that may use any.
func TestAllIPsRefused(t *testing.T) {
	table := New()
	announce(t, table, peerA, Endpoint{MAC: mac1, IPs: []netip.Addr{ip1}})
	announce(t, table, peerB, Endpoint{MAC: mac2, IPs: []netip.Addr{ip1}})
	_, cause := table.View().CheckSource(frame(mac2, ipv4(netip.MustParseAddr("10.9.9.9"))...), peerB)
	require.Equal(t, ForeignIP, cause)
}

func TestCheckSourceAllocs(t *testing.T) {
	table := New()
	_, err := table.Attach(Endpoint{Name: "one", MAC: mac1, IPs: []netip.Addr{ip1}}, 0)
	require.NoError(t, err)
	f, v := frame(mac1, ipv4(ip1)...), table.View()
	require.Zero(t, testing.AllocsPerRun(100, func() { v.CheckSource(f, overlay.PeerID{}) }))
}

func TestLinkLocal(t *testing.T) {
	require.True(t, LinkLocal(tap.MAC{1, 0x80, 0xc2, 0, 0, 0}))
	require.True(t, LinkLocal(tap.MAC{1, 0x80, 0xc2, 0, 0, 15}))
	require.False(t, LinkLocal(tap.MAC{1, 0x80, 0xc2, 0, 0, 16}))
	require.False(t, LinkLocal(tap.Broadcast))
}

func FuzzCheckSource(f *testing.F) {
	table := New()
	if _, err := table.Attach(Endpoint{Name: "one", MAC: mac1, IPs: []netip.Addr{ip1}}, 0); err != nil {
		f.Fatal(err)
	}
	f.Add(frame(mac1, ipv4(ip1)...))
	f.Add(frame(mac1, arp(mac1, ip1)...))
	f.Add(frame(mac1, tagged(ipv6(netip.MustParseAddr("fd00::1")))...))
	f.Add(frame(mac1, nd(netip.MustParseAddr("fe80::1"), message(neighborAdvertisement, 24, netip.MustParseAddr("fe80::1"), linkLayer(2, mac1)...), header{kind: nextHopByHop})...))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, cause := table.View().CheckSource(b, overlay.PeerID{})
		if cause == OK {
			require.Equal(t, tap.MAC(b[6:12]), s.MAC)
		}
	})
}

func BenchmarkCheckSource(b *testing.B) {
	table := New()
	if _, err := table.Attach(Endpoint{Name: "one", MAC: mac1, IPs: []netip.Addr{ip1}}, 0); err != nil {
		b.Fatal(err)
	}
	f, v := frame(mac1, ipv4(ip1)...), table.View()
	b.ReportAllocs()
	for b.Loop() {
		v.CheckSource(f, overlay.PeerID{})
	}
}
