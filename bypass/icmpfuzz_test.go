package bypass

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/seg"
	"github.com/viasnet/vias/tap"
)

// FuzzICMPError: whatever is taken, gopacket takes too, and reads the same; and what a
// guest would get of it is right.
func FuzzICMPError(f *testing.F) {
	for _, c := range icmpCases() {
		f.Add(c.tooBig(f, 1300, 100))
		f.Add(c.tooBig(f, 1300, c.head()+quotedL4))
		f.Add(c.unreachable(f, 1))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		e, ok := parseICMPError(mended(frame))
		if !ok {
			return
		}
		p := gopacket.NewPacket(mended(frame), layers.LayerTypeEthernet, gopacket.Default)
		require.Equal(t, e.from.AsSlice(), p.NetworkLayer().NetworkFlow().Src().Raw())
		require.Equal(t, e.wire.Src.Addr().AsSlice(), p.NetworkLayer().NetworkFlow().Dst().Raw())
		body := p.NetworkLayer().LayerPayload()[icmpHead:]
		first, v4 := layers.LayerTypeIPv6, e.from.Is4()
		if v4 {
			first = layers.LayerTypeIPv4
			require.Equal(t, uint8(icmpUnreachable), p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4).TypeCode.Type())
		} else {
			require.LessOrEqual(t, p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6).TypeCode.Type(), uint8(icmp6TooBig))
		}
		inner := gopacket.NewPacket(body, first, gopacket.Default)
		require.Equal(t, e.wire.Src.Addr().AsSlice(), inner.NetworkLayer().NetworkFlow().Src().Raw())
		require.Equal(t, e.wire.Dst.Addr().AsSlice(), inner.NetworkLayer().NetworkFlow().Dst().Raw())
		l4 := inner.NetworkLayer().LayerPayload()
		require.Equal(t, e.wire.Src.Port(), binary.BigEndian.Uint16(l4))
		require.Equal(t, e.wire.Dst.Port(), binary.BigEndian.Uint16(l4[2:]))
		c := icmpCases()[map[bool]int{true: 0, false: 1}[v4]]
		c.guest.Proto = e.wire.Proto
		mtu := e.mtu
		if mtu == 0 {
			mtu = int(e.code) << 16
		}
		requireGuestError(t, c, icmpMACs.local, icmpMACs.remote, e.translate(c.guest, icmpMACs.local, icmpMACs.remote), e.requote(c.guest), mtu)
	})
}

// mended is the frame with its checksums put right, where there are any: else hardly
// anything that is drawn by chance would be looked at.
func mended(frame []byte) []byte {
	f := bytes.Clone(frame)
	if len(f) < tap.HeaderLen+ipv6Head+icmpHead {
		return f
	}
	p := f[tap.HeaderLen:]
	if n := int(binary.BigEndian.Uint16(p[2:])); binary.BigEndian.Uint16(f[12:]) == etherIPv4 && n >= ipv4Head+icmpHead && n <= len(p) {
		seg.PutIPv4Checksum(p[:ipv4Head])
		m := p[ipv4Head:n]
		m[2], m[3] = 0, 0
		binary.BigEndian.PutUint16(m[2:], seg.Checksum(m, 0))
	}
	if n := int(binary.BigEndian.Uint16(p[4:])); binary.BigEndian.Uint16(f[12:]) == etherIPv6 && n >= icmpHead && n <= len(p)-ipv6Head {
		m := p[ipv6Head : ipv6Head+n]
		m[2], m[3] = 0, 0
		binary.BigEndian.PutUint16(m[2:], seg.Checksum(m, seg.PseudoHeader(p[8:24], p[24:40], protoICMP6, n)))
	}
	return f
}
