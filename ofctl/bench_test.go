package ofctl

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// outbound is a flow as vias installs thousands of.
func outbound(i int) Flow {
	return Flow{Table: 20, Priority: 100, Cookie: uint64(i), IdleTimeout: 60, SendFlowRemoved: true,
		Match: TCP4(InPort(3), IPv4Src(Host(netip.AddrFrom4([4]byte{10, 0, 0, 1}))), IPv4Dst(Host(netip.AddrFrom4([4]byte{10, 0, 0, 2}))),
			TCPSrc(uint16(i)), TCPDst(80)),
		Apply: []Action{SetField{IPv4Src(Host(netip.AddrFrom4([4]byte{192, 0, 2, 1})))}, SetField{IPv4Dst(Host(netip.AddrFrom4([4]byte{192, 0, 2, 2})))},
			SetField{TCPSrc(61441)}, SetField{TCPDst(61442)}, ToGroup{ID: 1}}}
}

func BenchmarkEncodeFlowMod(b *testing.B) {
	var m Message = FlowMod{Flow: outbound(1)}
	buf, err := Encode(nil, 1, m)
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if buf, err = Encode(buf[:0], 1, m); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeFlowMod(b *testing.B) {
	buf, err := Encode(nil, 1, FlowMod{Flow: outbound(1)})
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Decode(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func packetIn(tb testing.TB) []byte {
	tb.Helper()
	buf, err := Encode(nil, 1, PacketIn{InPort: 3, TotalLen: 64, Frame: make([]byte, 64)})
	require.NoError(tb, err)
	return buf
}

func BenchmarkDecodePacketIn(b *testing.B) {
	buf := packetIn(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Decode(buf); err != nil {
			b.Fatal(err)
		}
	}
}

// A packet-in costs the one allocation of its value; its frame stays in the message.
func TestPacketInAllocates(t *testing.T) {
	buf := packetIn(t)
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() { _, _, _ = Decode(buf) }), 1.0)
}

func BenchmarkFlowString(b *testing.B) {
	f := outbound(1)
	b.ReportAllocs()
	for b.Loop() {
		_ = f.String()
	}
}
