package tap_test

import (
	"encoding/json"
	"errors"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/tap"
)

func TestMACText(t *testing.T) {
	for in, want := range map[string]string{
		"02:00:5e:10:00:ff": "02:00:5e:10:00:ff",
		"AA-BB-CC-DD-EE-0F": "aa:bb:cc:dd:ee:0f",
		"0000.5e00.5301":    "00:00:5e:00:53:01",
		"ff:ff:ff:ff:ff:ff": tap.Broadcast.String(),
	} {
		m, err := tap.ParseMAC(in)
		require.NoError(t, err)
		require.Equal(t, want, m.String())
	}
	for _, bad := range []string{"", "02", "02:00:5e:10:00", "02:00:5e:10:00:ff:00:00", "02:00:5e:10:00:fg", " 02:00:5e:10:00:ff"} {
		_, err := tap.ParseMAC(bad)
		require.ErrorContains(t, err, "not a MAC address", bad)
	}
}

func TestMACJSON(t *testing.T) {
	type holder struct {
		MAC tap.MAC
		Of  map[tap.MAC]int
	}
	in := holder{tap.MAC{2, 0, 0, 0, 0, 1}, map[tap.MAC]int{{2, 0, 0, 0, 0, 2}: 7}}
	text, err := json.Marshal(in)
	require.NoError(t, err)
	require.JSONEq(t, `{"MAC":"02:00:00:00:00:01","Of":{"02:00:00:00:00:02":7}}`, string(text))
	var out holder
	require.NoError(t, json.Unmarshal(text, &out))
	require.Equal(t, in, out)

	m := in.MAC
	require.Error(t, m.UnmarshalText([]byte("nonsense")))
	require.Equal(t, in.MAC, m, "left alone")
}

func TestMACKinds(t *testing.T) {
	require.True(t, tap.MAC{}.IsZero())
	require.False(t, tap.Broadcast.IsZero())
	require.True(t, tap.Broadcast.IsMulticast())
	require.True(t, tap.MAC{0x33, 0x33}.IsMulticast())
	require.False(t, tap.MAC{2}.IsMulticast())
}

func FuzzParseMAC(f *testing.F) {
	for _, s := range []string{"02:00:5e:10:00:ff", "AA-BB-CC-DD-EE-0F", "0000.5e00.5301", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := tap.ParseMAC(s)
		if err != nil {
			require.Zero(t, m)
			return
		}
		again, err := tap.ParseMAC(m.String())
		require.NoError(t, err)
		require.Equal(t, m, again)
	})
}

func TestErrors(t *testing.T) {
	require.ErrorIs(t, tap.ErrClosed, net.ErrClosed)
	require.ErrorIs(t, tap.ErrNotSupported, errors.ErrUnsupported)
}
