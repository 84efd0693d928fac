package control

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/l2"
	"github.com/viasnet/vias/tap"
)

func TestAnnouncement(t *testing.T) {
	want := l2.Announcement{Version: 7, Base: 6, Remove: []tap.MAC{{2, 1}}, Add: []l2.Endpoint{
		{MAC: tap.MAC{2, 2}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}, Name: "c1", Tag: "web"},
		{MAC: tap.MAC{2, 3}},
	}}
	b, err := EncodeAnnouncement(want)
	require.NoError(t, err)
	got, err := DecodeAnnouncement(b)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// A chunk of the largest endpoints must fit one message.
func TestChunkFits(t *testing.T) {
	long := strings.Repeat("x", l2.MaxText)
	var a l2.Announcement
	for i := range AnnounceChunk {
		e := l2.Endpoint{MAC: tap.MAC{2, byte(i)}, Name: long, Tag: long}
		for k := range l2.MaxIPs {
			e.IPs = append(e.IPs, netip.AddrFrom16([16]byte{0xfd, byte(i), byte(k)}))
		}
		a.Add = append(a.Add, e)
		a.Remove = append(a.Remove, e.MAC)
	}
	b, err := EncodeAnnouncement(a)
	require.NoError(t, err)
	require.Less(t, len(b), MaxMessage)
	a = l2.Announcement{Remove: make([]tap.MAC, l2.MaxAnnounced)}
	b, err = EncodeAnnouncement(a)
	require.NoError(t, err)
	require.Less(t, len(b), MaxMessage)
	_, err = DecodeAnnouncement(b)
	require.NoError(t, err)
}

func TestDecodeRejects(t *testing.T) {
	for name, b := range map[string]string{
		"empty":             "",
		"trailing":          "\xa0\x00",
		"duplicate key":     "\xa2\x01\x01\x01\x02",
		"indefinite length": "\xbf\x01\x01\xff",
		"tag":               "\xc1\xa0",
		"huge array":        "\xa1\x03\x9b\x7f\xff\xff\xff\xff\xff\xff\xff",
		"short MAC":         "\xa1\x03\x81\xa1\x01\x42\x02\x02",
		"bad IP":            "\xa1\x03\x81\xa2\x01\x46\x02\x02\x02\x02\x02\x02\x02\x81\x41\x01",
		"bad removal":       "\xa1\x04\x81\x41\x01",
		"bad UTF-8":         "\xa1\x03\x81\xa2\x01\x46\x02\x02\x02\x02\x02\x02\x03\x61\xff",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := DecodeAnnouncement([]byte(b))
			require.ErrorIs(t, err, ErrProtocol)
		})
	}
}

func FuzzDecodeAnnouncement(f *testing.F) {
	b, _ := EncodeAnnouncement(l2.Announcement{Version: 1, Add: []l2.Endpoint{{MAC: tap.MAC{2}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Name: "n", Tag: "t"}}, Remove: []tap.MAC{{4}}})
	f.Add(b)
	f.Add([]byte("\xa0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := DecodeAnnouncement(b)
		if err != nil {
			return
		}
		again, err := EncodeAnnouncement(a)
		require.NoError(t, err)
		back, err := DecodeAnnouncement(again)
		require.NoError(t, err)
		require.Equal(t, a, back)
	})
}

func FuzzDecodeHello(f *testing.F) {
	b, _ := encodeHello(Hello{Version: 1, Network: "n", MTU: 1500, Capabilities: []string{"c"}})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := DecodeHello(b); err == nil {
			require.LessOrEqual(t, len(h.Network), len(b))
		}
	})
}
