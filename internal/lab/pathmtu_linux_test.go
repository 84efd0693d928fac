package lab

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/internal/nodeapi"
)

// TestIntegrationPathMTU: the provider's network carries shorter packets from one moment to the
// next, and says nothing about it: a black hole. A TCP connection over the link goes on; and what
// the network carries again is found again.
func TestIntegrationPathMTU(t *testing.T) {
	beside(t)
	itest.RequireNFT(t)
	o := newOnOverlay(t, nil)
	const headers = 28 + 43 // IPv4 and UDP; a record
	full := o.link(1).MTU
	carries := func(longest int) {
		text := "add table bridge narrow\ndelete table bridge narrow\n"
		if longest > 0 {
			text += fmt.Sprintf("table bridge narrow { chain c { type filter hook forward priority 0; "+
				"ether type ip udp dport %d meta length > %d counter drop; }; }\n", overlayPort, longest)
		}
		_, err := o.in(t.Context(), o.hosts[0].Provider, "nft", text)
		require.NoError(t, err)
	}
	o.await(healBound+healBound, "the path takes all", func() bool {
		full = o.link(1).MTU
		return full == defaultUnderlayMTU-headers && o.link(2).MTU == full
	})
	for _, longest := range []int{1400, 1333} {
		o.heals(fmt.Sprintf("packets of %d bytes at most", longest), func() { carries(longest) }, func(l nodeapi.Link, _ int) bool {
			return l.MTU <= longest-headers && l.MTU > longest-headers-100 && l.Shrunk > 0
		})
	}
	o.heals("packets of any length", func() { carries(0) }, func(l nodeapi.Link, _ int) bool { return l.MTU == full })
	o.finish()
}
