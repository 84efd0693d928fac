package ofctl_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/ovstest"
	"github.com/viasnet/vias/ofctl"
)

// eventually is the next event of a Keeper's.
func eventually(t *testing.T, events <-chan ofctl.KeeperEvent) ofctl.KeeperEvent {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(20 * time.Second):
		require.FailNow(t, "no event")
		return ofctl.KeeperEvent{}
	}
}

// keeps has a Keeper keep 100 flows at a switch, until the test ends.
func keeps(t *testing.T, address string) <-chan ofctl.KeeperEvent {
	events := make(chan ofctl.KeeperEvent, 100)
	k := ofctl.NewKeeper(ofctl.KeeperConfig{Dial: ofctl.Dialer(address, ofctl.Config{}), Owner: keptOwner,
		Notify: func(e ofctl.KeeperEvent) { events <- e }})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	require.NoError(t, k.Want(ofctl.Wanted{Flows: keptFlows(100)}))
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	require.Equal(t, ofctl.KeeperEvent{Kind: ofctl.KeeperConnected, Changed: ofctl.Difference{Added: 100}}, eventually(t, events))
	return events
}

// TestIntegrationKeeperOnBoth: what somebody else deletes is back within a second, with one event.
func TestIntegrationKeeperOnBoth(t *testing.T) {
	onBoth(t, func(t *testing.T, p place) {
		events := keeps(t, p.address)
		foreign := p.dial(t)
		for _, gone := range []ofctl.Flow{keptFlows(100)[7], {Table: ofctl.TableAll, Match: ofctl.TCP4()}} {
			want := 100
			if gone.Table != ofctl.TableAll {
				want = 1
			}
			start := time.Now()
			require.NoError(t, foreign.Apply(t.Context(), []ofctl.Mod{ofctl.FlowMod{Command: ofctl.Delete,
				Flow: ofctl.Flow{Table: gone.Table, Match: gone.Match}}}))
			require.Equal(t, ofctl.KeeperEvent{Kind: ofctl.KeeperHealed, Changed: ofctl.Difference{Added: want}}, eventually(t, events))
			require.Less(t, time.Since(start), time.Second)
			flows, err := foreign.Flows(t.Context(), ofctl.Owned(keptOwner.Cookie, keptOwner.Mask))
			require.NoError(t, err)
			require.Len(t, flows, 100)
		}
		require.Empty(t, events, "more than one event each")
	})
}

// TestIntegrationKeeper: what somebody else deletes is back within a second, with one
// event; and after a restart of the switch all of it.
func TestIntegrationKeeper(t *testing.T) {
	s := ovstest.Start(t)
	address := s.Bridge("br0")
	events := keeps(t, address)
	for _, row := range []struct {
		match string
		want  int
	}{{"tcp,tp_src=0,tp_dst=0", 1}, {"tcp,tp_src=1,tp_dst=0", 1}, {"tcp", 100}} {
		s.MustOfctl("del-flows", "br0", row.match)
		start := time.Now()
		require.Equal(t, ofctl.KeeperEvent{Kind: ofctl.KeeperHealed, Changed: ofctl.Difference{Added: row.want}}, eventually(t, events))
		require.Less(t, time.Since(start), time.Second, row.match)
	}
	require.Len(t, s.DumpFlows("br0"), 100)
	require.NoError(t, s.RestartVswitchd(t.Context(), true))
	require.Equal(t, ofctl.KeeperLost, eventually(t, events).Kind)
	require.Equal(t, ofctl.KeeperEvent{Kind: ofctl.KeeperConnected, Changed: ofctl.Difference{Added: 100}}, eventually(t, events))
	require.Len(t, s.DumpFlows("br0"), 100)
	require.Empty(t, events, "one event each")
}
