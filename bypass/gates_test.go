package bypass

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNoProofNoWayOut: without a fresh proof nothing goes out, and what the peer may
// still send comes in; one change says so for all flows.
func TestNoProofNoWayOut(t *testing.T) {
	l, _, p := bareLoop(t)
	p.live[TCP], p.live[UDP] = 5000, 1
	for phase := proofNone; phase <= proofFailed; phase++ {
		p.proof.phase = phase
		leases := l.leases(p)
		require.Len(t, leases, 2)
		for _, e := range leases {
			require.Equal(t, l.cfg.Lease, e.Inbound, "%v", phase)
			require.Equal(t, phase == proofFresh, e.Outbound > 0, "%v", phase)
			require.Less(t, e.Outbound, e.Inbound/2)
		}
	}
}
