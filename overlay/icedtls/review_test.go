package icedtls

import (
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// dtlsCounter counts DTLS records that a socket sends.
func dtlsCounter(n *atomic.Int64) func([]byte, netip.AddrPort) bool {
	return func(d []byte, _ netip.AddrPort) bool {
		if d[0] == recordWithCID {
			n.Add(1)
		}
		return false
	}
}

// TestHellosEnd: two ends that are done do not answer each other's hellos for ever.
func TestHellosEnd(t *testing.T) {
	var sent atomic.Int64
	l, r := linkPair(t, func(c *Config) { c.drop = dtlsCounter(&sent) })
	sealed(t, l, r)
	l.data.sayHello(l.data.use.Load()) // as a late one does
	exchange(t, l, r, "under way")
	before := sent.Load()
	for range 50 {
		exchange(t, l, r, "there")
		exchange(t, r, l, "and back")
	}
	require.LessOrEqual(t, sent.Load()-before, int64(8))
}
