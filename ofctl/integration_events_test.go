package ofctl_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/ovstest"
	"github.com/viasnet/vias/ofctl"
)

// await returns the first event of a type that ok accepts.
func await[T ofctl.Event](tb testing.TB, events <-chan ofctl.Event, ok func(T) bool) T {
	tb.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case e := <-events:
			if e, is := e.(T); is && ok(e) {
				return e
			}
		case <-timeout:
			var none T
			require.FailNow(tb, "no such event", "%T", none)
			return none
		}
	}
}

// watch starts a watcher and returns once it sees events.
func watch(tb testing.TB, c *ofctl.Conn) (<-chan ofctl.Event, <-chan error) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	tb.Cleanup(cancel)
	events, end := make(chan ofctl.Event, 1000), make(chan error, 1)
	go func() { end <- c.Watch(ctx, func(e ofctl.Event) { events <- e }) }()
	// Watch registers some time after its goroutine starts: provoke until seen.
	require.Eventually(tb, func() bool {
		require.NoError(tb, c.PacketOut(tb.Context(), ofctl.PacketOut{Frame: make([]byte, 60),
			Actions: []ofctl.Action{ofctl.ToController(0xffff)}}))
		select {
		case <-events:
			return true
		case <-time.After(20 * time.Millisecond):
			return false
		}
	}, 10*time.Second, time.Millisecond)
	return events, end
}

func TestIntegrationEvents(t *testing.T) {
	s, c := dial(t)
	ctx := t.Context()
	events, end := watch(t, c)

	s.Port("br0", "w0", "w1")
	added := await(t, events, func(e ofctl.PortStatus) bool { return e.Port.Name == "w0" && e.Reason == ofctl.PortAdded })
	ports, err := c.Ports(ctx)
	require.NoError(t, err)
	names := map[string]uint32{}
	for _, p := range ports {
		names[p.Name] = p.No
	}
	require.Equal(t, map[string]uint32{"br0": ofctl.PortLocal, "w0": added.Port.No}, names)

	flow := ofctl.Flow{Table: 0, Priority: 7, Cookie: 0xabc, SendFlowRemoved: true, Match: ofctl.IP4(ofctl.InPort(added.Port.No)),
		Apply: []ofctl.Action{ofctl.DecTTL{}, ofctl.ToController(0xffff)}}
	require.NoError(t, c.Apply(ctx, []ofctl.Mod{ofctl.FlowMod{Flow: flow}}))
	frame := ipv4Frame(64)
	out := ofctl.PacketOut{InPort: added.Port.No, Frame: frame, Actions: []ofctl.Action{ofctl.Output{Port: ofctl.PortTable}}}
	require.NoError(t, c.PacketOut(ctx, out))
	in := await(t, events, func(e ofctl.PacketIn) bool { return e.Cookie == 0xabc })
	require.Equal(t, added.Port.No, in.InPort)
	require.EqualValues(t, 1, in.Reason)
	require.Equal(t, len(frame), in.TotalLen)
	require.EqualValues(t, 63, in.Frame[22], "TTL decremented")
	out.Frame = ipv4Frame(1)
	require.NoError(t, c.PacketOut(ctx, out))
	in = await(t, events, func(e ofctl.PacketIn) bool { return e.Reason == 2 })
	require.EqualValues(t, 1, in.Frame[22], "a packet whose TTL runs out comes as it was")

	// Adding it again replaces time-outs and instructions; its counters go on.
	require.Eventually(t, func() bool { return packets(t, c) == 2 }, 5*time.Second, 20*time.Millisecond)
	flow.IdleTimeout, flow.Apply = 1, nil
	require.NoError(t, c.Apply(ctx, []ofctl.Mod{ofctl.FlowMod{Flow: flow}}))
	require.EqualValues(t, 2, packets(t, c))
	removed := await(t, events, func(ofctl.FlowRemoved) bool { return true })
	require.Equal(t, ofctl.RemovedIdle, removed.Reason)
	require.EqualValues(t, 2, removed.Packets)
	flow.Apply = nil
	require.Equal(t, flow.String(), removed.Flow.String())

	require.NoError(t, c.PacketOut(ctx, ofctl.PacketOut{Frame: frame, Actions: []ofctl.Action{ofctl.ToGroup{ID: 99}}}))
	refused := await(t, events, func(ofctl.Refused) bool { return true })
	require.ErrorContains(t, refused.Err, "OFPBAC_BAD_OUT_GROUP")

	s.MustVsctl("del-port", "br0", "w0")
	await(t, events, func(e ofctl.PortStatus) bool { return e.Reason == ofctl.PortDeleted && e.Port.No == added.Port.No })

	require.NoError(t, s.RestartVswitchd(ctx, true))
	select {
	case err := <-end:
		require.ErrorIs(t, err, ofctl.ErrClosed)
	case <-time.After(5 * time.Second):
		require.FailNow(t, "the switch died and nobody noticed")
	}
	_, err = c.Flows(ctx, ofctl.AllFlows)
	require.ErrorIs(t, err, ofctl.ErrClosed)
}

// packets is the counter of the one flow that there is.
func packets(tb testing.TB, c *ofctl.Conn) uint64 {
	tb.Helper()
	flows, err := c.Flows(tb.Context(), ofctl.AllFlows)
	require.NoError(tb, err)
	require.Len(tb, flows, 1)
	return flows[0].Packets
}

func ipv4Frame(ttl byte) []byte {
	frame := append(make([]byte, 12), 8, 0)
	header := []byte{0x45, 0, 0, 46, 0, 0, 0, 0, ttl, 253, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(header[i])<<8 | uint32(header[i+1])
	}
	sum = ^(sum&0xffff + sum>>16)
	header[10], header[11] = byte(sum>>8), byte(sum)
	return append(append(frame, header...), make([]byte, 26)...)
}

// Modify keeps cookie, time-outs and flags, and renews the hard time-out.
func TestIntegrationModifyRenewsLease(t *testing.T) {
	_, c := dial(t)
	events, _ := watch(t, c)
	lease := ofctl.Flow{Priority: 300, Cookie: 5, HardTimeout: 2, SendFlowRemoved: true, Match: ofctl.IP4(), Goto: 10}
	start := time.Now()
	require.NoError(t, c.Apply(t.Context(), []ofctl.Mod{ofctl.FlowMod{Flow: lease}}))
	require.Eventually(t, func() bool {
		flows, err := c.Flows(t.Context(), ofctl.AllFlows)
		require.NoError(t, err)
		require.Len(t, flows, 1)
		return flows[0].AgeSeconds >= 1
	}, 5*time.Second, 50*time.Millisecond)
	renewed := lease
	renewed.HardTimeout, renewed.Cookie, renewed.SendFlowRemoved = 100, 6, false
	require.NoError(t, c.Apply(t.Context(), []ofctl.Mod{ofctl.FlowMod{Command: ofctl.ModifyStrict, Flow: renewed}}))
	flows, err := c.Flows(t.Context(), ofctl.AllFlows)
	require.NoError(t, err)
	require.Equal(t, lease.String(), flows[0].Flow.String())
	gone := await(t, events, func(ofctl.FlowRemoved) bool { return true })
	require.Equal(t, ofctl.RemovedHard, gone.Reason)
	require.GreaterOrEqual(t, time.Since(start).Seconds(), 2.9)
}

// A peer that speaks something else is refused in time.
func TestIntegrationDialOtherServer(t *testing.T) {
	s := ovstest.Start(t)
	s.Bridge("br0")
	c, err := ofctl.Dial(t.Context(), s.Mgmt("br0"), ofctl.Config{})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	_, err = ofctl.Dial(t.Context(), "unix:"+s.Dir()+"/db.sock", ofctl.Config{HandshakeTimeout: time.Second})
	require.Error(t, err, "a database is no switch")
}
