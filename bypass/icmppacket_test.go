package bypass

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/seg"
	"github.com/viasnet/vias/tap"
)

// icmpCase is a flow, as the guest sees it and as the underlay does.
type icmpCase struct {
	name        string
	guest, wire Flow
	router      netip.Addr
}

var icmpMACs = struct{ local, remote, host, gateway tap.MAC }{
	tap.MAC{2, 0x77, 0, 0, 0, 1}, tap.MAC{2, 0x77, 0, 0, 0, 9}, tap.MAC{2, 0x99, 0, 0, 0, 1}, tap.MAC{2, 0x99, 0, 0, 0, 0xfe},
}

func icmpCases() []icmpCase {
	at := netip.MustParseAddrPort
	var all []icmpCase
	for _, p := range []Proto{TCP, UDP} {
		all = append(all,
			icmpCase{p.String() + "4", Flow{p, at("192.168.7.1:40000"), at("192.168.7.9:80")}, Flow{p, at("10.1.0.1:61731"), at("10.1.0.2:61440")}, netip.MustParseAddr("10.1.0.254")},
			icmpCase{p.String() + "6", Flow{p, at("[fd07::1]:40000"), at("[fd07::9]:80")}, Flow{p, at("[fd10::1]:61731"), at("[fd10::2]:61440")}, netip.MustParseAddr("fd10::fe")})
	}
	return all
}

// packet is an IP packet of f with so many bytes of payload.
func packet(tb testing.TB, f Flow, payload int) []byte {
	tb.Helper()
	text := make([]byte, payload)
	for i := range text {
		text[i] = byte(i * 7)
	}
	var ip gopacket.SerializableLayer
	var network gopacket.NetworkLayer
	if f.Src.Addr().Is4() {
		l := &layers.IPv4{Version: 4, TTL: 63, TOS: 0x2e << 2, Id: 0x1234, Flags: layers.IPv4DontFragment, Protocol: layers.IPProtocol(f.Proto),
			SrcIP: f.Src.Addr().AsSlice(), DstIP: f.Dst.Addr().AsSlice()}
		ip, network = l, l
	} else {
		l := &layers.IPv6{Version: 6, HopLimit: 63, TrafficClass: 0x2e << 2, FlowLabel: 0x54321, NextHeader: layers.IPProtocol(f.Proto),
			SrcIP: f.Src.Addr().AsSlice(), DstIP: f.Dst.Addr().AsSlice()}
		ip, network = l, l
	}
	var l4 gopacket.SerializableLayer
	if f.Proto == TCP {
		t := &layers.TCP{SrcPort: layers.TCPPort(f.Src.Port()), DstPort: layers.TCPPort(f.Dst.Port()), Seq: 0xdeadbeef, Ack: 77, ACK: true, Window: 500}
		require.NoError(tb, t.SetNetworkLayerForChecksum(network))
		l4 = t
	} else {
		u := &layers.UDP{SrcPort: layers.UDPPort(f.Src.Port()), DstPort: layers.UDPPort(f.Dst.Port())}
		require.NoError(tb, u.SetNetworkLayerForChecksum(network))
		l4 = u
	}
	b := gopacket.NewSerializeBuffer()
	require.NoError(tb, gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, l4, gopacket.Payload(text)))
	return bytes.Clone(b.Bytes())
}

// errorFrame is a router's error about quote. head is the ICMP header's type, code and
// last four bytes; its checksum is filled in.
func errorFrame(from, to netip.Addr, kind, code uint8, rest uint32, quote []byte) []byte {
	m := binary.BigEndian.AppendUint32([]byte{kind, code, 0, 0}, rest)
	m = append(m, quote...)
	f := append(append([]byte(nil), icmpMACs.host[:]...), icmpMACs.gateway[:]...)
	if from.Is4() {
		binary.BigEndian.PutUint16(m[2:], seg.Checksum(m, 0))
		ip := []byte{0x45, 0xc0, 0, 0, 0, 1, 0, 0, 64, protoICMP, 0, 0}
		ip = append(append(ip, from.AsSlice()...), to.AsSlice()...)
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(m)))
		seg.PutIPv4Checksum(ip)
		return append(append(append(f, 0x08, 0), ip...), m...)
	}
	binary.BigEndian.PutUint16(m[2:], seg.Checksum(m, seg.PseudoHeader(from.AsSlice(), to.AsSlice(), protoICMP6, len(m))))
	ip := []byte{0x60, 0, 0, 0, 0, 0, protoICMP6, 64}
	binary.BigEndian.PutUint16(ip[4:], uint16(len(m)))
	ip = append(append(ip, from.AsSlice()...), to.AsSlice()...)
	return append(append(append(f, 0x86, 0xdd), ip...), m...)
}

// tooBig is the router's error about a packet of the flow as the underlay has it.
func (c icmpCase) tooBig(tb testing.TB, mtu uint32, quoted int) []byte {
	q := packet(tb, c.wire, 1400)
	if c.router.Is4() {
		return errorFrame(c.router, c.wire.Src.Addr(), icmpUnreachable, icmpFragNeeded, mtu, q[:quoted])
	}
	return errorFrame(c.router, c.wire.Src.Addr(), icmp6TooBig, 0, mtu, q[:quoted])
}

func (c icmpCase) unreachable(tb testing.TB, code uint8) []byte {
	q := packet(tb, c.wire, 100)
	if c.router.Is4() {
		return errorFrame(c.router, c.wire.Src.Addr(), icmpUnreachable, code, 0, q)
	}
	return errorFrame(c.router, c.wire.Src.Addr(), icmp6Unreachable, code, 0, q)
}

// head is the length of the flow's IP header.
func (c icmpCase) head() int {
	if c.router.Is4() {
		return ipv4Head
	}
	return ipv6Head
}

// What a guest gets is what its own packet would have met: byte for byte the packet that
// it sent, in an error from the other guest, in which nothing of the underlay is.
func TestICMPTranslation(t *testing.T) {
	for _, c := range icmpCases() {
		for name, quoted := range map[string]int{"least": c.head() + quotedL4, "usual": 100, "all": 1400} {
			t.Run(c.name+" "+name, func(t *testing.T) {
				e, ok := parseICMPError(c.tooBig(t, 1300, quoted))
				require.True(t, ok)
				require.Equal(t, c.wire, e.wire)
				require.Equal(t, 1300, e.mtu)
				require.Equal(t, c.router, e.from)
				out := e.translate(c.guest, icmpMACs.local, icmpMACs.remote)
				require.NotContains(t, string(out), string(c.wire.Src.Addr().AsSlice()))
				require.NotContains(t, string(out), string(c.router.AsSlice()))
				sent := packet(t, c.guest, 1400)
				requireGuestError(t, c, icmpMACs.local, icmpMACs.remote, out, sent[:min(quoted, maxQuoted)], 1300)
			})
		}
		t.Run(c.name+" unreachable", func(t *testing.T) {
			for code := range uint8(32) {
				e, ok := parseICMPError(c.unreachable(t, code))
				wanted := []uint8{0, 1, 2, 3, 9, 10, 13}
				if !c.router.Is4() {
					wanted = []uint8{0, 1, 3, 4, 5, 6}
				}
				require.Equal(t, bytes.IndexByte(wanted, code) >= 0, ok, "code %d", code)
				if ok {
					require.Zero(t, e.mtu)
					sent := packet(t, c.guest, 100)
					requireGuestError(t, c, icmpMACs.local, icmpMACs.remote, e.translate(c.guest, icmpMACs.local, icmpMACs.remote), sent[:min(len(sent), maxQuoted)], int(code)<<16)
				}
			}
		})
	}
}

// ErrorFrame, PacketOf and RequireTooBig are for tests of whole hosts.
func ErrorFrame(from, to netip.Addr, kind, code uint8, rest uint32, quote []byte) []byte {
	return errorFrame(from, to, kind, code, rest, quote)
}

// PacketOf is an IP packet of f.
func PacketOf(tb testing.TB, f Flow, payload int) []byte { return packet(tb, f, payload) }

// RequireTooBig checks what a guest got about its packet with that payload.
func RequireTooBig(tb testing.TB, frame []byte, f Flow, local, remote tap.MAC, payload, mtu int) {
	c := icmpCase{guest: f, router: f.Dst.Addr()}
	requireGuestError(tb, c, local, remote, frame, packet(tb, f, payload)[:100], mtu)
}

// requireGuestError reads the frame with gopacket. mtu is the MTU, or a code in its upper
// half.
func requireGuestError(tb testing.TB, c icmpCase, local, remote tap.MAC, frame, quote []byte, mtu int) {
	tb.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	require.Nil(tb, p.ErrorLayer())
	eth := p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
	require.Equal(tb, local[:], []byte(eth.DstMAC))
	require.Equal(tb, remote[:], []byte(eth.SrcMAC))
	require.Equal(tb, c.guest.Dst.Addr().AsSlice(), p.NetworkLayer().NetworkFlow().Src().Raw())
	require.Equal(tb, c.guest.Src.Addr().AsSlice(), p.NetworkLayer().NetworkFlow().Dst().Raw())
	body := p.NetworkLayer().LayerPayload()
	require.Equal(tb, quote, body[icmpHead:])
	if c.router.Is4() {
		ip := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
		require.Zero(tb, seg.Checksum(ip.Contents, 0))
		require.Equal(tb, uint8(64), ip.TTL)
		require.Zero(tb, seg.Checksum(body, 0))
		require.Zero(tb, seg.Checksum(body[icmpHead:icmpHead+ipv4Head], 0), "the quoted header's")
		icmp := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
		kind := layers.CreateICMPv4TypeCode(icmpUnreachable, icmpFragNeeded)
		if mtu >= 1<<16 || mtu == 0 {
			kind, mtu = layers.CreateICMPv4TypeCode(icmpUnreachable, uint8(mtu>>16)), 0
		}
		require.Equal(tb, kind, icmp.TypeCode)
		require.EqualValues(tb, mtu, icmp.Seq)
		return
	}
	ip := p.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
	require.Equal(tb, uint8(64), ip.HopLimit)
	require.Zero(tb, seg.Checksum(body, seg.PseudoHeader(ip.SrcIP, ip.DstIP, protoICMP6, len(body))))
	icmp := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
	kind := layers.CreateICMPv6TypeCode(icmp6TooBig, 0)
	if mtu >= 1<<16 || mtu == 0 {
		kind, mtu = layers.CreateICMPv6TypeCode(icmp6Unreachable, uint8(mtu>>16)), 0
	}
	require.Equal(tb, kind, icmp.TypeCode)
	require.EqualValues(tb, mtu, binary.BigEndian.Uint32(body[4:]))
}

// A UDP datagram without a checksum has none in the quote either, and one whose checksum
// becomes 0 has 0xffff.
func TestICMPChecksumZero(t *testing.T) {
	c := icmpCases()[2]
	require.Equal(t, "udp4", c.name)
	q := packet(t, c.wire, 100)
	q[26], q[27] = 0, 0
	e, ok := parseICMPError(errorFrame(c.router, c.wire.Src.Addr(), icmpUnreachable, 1, 0, q))
	require.True(t, ok)
	require.Zero(t, binary.BigEndian.Uint16(e.requote(c.guest)[26:]))
	is := packet(t, c.guest, 100)
	// A payload that makes the guest's checksum 0xffff.
	last := binary.BigEndian.Uint16(is[28:])
	binary.BigEndian.PutUint16(is[28:], 0)
	is[26], is[27] = 0, 0
	ip := is[12:20]
	binary.BigEndian.PutUint16(is[28:], seg.Checksum(is[20:], seg.PseudoHeader(ip[:4], ip[4:], 17, len(is)-20)))
	require.NotEqual(t, last, binary.BigEndian.Uint16(is[28:]))
	q = packet(t, c.wire, 100)
	copy(q[28:], is[28:])
	q[26], q[27] = 0, 0
	binary.BigEndian.PutUint16(q[26:], seg.TransportChecksum(c.wire.Src.Addr(), c.wire.Dst.Addr(), 17, q[20:]))
	e, ok = parseICMPError(errorFrame(c.router, c.wire.Src.Addr(), icmpUnreachable, 1, 0, q))
	require.True(t, ok)
	require.Equal(t, uint16(0xffff), binary.BigEndian.Uint16(e.requote(c.guest)[26:]))
}

// What routers put behind the quote does not reach a guest.
func TestICMPExtensions(t *testing.T) {
	for _, c := range icmpCases() {
		q := packet(t, c.wire, 1400)[:256]
		secret := []byte("interface address of a router")
		at := c.head() + 20
		for i := at; i < len(q); i += len(secret) {
			copy(q[i:], secret)
		}
		words, kind, code := uint32((at+3)/4)<<16, uint8(icmpUnreachable), uint8(1)
		if !c.router.Is4() {
			words, kind = uint32((at+7)/8)<<24, icmp6Unreachable
		}
		e, ok := parseICMPError(errorFrame(c.router, c.wire.Src.Addr(), kind, code, words, q))
		require.True(t, ok, c.name)
		require.Less(t, len(e.quote), at+8, c.name)
		e, ok = parseICMPError(errorFrame(c.router, c.wire.Src.Addr(), kind, code, 0, q))
		require.True(t, ok, c.name)
		require.Len(t, e.quote, maxQuoted, c.name)
		short := packet(t, c.wire, 4)
		e, ok = parseICMPError(errorFrame(c.router, c.wire.Src.Addr(), kind, code, 0, append(bytes.Clone(short), secret...)))
		require.True(t, ok, c.name)
		require.Equal(t, short, e.quote, c.name)
	}
}

func TestICMPBounds(t *testing.T) {
	for _, c := range icmpCases() {
		size := len(packet(t, c.wire, 1400))
		for mtu, want := range map[uint32]int{0: minMTU4, 68: minMTU4, 575: minMTU4, 576: 576, 1279: 1279, 1280: 1280,
			uint32(size - 1): size - 1, uint32(size): 0, 9000: 0, 1 << 20: 0} {
			if !c.router.Is4() && mtu < minMTU6 {
				want = 0 // RFC 8201, section 4
			}
			if c.router.Is4() && mtu > 0xffff {
				continue
			}
			e, ok := parseICMPError(c.tooBig(t, mtu, 100))
			require.Equal(t, want > 0, ok, "%s: %d", c.name, mtu)
			if ok {
				require.Equal(t, want, e.mtu, "%s: %d", c.name, mtu)
			}
		}
	}
}

// Anything that is not exactly as it must be is nothing.
func TestICMPStrict(t *testing.T) {
	for _, c := range icmpCases() {
		good := c.tooBig(t, 1300, 100)
		head := c.head()
		icmp, quote := tap.HeaderLen+head, tap.HeaderLen+head+icmpHead
		remake := func(q []byte, to netip.Addr) []byte {
			m := good[icmp:]
			return errorFrame(c.router, to, m[0], m[1], 1300, q)
		}
		q := good[quote:]
		edit := func(at int, v byte) []byte {
			x := bytes.Clone(q)
			x[at] = v
			return remake(x, c.wire.Src.Addr())
		}
		for i := range good {
			_, ok := parseICMPError(good[:i])
			require.False(t, ok, "%s: cut off at %d", c.name, i)
		}
		_, ok := parseICMPError(append(bytes.Clone(good), make([]byte, 20)...))
		require.True(t, ok, "padded")
		bad := map[string][]byte{
			"not to us":          remake(q, netip.MustParseAddr(map[bool]string{true: "10.1.0.7", false: "fd10::7"}[head == ipv4Head])),
			"cut quote":          remake(q[:head+7], c.wire.Src.Addr()),
			"another protocol":   edit(map[bool]int{true: 9, false: 6}[head == ipv4Head], 132),
			"another IP version": edit(0, 0x55),
		}
		for i := icmp + 2; i < len(good); i++ { // no byte of the message may be another
			x := bytes.Clone(good)
			x[i] ^= 0x10
			bad["checksum"] = x
			_, ok := parseICMPError(x)
			require.False(t, ok, "%s: byte %d", c.name, i)
		}
		if head == ipv4Head {
			bad["options in the quote"] = edit(0, 0x46)
			bad["a fragment in the quote"] = edit(6, 0x20)
			bad["may be fragmented"] = edit(6, 0)
			bad["shorter than its headers"] = edit(2, 0)
			for at, v := range map[int]byte{0: 0x46, 6: 0x20, 7: 1, 9: 6} {
				x := bytes.Clone(good)
				x[tap.HeaderLen+at] = v
				seg.PutIPv4Checksum(x[tap.HeaderLen : tap.HeaderLen+ipv4Head])
				_, ok := parseICMPError(x)
				require.False(t, ok, "outer header, byte %d", at)
			}
			x := bytes.Clone(good)
			x[tap.HeaderLen+8]++ // TTL
			bad["header checksum"] = x
		}
		for kind := range uint8(255) {
			want := kind == icmpUnreachable && head == ipv4Head || head == ipv6Head && (kind == icmp6Unreachable || kind == icmp6TooBig)
			_, ok := parseICMPError(errorFrame(c.router, c.wire.Src.Addr(), kind, map[bool]uint8{true: 1}[head == ipv4Head], 1300, q))
			if kind == icmp6Unreachable && head == ipv6Head {
				_, ok = parseICMPError(errorFrame(c.router, c.wire.Src.Addr(), kind, 0, 0, q))
			}
			require.Equal(t, want, ok, "%s: type %d", c.name, kind)
		}
		for name, f := range bad {
			_, ok := parseICMPError(f)
			require.False(t, ok, "%s: %s", c.name, name)
		}
	}
}
