package discover

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/tap"
)

var (
	guest  = tap.MAC{2, 0, 0, 0, 0, 1}
	guest2 = tap.MAC{2, 0, 0, 0, 0, 2}
	ip4    = netip.MustParseAddr("192.168.7.1")
	ip6    = netip.MustParseAddr("fd00::1")
)

func ethernet(src tap.MAC, kind uint16, body ...[]byte) []byte {
	b := append(tap.Broadcast[:], src[:]...)
	b = binary.BigEndian.AppendUint16(b, kind)
	for _, p := range body {
		b = append(b, p...)
	}
	return b
}

func arpFrame(src, sha tap.MAC, spa netip.Addr) []byte {
	return ethernet(src, etherARP, []byte{0, 1, 8, 0, 6, 4, 0, 1}, sha[:], spa.AsSlice(), make([]byte, 6), []byte{192, 168, 7, 9})
}

func ndFrame(src tap.MAC, kind byte, from, target netip.Addr) []byte {
	head := append([]byte{0x60, 0, 0, 0, 0, 24, protoICMP, 255}, from.AsSlice()...)
	head = append(head, netip.MustParseAddr("ff02::1").AsSlice()...)
	return ethernet(src, etherIPv6, head, []byte{kind, 0, 0, 0, 0, 0, 0, 0}, target.AsSlice())
}

func dhcpFrame(src, chaddr tap.MAC, ciaddr netip.Addr) []byte {
	boot := make([]byte, 240)
	boot[0], boot[1], boot[2] = 1, 1, 6
	copy(boot[12:], ciaddr.AsSlice())
	copy(boot[28:], chaddr[:])
	copy(boot[236:], []byte{99, 130, 83, 99})
	ip := make([]byte, 20)
	ip[0], ip[8], ip[9] = 0x45, 64, protoUDP
	return ethernet(src, etherIPv4, ip, []byte{0, 68, 0, 67, 1, 0, 0, 0}, boot)
}

func TestReadClaim(t *testing.T) {
	none4, none6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	local := netip.MustParseAddr("fe80::1")
	for name, row := range map[string]struct {
		frame []byte
		ip    netip.Addr
		ok    bool
	}{
		"arp":                         {arpFrame(guest, guest, ip4), ip4, true},
		"arp probe":                   {arpFrame(guest, guest, none4), netip.Addr{}, true},
		"arp of another's MAC":        {arpFrame(guest, guest2, ip4), netip.Addr{}, false},
		"arp of loopback":             {arpFrame(guest, guest, netip.MustParseAddr("127.0.0.1")), netip.Addr{}, true},
		"arp from a group":            {arpFrame(tap.Broadcast, tap.Broadcast, ip4), netip.Addr{}, false},
		"solicitation":                {ndFrame(guest, 135, ip6, netip.MustParseAddr("fd00::9")), ip6, true},
		"duplicate address detection": {ndFrame(guest, 135, none6, ip6), ip6, true},
		"of a link-local address":     {ndFrame(guest, 135, none6, local), netip.Addr{}, true},
		"advertisement":               {ndFrame(guest, 136, local, ip6), ip6, true},
		"router solicitation":         {ndFrame(guest, 133, ip6, ip6), netip.Addr{}, false},
		"dhcp discover":               {dhcpFrame(guest, guest, none4), netip.Addr{}, true},
		"dhcp renewal":                {dhcpFrame(guest, guest, ip4), ip4, true},
		"dhcp for another":            {dhcpFrame(guest, guest2, ip4), netip.Addr{}, false},
		"other":                       {ethernet(guest, 0x88cc, make([]byte, 60)), netip.Addr{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c, ok := readClaim(row.frame)
			require.Equal(t, row.ok, ok)
			if ok {
				require.Equal(t, claim{guest, row.ip}, c)
			}
			for n := range row.frame {
				if _, ok := readClaim(row.frame[:n]); ok {
					require.Less(t, len(row.frame)-n, 7, "cut to %d bytes", n) // the target of an ARP may be missing: no
				}
			}
		})
	}
	routed := ndFrame(guest, 135, ip6, ip6)
	routed[14+7] = 254
	_, ok := readClaim(routed)
	require.False(t, ok, "it came through a router")
}

// FuzzReadClaim: what a guest sends never panics, and is never taken for an address that
// no workload may have.
func FuzzReadClaim(f *testing.F) {
	f.Add(arpFrame(guest, guest, ip4))
	f.Add(ndFrame(guest, 135, ip6, ip6))
	f.Add(ndFrame(guest, 136, ip6, ip6))
	f.Add(dhcpFrame(guest, guest, ip4))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, ok := readClaim(b)
		if !ok {
			return
		}
		require.Equal(t, b[6:12], c.mac[:])
		require.False(t, c.mac.IsMulticast() || c.mac.IsZero())
		require.True(t, !c.ip.IsValid() || usable(c.ip))
	})
}
