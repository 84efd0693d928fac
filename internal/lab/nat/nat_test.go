package nat

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRouter(t *testing.T) {
	outer := netip.MustParseAddr("198.51.100.7")
	for _, r := range []Router{
		{}, {Outer: netip.MustParseAddr("2001:db8::1")},
		{Outer: outer, Mapping: AddressDependent, Filtering: AddressAndPortDependent},
		{Outer: outer, Mapping: AddressAndPortDependent},
		{Outer: outer, Mapping: 9}, {Outer: outer, Filtering: 9}, {Outer: outer, Egress: 9},
		{Outer: outer, Filtering: AddressDependent, Hairpin: true},
	} {
		_, err := r.Rules()
		require.ErrorIs(t, err, ErrRouter, "%+v", r)
	}
	text, err := Router{Outer: outer, Mapping: AddressAndPortDependent, Filtering: AddressAndPortDependent}.Rules()
	require.NoError(t, err)
	require.Contains(t, text, "masquerade fully-random")
	require.NotContains(t, text, "dnat ip")
	text, err = Router{Outer: outer, Hairpin: true}.Rules()
	require.NoError(t, err)
	require.Contains(t, text, "ip daddr 198.51.100.7 meta l4proto udp dnat")
	require.NotContains(t, text, "fully-random")
	require.Equal(t, "address- and port-dependent", AddressAndPortDependent.String())
}
