package lab

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/tap"
)

func newMarker() (m marker) {
	_, _ = rand.Read(m[:]) // never fails (crypto/rand)
	return m
}

// What guests say is on the provider's network while they are bypassed, and only
// then; nothing else of them is, and every frame there has its reason. Traffic of
// the hosts loses nothing meanwhile.
func TestIntegrationCapture(t *testing.T) {
	s := newSystem(t)
	seen := s.startCapture()
	s.startNodes()
	s.policies(nodecfg.Overlay)
	host, loud := s.startEchoes(), s.startNoise()
	secret, plain, filler := []marker{newMarker()}, []marker{}, newMarker()
	k := s.startChat(secret[0])
	s.awaitState(5*time.Second, k.from(), nodecfg.Overlay)
	s.awaitRounds(10*time.Second, k, 30, "on the overlay")
	for _, end := range []int{1, 2} {
		s.change(k, filler)
		s.policies(nodecfg.Bypass)
		s.awaitState(10*time.Second, k.from(), "bypassed")
		plain = append(plain, newMarker())
		s.change(k, plain[len(plain)-1])
		s.awaitRounds(10*time.Second, k, 30, "on the bypass")
		s.change(k, filler)
		s.policy(end, nodecfg.Overlay)
		s.awaitState(10*time.Second, k.from(), nodecfg.Overlay)
		secret = append(secret, newMarker())
		s.change(k, secret[len(secret)-1])
		s.awaitRounds(10*time.Second, k, 30, "back on the overlay")
	}
	s.awaitNoise(5*time.Second, loud)
	missing, sent, err := host.end(t.Context()).lost()
	require.NoError(t, err)
	require.Empty(t, missing, "of %d datagrams from host to host", sent)
	t.Logf("%d datagrams from host to host, none lost", sent)

	frames, n := seen.all(t), s.network()
	n.live = s.live
	require.Len(t, s.live, 4, "two flows one after the other, in both directions")
	s.requireClasses(frames, n, classARP, classHost, classSTUN, classDTLS, classData, classProbe, classBypass)
	for i, m := range secret {
		for _, f := range frames {
			require.NotContains(t, string(f), string(m[:]), "what was said on the overlay, part %d", i)
		}
	}
	for i, m := range plain {
		from := map[netip.Addr]int{}
		for _, f := range frames {
			if bytes.Contains(f, m[:]) {
				require.Equal(t, classBypass, n.class(f), "%x", f)
				from[addr4(f[26:])]++
			}
		}
		for _, h := range s.hosts {
			require.GreaterOrEqual(t, from[h.Addr], 30, "bypass %d, from host %d", i+1, h.Index)
		}
	}
}

// ipv4 makes a frame with an IPv4 packet whose checksums are right.
func ipv4(dst, src [6]byte, proto, ttl byte, from, to netip.Addr, body []byte) []byte {
	f := append(append(dst[:], src[:]...), 0x08, 0x00)
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, ttl, proto, 0, 0}
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(body)))
	ip = append(append(ip, from.AsSlice()...), to.AsSlice()...)
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip, 0))
	pseudo := append(append(from.AsSlice(), to.AsSlice()...), 0, proto, byte(len(body)>>8), byte(len(body)))
	at := map[byte]int{6: 16, 17: 6}[proto]
	binary.BigEndian.PutUint16(body[at:], ^sum(body, uint32(sum(pseudo, 0))))
	return append(append(f, ip...), body...)
}

// sum is the ones' complement sum of RFC 1071.
func sum(b []byte, n uint32) uint16 {
	for i := 0; i < len(b); i += 2 {
		n += uint32(b[i]) << 8
		if i+1 < len(b) {
			n += uint32(b[i+1])
		}
	}
	for n > 0xffff {
		n = n>>16 + n&0xffff
	}
	return uint16(n)
}

// segment is a TCP header without options; datagram a UDP header and its payload.
func segment(sport, dport uint16, flags byte) []byte {
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, sport), dport)
	return append(b, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0)
}

func datagram(sport, dport uint16, payload ...byte) []byte {
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, sport), dport)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...)
}

const ack = 0x10

// The judge of the captures itself.
func TestFrameClasses(t *testing.T) {
	cfg, err := Config{}.normal()
	require.NoError(t, err)
	s := &system{Lab: &Lab{cfg: cfg, hosts: cfg.plan()}, t: t}
	n, a, b, guest := s.network(), s.hosts[0], s.hosts[1], s.guest(1, 1)
	n.live = map[tuple]bool{{netip.AddrPortFrom(a.Addr, 61440), netip.AddrPortFrom(b.Addr, 65279)}: true,
		{netip.AddrPortFrom(a.Addr6, 61440), netip.AddrPortFrom(b.Addr6, 65279)}: true}
	tcp := func(ttl byte, sport, dport uint16, flags byte) []byte {
		return ipv4(b.MAC, a.MAC, 6, ttl, a.Addr, b.Addr, segment(sport, dport, flags))
	}
	udp := func(sport, dport uint16, payload ...byte) []byte {
		return ipv4(b.MAC, a.MAC, 17, 64, a.Addr, b.Addr, datagram(sport, dport, payload...))
	}
	arp := func(src [6]byte, sender, target netip.Addr) []byte {
		f := append([]byte{255, 255, 255, 255, 255, 255}, src[:]...)
		f = append(append(f, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1), src[:]...)
		return append(append(append(f, sender.AsSlice()...), 0, 0, 0, 0, 0, 0), target.AsSlice()...)
	}
	ip6 := func(dst, src tap.MAC, next, hops byte, from, to netip.Addr, body []byte) []byte {
		f := append(append(dst[:], src[:]...), 0x86, 0xdd, 0x60, 0, 0, 0, byte(len(body)>>8), byte(len(body)), next, hops)
		return append(append(append(f, from.AsSlice()...), to.AsSlice()...), body...)
	}
	solicit := func(of netip.Addr) []byte {
		return append(append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, of.AsSlice()...), 1, 1, 2, 2, 2, 2, 2, 2)
	}
	nodes, routers := tap.MAC{0x33, 0x33, 0xff, 0, 0, 2}, tap.MAC{0x33, 0x33, 0, 0, 0, 2}
	group, reports := netip.MustParseAddr("ff02::1:ff00:2"), netip.MustParseAddr("ff02::16")
	report := []byte{58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 0}
	stun := []byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	record := []byte{25, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	tagged := append([]byte(nil), tcp(64, 61440, 65279, ack)...)
	tagged = append(tagged[:12], append([]byte{0x81, 0, 0, 7}, tagged[12:]...)...)
	for _, c := range []struct {
		what, class string
		frame       []byte
	}{
		{"ARP of a host", classARP, arp(a.MAC, a.Addr, b.Addr)},
		{"ARP of a guest", "", arp(guest.MAC, guest.Addr, s.guest(2, 1).Addr)},
		{"ARP of a guest for a host", "", arp(guest.MAC, guest.Addr, b.Addr)},
		{"a live flow", classBypass, tcp(64, 61440, 65279, ack)},
		{"a flow that no node knows", "", tcp(64, 61440, 65278, ack)},
		{"its way back, which is not live", "", tcp(64, 65279, 61440, ack)},
		{"reset of a live flow", "", tcp(64, 61440, 65279, rst)},
		{"tagged", "", tagged},
		{"from a guest's MAC", "", ipv4(b.MAC, guest.MAC, 6, 64, a.Addr, b.Addr, segment(61440, 65279, ack))},
		{"from a guest's address", "", ipv4(b.MAC, a.MAC, 6, 64, guest.Addr, b.Addr, segment(61440, 65279, ack))},
		{"probe", classProbe, tcp(255, 65280, 65535, ack)},
		{"answer of a host's stack on probes' ports", "", tcp(64, 65280, 65535, rst)},
		{"rendezvous", classHost, tcp(64, 40000, signalPort, ack)},
		{"another connection", "", tcp(64, 40000, 22, ack)},
		{"STUN", classSTUN, udp(overlayPort, overlayPort, stun...)},
		{"STUN without its cookie", "", udp(overlayPort, overlayPort, make([]byte, 20)...)},
		{"DTLS", classDTLS, udp(overlayPort, overlayPort, record...)},
		{"data record", classData, udp(overlayPort, overlayPort, append([]byte{0xe1, 1}, make([]byte, 31)...)...)},
		{"a frame in clear in the overlay's place", "", udp(overlayPort, overlayPort, arp(guest.MAC, guest.Addr, b.Addr)...)},
		{"a live flow of UDP", classBypass, udp(61440, 65279, 1)},
		{"a flow of UDP that no node knows", "", udp(61440, 65278, 1)},
		{"TCP over IPv6", classBypass, ip6(b.MAC, a.MAC, 6, 64, a.Addr6, b.Addr6, segment(61440, 65279, ack))},
		{"UDP over IPv6 that no node knows", "", ip6(b.MAC, a.MAC, 17, 64, b.Addr6, a.Addr6, datagram(65279, 61440, 1))},
		{"probe over IPv6", classProbe, ip6(b.MAC, a.MAC, 17, 255, a.Addr6, b.Addr6, datagram(65280, 65535, 1))},
		{"over IPv6 from a guest's address", "", ip6(b.MAC, a.MAC, 6, 64, guest.Addr6, b.Addr6, segment(61440, 65279, ack))},
		{"solicitation of a host", classND, ip6(nodes, a.MAC, 58, 255, a.Addr6, group, solicit(b.Addr6))},
		{"solicitation of a host for a guest", "", ip6(nodes, a.MAC, 58, 255, a.Addr6, group, solicit(guest.Addr6))},
		{"solicitation of a guest", "", ip6(nodes, guest.MAC, 58, 255, guest.Addr6, group, solicit(b.Addr6))},
		{"report of a host", classMLD, ip6(nodes, a.MAC, 0, 1, netip.IPv6Unspecified(), reports, report)},
		{"report of a guest", "", ip6(nodes, guest.MAC, 0, 1, netip.IPv6Unspecified(), reports, report)},
		{"router solicitation", "", ip6(routers, a.MAC, 58, 255, a.Addr6, netip.MustParseAddr("ff02::2"), []byte{133, 0, 0, 0, 0, 0, 0, 0})},
		{"IPv6 that is cut off", "", ip6(b.MAC, a.MAC, 6, 64, a.Addr6, b.Addr6, segment(61440, 65279, ack))[:60]},
		{"cut off", "", tcp(64, 61440, 65279, ack)[:40]},
	} {
		require.Equal(t, c.class, n.class(c.frame), c.what)
	}
	require.True(t, isReset(tcp(64, 1, 2, rst)))
	require.False(t, isReset(tcp(255, 65280, 65535, rst)), "a probe")
	require.False(t, isReset(tcp(64, 1, 2, ack)))
}

func TestFrameWithTag(t *testing.T) {
	whole := append(append(make([]byte, 12), 0x81, 0, 0, 7), "the rest"...)
	taken := append(make([]byte, 12), "the rest"...)
	aux := make([]byte, unix.CmsgSpace(20))
	binary.NativeEndian.PutUint64(aux, uint64(unix.CmsgLen(20)))
	binary.NativeEndian.PutUint32(aux[8:], unix.SOL_PACKET)
	binary.NativeEndian.PutUint32(aux[12:], unix.PACKET_AUXDATA)
	binary.NativeEndian.PutUint32(aux[16:], unix.TP_STATUS_VLAN_VALID)
	binary.NativeEndian.PutUint16(aux[32:], 7)
	binary.NativeEndian.PutUint16(aux[34:], 0x8100)
	require.Equal(t, whole, withTag(bytes.Clone(taken), aux))
	aux[16] = 0
	require.Equal(t, taken, withTag(taken, aux))
}
