package lab

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/nodecfg"
)

// Each connection goes the way of its trigger, every one is answered, and rules go when
// their flows are silent. What it takes is for the lab program to measure.
func TestIntegrationLatency(t *testing.T) {
	s := newSystem(t)
	const idle = 2 * time.Second
	// An allowance of twice as many SYNs is as many as can be under way (requestWorkers), each
	// sent again once, as on a busy machine, and less than are sent: connections that get
	// through must give theirs back.
	const openRate = requestWorkers
	require.NoError(t, s.startNodesAs(t.Context(), s.buildNode(), func(_ *Host, c *nodecfg.Config) {
		c.Policy.Rules = append(c.Policy.Rules, nodecfg.Rule{
			Port: TriggerSYN.port(), Action: nodecfg.Bypass, Idle: nodecfg.Duration(idle)})
		c.OpenRate = openRate
	}))
	const requests, short = 5, 200
	r, err := s.Latency(t.Context(), LatencyConfig{Rounds: 1, Requests: requests, Rate: 2 * short, Duration: 500 * time.Millisecond,
		Progress: func(line string) { t.Log(line) }})
	require.NoError(t, err)
	require.Empty(t, r.Fails)
	require.Len(t, r.First, 3)
	for _, f := range r.First {
		require.Equal(t, requests, f.Done, f.Trigger)
		require.Positive(t, f.P50Micros)
	}
	require.Equal(t, requests, r.First[2].SetUp, "a rule for each connection")
	require.Len(t, r.Short, int(triggersNumber))
	for _, c := range r.Short {
		require.Equal(t, short, c.Done, c.Trigger)
		require.Zero(t, c.Errors, c.Trigger)
		// Workloads' IPv6 says a word or two that is dropped.
		require.Less(t, c.Dropped, short/10, "%s: no node drops a connection that gets through", c.Trigger)
	}
	require.Positive(t, r.Ratio())
	require.Greater(t, r.Bound(), 3000.0)
	require.Eventually(t, func() bool {
		o, err := s.observe(t.Context(), TriggerSYN)
		return err == nil && o.rules == 0
	}, idle+20*time.Second, 100*time.Millisecond, "rules go after their idle time")
}

func TestRequestsCheck(t *testing.T) {
	good := map[Trigger]Requests{
		TriggerNative: {Done: 1},
		TriggerNever:  {Done: 1, TAPPackets: 10},
		TriggerLate:   {Done: 1, TAPPackets: 10},
		TriggerSYN:    {Done: 1, SetUp: 1, TAPPackets: 1},
	}
	for trigger, r := range good {
		r.Trigger = trigger
		require.Empty(t, r.check(), trigger)
		for name, bad := range map[string]func(*Requests){
			"failed": func(r *Requests) { r.Errors = 1 },
			"none":   func(r *Requests) { r.Done = 0 },
			"way":    func(r *Requests) { r.SetUp = 1 - min(r.SetUp, 1) },
		} {
			b := r
			bad(&b)
			require.NotEmpty(t, b.check(), "%s: %s", trigger, name)
		}
	}
	lost := good[TriggerNever]
	lost.Trigger, lost.TAPPackets = TriggerNever, 0
	require.NotEmpty(t, lost.check())
}

func TestSegmentsRepeated(t *testing.T) {
	n, err := segmentsRepeated("Ip: Forwarding DefaultTTL\nIp: 1 64\nTcp: RtoAlgorithm InSegs RetransSegs InErrs\nTcp: 1 900 21 0\n")
	require.NoError(t, err)
	require.Equal(t, uint64(21), n)
	for _, bad := range []string{"", "Tcp: InSegs RetransSegs\n", "Tcp: InSegs\nTcp: 1\n", "Tcp: RetransSegs\nTcp: x\n", "Tcp: InSegs RetransSegs\nTcp: 1\n"} {
		_, err := segmentsRepeated(bad)
		require.Error(t, err, bad)
	}
}
