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

func TestClassify(t *testing.T) {
	flow := Flow{TCP, netip.MustParseAddrPort("10.0.0.1:1234"), netip.MustParseAddrPort("10.0.0.2:80")}
	with := func(f []byte, change func([]byte) []byte) []byte { return change(append([]byte(nil), f...)) }
	plain := segment(t, 100, nil)
	for name, c := range map[string]struct {
		frame []byte
		want  Packet
	}{
		"data":                    {plain, Packet{Flow: flow, Payload: 100}},
		"syn":                     {segment(t, 0, func(_ *layers.IPv4, tcp *layers.TCP) { tcp.SYN, tcp.ACK = true, false }), Packet{Flow: flow, SYN: true}},
		"syn-ack opens nothing":   {segment(t, 0, func(_ *layers.IPv4, tcp *layers.TCP) { tcp.SYN = true }), Packet{Flow: flow}},
		"rst":                     {segment(t, 0, func(_ *layers.IPv4, tcp *layers.TCP) { tcp.RST = true }), Packet{Flow: flow, FIN: true}},
		"padded short frame":      {append(segment(t, 0, nil), make([]byte, 6)...), Packet{Flow: flow}},
		"first fragment":          {segment(t, 8, func(ip *layers.IPv4, _ *layers.TCP) { ip.Flags = layers.IPv4MoreFragments }), Packet{Reason: ReasonFragment}},
		"later fragment":          {segment(t, 8, func(ip *layers.IPv4, _ *layers.TCP) { ip.FragOffset = 3 }), Packet{Reason: ReasonFragment}},
		"udp":                     {segment(t, 8, func(ip *layers.IPv4, _ *layers.TCP) { ip.Protocol = layers.IPProtocolUDP }), Packet{Reason: ReasonProtocol}},
		"multicast":               {segment(t, 8, func(ip *layers.IPv4, _ *layers.TCP) { ip.DstIP = net.IPv4(224, 0, 0, 1) }), Packet{Reason: ReasonProtocol}},
		"ip options":              {segment(t, 8, func(ip *layers.IPv4, _ *layers.TCP) { ip.Options = []layers.IPv4Option{{OptionType: 1}} }), Packet{Reason: ReasonMalformed}},
		"tagged":                  {with(plain, func(f []byte) []byte { binary.BigEndian.PutUint16(f[12:], etherQ); return f }), Packet{Reason: ReasonTagged}},
		"ipv6":                    {with(plain, func(f []byte) []byte { binary.BigEndian.PutUint16(f[12:], etherIPv6); return f }), Packet{Reason: ReasonProtocol}},
		"arp":                     {with(plain, func(f []byte) []byte { binary.BigEndian.PutUint16(f[12:], 0x0806); return f }), Packet{Reason: ReasonProtocol}},
		"length beyond the frame": {plain[:len(plain)-1], Packet{Reason: ReasonMalformed}},
		"tcp header cut":          {with(segment(t, 0, nil), func(f []byte) []byte { binary.BigEndian.PutUint16(f[16:], 30); return f[:14+30] }), Packet{Reason: ReasonMalformed}},
		"version 5":               {with(plain, func(f []byte) []byte { f[14] = 0x55; return f }), Packet{Reason: ReasonMalformed}},
		"data offset beyond":      {with(plain, func(f []byte) []byte { f[14+20+12] = 0xf0; return f[:14+20+20] }), Packet{Reason: ReasonMalformed}},
		"header only":             {plain[:14], Packet{Reason: ReasonMalformed}},
	} {
		t.Run(name, func(t *testing.T) {
			cl := NewClassifier()
			var p Packet
			cl.Classify(plain, &p) // leaves values behind that must not show
			cl.Classify(c.frame, &p)
			c.want.Src, c.want.Dst = macA, macB
			require.Equal(t, c.want, p)
		})
	}
	var p Packet
	NewClassifier().Classify([]byte{1, 2, 3}, &p)
	require.Equal(t, Packet{Reason: ReasonMalformed}, p)
}

func TestClassifyAllocatesNothing(t *testing.T) {
	c, f := NewClassifier(), segment(t, 1400, nil)
	var p Packet
	c.Classify(f, &p)
	require.Zero(t, testing.AllocsPerRun(1000, func() { c.Classify(f, &p) }))
}

// FuzzClassify: a flow that comes out stands in the frame where a switch reads it.
func FuzzClassify(f *testing.F) {
	f.Add(segment(f, 10, nil))
	f.Add(segment(f, 0, func(ip *layers.IPv4, _ *layers.TCP) { ip.FragOffset = 1 }))
	f.Fuzz(func(t *testing.T, frame []byte) {
		var p Packet
		NewClassifier().Classify(frame, &p)
		if p.Reason != ReasonNone {
			require.Equal(t, Flow{}, p.Flow)
			return
		}
		require.GreaterOrEqual(t, len(frame), 14+20+20)
		require.Equal(t, byte(0x45), frame[14])
		require.Equal(t, byte(6), frame[14+9])
		require.Equal(t, binary.BigEndian.Uint16(frame[34:]), p.Flow.Src.Port())
		require.Equal(t, binary.BigEndian.Uint16(frame[36:]), p.Flow.Dst.Port())
		require.Equal(t, [4]byte(frame[26:30]), p.Flow.Src.Addr().As4())
		require.Equal(t, [4]byte(frame[30:34]), p.Flow.Dst.Addr().As4())
		require.LessOrEqual(t, p.Payload, len(frame)-54)
	})
}

func BenchmarkClassify(b *testing.B) {
	c, f := NewClassifier(), segment(b, 1400, nil)
	var p Packet
	b.ReportAllocs()
	b.SetBytes(int64(len(f)))
	for b.Loop() {
		c.Classify(f, &p)
	}
}
