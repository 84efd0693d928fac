package bypass

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/tap"
)

var (
	macA = tap.MAC{2, 0, 0, 0, 0, 1}
	macB = tap.MAC{2, 0, 0, 0, 0, 2}
)

// segment is a TCP/IPv4 frame from A to B with n bytes of payload.
func segment(tb testing.TB, n int, change func(*layers.IPv4, *layers.TCP)) []byte {
	tb.Helper()
	eth := &layers.Ethernet{SrcMAC: net.HardwareAddr(macA[:]), DstMAC: net.HardwareAddr(macB[:]), EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: net.IPv4(10, 0, 0, 1), DstIP: net.IPv4(10, 0, 0, 2)}
	tcp := &layers.TCP{SrcPort: 1234, DstPort: 80, ACK: true, Window: 1000}
	if change != nil {
		change(ip, tcp)
	}
	require.NoError(tb, tcp.SetNetworkLayerForChecksum(ip))
	b := gopacket.NewSerializeBuffer()
	require.NoError(tb, gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		eth, ip, tcp, gopacket.Payload(make([]byte, n))))
	return b.Bytes()
}

// datagram is a UDP/IPv4 frame from A to B with n bytes of payload.
func datagram(tb testing.TB, n int) []byte {
	tb.Helper()
	f := segment(tb, n, func(ip *layers.IPv4, _ *layers.TCP) { ip.Protocol = layers.IPProtocolUDP })
	binary.BigEndian.PutUint16(f[16:], uint16(lenIPv4+lenUDP+n))
	binary.BigEndian.PutUint16(f[14+lenIPv4+4:], uint16(lenUDP+n))
	f = append(f[:14+lenIPv4+lenUDP], make([]byte, n)...)
	return f
}

// six is an IPv4 frame's packet in IPv6, between fd00::1 and fd00::2.
func six(f []byte) []byte {
	f = f[:14+int(binary.BigEndian.Uint16(f[16:]))] // without padding
	out := append(append([]byte(nil), f[:12]...), 0x86, 0xdd, 0x60, 0, 0, 0)
	out = binary.BigEndian.AppendUint16(out, uint16(len(f)-14-lenIPv4))
	out = append(out, f[14+9], 64)
	for _, a := range []string{"fd00::1", "fd00::2"} {
		out = append(out, netip.MustParseAddr(a).AsSlice()...)
	}
	return append(out, f[14+lenIPv4:]...)
}

var (
	flow4 = Flow{TCP, netip.MustParseAddrPort("10.0.0.1:1234"), netip.MustParseAddrPort("10.0.0.2:80")}
	flow6 = Flow{TCP, netip.MustParseAddrPort("[fd00::1]:1234"), netip.MustParseAddrPort("[fd00::2]:80")}
)

func over(p Proto, f Flow) Flow { f.Proto = p; return f }

func with(f []byte, change func([]byte) []byte) []byte { return change(append([]byte(nil), f...)) }

// classified are a frame and what is to be read from it.
type classified struct {
	frame []byte
	want  Packet
}

// bad are plain's copies with one change each, and why they stay on the overlay.
func bad(plain []byte, why Reason, changes map[string]func([]byte) []byte) map[string]classified {
	out := make(map[string]classified)
	for name, change := range changes {
		out[name] = classified{with(plain, change), Packet{Reason: why}}
	}
	return out
}

// at sets one byte, or both of a number.
func at(i int, b byte) func([]byte) []byte { return func(f []byte) []byte { f[i] = b; return f } }
func at16(i int, n uint16) func([]byte) []byte {
	return func(f []byte) []byte { binary.BigEndian.PutUint16(f[i:], n); return f }
}
func address(i int, a string) func([]byte) []byte {
	return func(f []byte) []byte { copy(f[i:], netip.MustParseAddr(a).AsSlice()); return f }
}

func classifyCases(t *testing.T) []map[string]classified {
	plain, udp := segment(t, 100, nil), datagram(t, 100)
	tcp6, udp6 := six(plain), six(udp)
	syn := segment(t, 0, func(_ *layers.IPv4, tcp *layers.TCP) { tcp.SYN, tcp.ACK = true, false })
	return []map[string]classified{{
		"data":                      {plain, Packet{Flow: flow4, Payload: 100}},
		"syn":                       {syn, Packet{Flow: flow4, SYN: true}},
		"syn-ack opens nothing":     {segment(t, 0, func(_ *layers.IPv4, tcp *layers.TCP) { tcp.SYN = true }), Packet{Flow: flow4, SYNACK: true}},
		"rst":                       {segment(t, 0, func(_ *layers.IPv4, tcp *layers.TCP) { tcp.RST = true }), Packet{Flow: flow4, FIN: true}},
		"padded short frame":        {append(segment(t, 0, nil), make([]byte, 6)...), Packet{Flow: flow4}},
		"ip options":                {segment(t, 8, func(ip *layers.IPv4, _ *layers.TCP) { ip.Options = []layers.IPv4Option{{OptionType: 1}} }), Packet{Reason: ReasonMalformed}},
		"tcp header cut":            {with(segment(t, 0, nil), func(f []byte) []byte { return at16(16, 30)(f)[:14+30] }), Packet{Reason: ReasonMalformed}},
		"udp":                       {udp, Packet{Flow: over(UDP, flow4), Payload: 100}},
		"udp without payload":       {datagram(t, 0), Packet{Flow: over(UDP, flow4)}},
		"udp, padded":               {append(datagram(t, 3), make([]byte, 15)...), Packet{Flow: over(UDP, flow4), Payload: 3}},
		"tcp over IPv6":             {tcp6, Packet{Flow: flow6, Payload: 100}},
		"syn over IPv6":             {six(syn), Packet{Flow: flow6, SYN: true}},
		"udp over IPv6":             {udp6, Packet{Flow: over(UDP, flow6), Payload: 100}},
		"udp over IPv6, padded":     {append(six(datagram(t, 0)), make([]byte, 6)...), Packet{Flow: over(UDP, flow6)}},
		"traffic class, flow label": {with(tcp6, func(f []byte) []byte { return at(15, 0xff)(at(14, 0x6b)(f)) }), Packet{Flow: flow6, Payload: 100}},
	}, bad(plain, ReasonMalformed, map[string]func([]byte) []byte{
		"length beyond the frame": func(f []byte) []byte { return f[:len(f)-1] },
		"length 0":                at16(16, 0),
		"version 5":               at(14, 0x55),
		"data offset beyond":      func(f []byte) []byte { return at(14+20+12, 0xf0)(f)[:14+20+20] },
		"header only":             func(f []byte) []byte { return f[:14] },
		"IPv4 that says IPv6":     at16(12, etherIPv6),
	}), bad(plain, ReasonProtocol, map[string]func([]byte) []byte{
		"arp":            at16(12, 0x0806),
		"icmp":           at(14+9, 1),
		"sctp":           at(14+9, 132),
		"to multicast":   address(30, "224.0.0.1"),
		"to broadcast":   address(30, "255.255.255.255"),
		"to loopback":    address(30, "127.0.0.1"),
		"to nobody":      address(30, "0.0.0.0"),
		"from nobody":    address(26, "0.0.0.0"),
		"from multicast": address(26, "224.0.0.1"),
	}), bad(plain, ReasonFragment, map[string]func([]byte) []byte{
		"first fragment": at(20, 0x20), "later fragment": at(21, 3),
	}), bad(plain, ReasonTagged, map[string]func([]byte) []byte{
		"tagged": at16(12, etherQ), "tagged by the provider": at16(12, etherAD),
	}), bad(udp, ReasonMalformed, map[string]func([]byte) []byte{
		"udp length 0":            at16(14+20+4, 0),
		"udp length of no header": at16(14+20+4, 7),
		"udp length short":        at16(14+20+4, 107),
		"udp length long":         at16(14+20+4, 109),
		"udp header cut":          func(f []byte) []byte { return at16(16, 27)(f)[:14+27] },
	}), bad(udp, ReasonFragment, map[string]func([]byte) []byte{
		"first fragment of udp": at(20, 0x20), "later fragment of udp": at(21, 3),
	}), bad(udp6, ReasonMalformed, map[string]func([]byte) []byte{
		"IPv6 udp length 0":     at16(14+40+4, 0),
		"IPv6 udp length short": at16(14+40+4, 107),
		"IPv6 udp length long":  at16(14+40+4, 109),
		"IPv6 hop-by-hop":       at(20, nextHopByHop),
		"IPv6 routing":          at(20, nextRouting),
		"IPv6 options":          at(20, nextOptions),
		"IPv6 AH":               at(20, nextAH),
		"IPv6 ESP":              at(20, nextESP),
		"IPv6 length 0":         at16(18, 0),
		"IPv6 length beyond":    at16(18, 109),
		"IPv6 version 4":        at(14, 0x40),
		"IPv6 header cut":       func(f []byte) []byte { return f[:14+39] },
		"IPv6 that says IPv4":   at16(12, etherIPv4),
	}), bad(tcp6, ReasonMalformed, map[string]func([]byte) []byte{
		"IPv6 tcp header cut":         at16(18, 19),
		"IPv6 tcp data offset short":  at(14+40+12, 0x40),
		"IPv6 tcp data offset beyond": func(f []byte) []byte { return at16(18, 20)(at(14+40+12, 0x60)(f)) },
	}), bad(udp6, ReasonFragment, map[string]func([]byte) []byte{"IPv6 fragment": at(20, nextFragment)}),
		bad(udp6, ReasonProtocol, map[string]func([]byte) []byte{
			"IPv6 icmp, neighbour discovery": at(20, 58),
			"IPv6 no next header":            at(20, 59),
			"IPv6 to multicast":              address(38, "ff02::1"),
			"IPv6 from multicast":            address(22, "ff02::1"),
			"IPv6 to link-local":             address(38, "fe80::1"),
			"IPv6 from link-local":           address(22, "febf::1"),
			"IPv6 to nobody":                 address(38, "::"),
			"IPv6 from nobody":               address(22, "::"),
			"IPv6 to loopback":               address(38, "::1"),
			"IPv4 in IPv6":                   address(38, "::ffff:10.0.0.1"),
		})}
}

func TestClassify(t *testing.T) {
	plain := segment(t, 100, nil)
	for _, cases := range classifyCases(t) {
		for name, c := range cases {
			t.Run(name, func(t *testing.T) {
				cl := NewClassifier()
				var p Packet
				cl.Classify(plain, &p) // leaves values behind that must not show
				cl.Classify(c.frame, &p)
				c.want.Src, c.want.Dst = macA, macB
				require.Equal(t, c.want, p)
			})
		}
	}
	var p Packet
	NewClassifier().Classify([]byte{1, 2, 3}, &p)
	require.Equal(t, Packet{Reason: ReasonMalformed}, p)
}

// eachKind are full-sized frames of all kinds that can be bypassed.
func eachKind(tb testing.TB) map[string][]byte {
	tcp, udp := segment(tb, 1400, nil), datagram(tb, 1400)
	return map[string][]byte{"tcp4": tcp, "udp4": udp, "tcp6": six(tcp), "udp6": six(udp)}
}

func TestClassifyAllocatesNothing(t *testing.T) {
	frames := eachKind(t)
	frames["hop-by-hop"] = with(frames["udp6"], at(20, nextHopByHop))
	c := NewClassifier()
	for name, f := range frames {
		var p Packet
		c.Classify(f, &p)
		require.Zero(t, testing.AllocsPerRun(1000, func() { c.Classify(f, &p) }), name)
	}
}

// FuzzClassify: a flow that comes out stands in the frame where a switch reads it.
func FuzzClassify(f *testing.F) {
	for _, frame := range eachKind(f) {
		f.Add(frame[:14+60])
		f.Add(frame)
	}
	f.Add(segment(f, 0, func(ip *layers.IPv4, _ *layers.TCP) { ip.FragOffset = 1 }))
	f.Add(with(six(datagram(f, 8)), at(20, nextHopByHop)))
	f.Fuzz(func(t *testing.T, frame []byte) {
		var p Packet
		NewClassifier().Classify(frame, &p)
		if p.Reason != ReasonNone {
			require.Equal(t, Flow{}, p.Flow)
			return
		}
		proto, l4, size := 14+9, 14+lenIPv4, 0
		if FamilyOf(p.Flow.Src.Addr()) == IPv6 {
			proto, l4 = 14+6, 14+lenIPv6
			size = int(binary.BigEndian.Uint16(frame[18:]))
			require.Equal(t, byte(6), frame[14]>>4)
			require.Equal(t, uint16(etherIPv6), binary.BigEndian.Uint16(frame[12:]))
		} else {
			size = int(binary.BigEndian.Uint16(frame[16:])) - lenIPv4
			require.Equal(t, byte(0x45), frame[14])
			require.Equal(t, uint16(etherIPv4), binary.BigEndian.Uint16(frame[12:]))
			require.Zero(t, binary.BigEndian.Uint16(frame[20:])&0x3fff, "a fragment")
		}
		require.LessOrEqual(t, l4+size, len(frame))
		require.Equal(t, byte(p.Flow.Proto), frame[proto])
		require.Equal(t, binary.BigEndian.Uint16(frame[l4:]), p.Flow.Src.Port())
		require.Equal(t, binary.BigEndian.Uint16(frame[l4+2:]), p.Flow.Dst.Port())
		n := p.Flow.Src.Addr().BitLen() / 8
		require.Equal(t, frame[l4-2*n:l4-n], p.Flow.Src.Addr().AsSlice())
		require.Equal(t, frame[l4-n:l4], p.Flow.Dst.Addr().AsSlice())
		if p.Flow.Proto == UDP {
			require.Equal(t, size-lenUDP, p.Payload)
		} else {
			require.Equal(t, size-4*int(frame[l4+12]>>4), p.Payload)
		}
	})
}

func BenchmarkClassify(b *testing.B) {
	for _, name := range []string{"tcp4", "udp4", "tcp6", "udp6"} {
		b.Run(name, func(b *testing.B) {
			c, f := NewClassifier(), eachKind(b)[name]
			var p Packet
			b.ReportAllocs()
			b.SetBytes(int64(len(f)))
			for b.Loop() {
				c.Classify(f, &p)
			}
		})
	}
}
