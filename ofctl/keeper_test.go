package ofctl_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/ofctl/ofctltest"
)

var keptOwner = ofctl.Owner{Cookie: 0x1200, Mask: 0xff00}

// keptFlows are n flows of the owner's; every second one tells when it goes.
func keptFlows(n int) []ofctl.Flow {
	flows := make([]ofctl.Flow, n)
	for i := range flows {
		flows[i] = ofctl.Flow{Priority: 7, Cookie: 0x1200, SendFlowRemoved: i%2 == 1,
			Match: ofctl.TCP4(ofctl.TCPSrc(uint16(i)), ofctl.TCPDst(uint16(i>>16))), Apply: []ofctl.Action{ofctl.Normal()}}
	}
	return flows
}

// kept runs a Keeper over a switch in memory, in a bubble.
func kept(t *testing.T, sw *ofctltest.Switch, cfg ofctl.KeeperConfig) (*ofctl.Keeper, <-chan ofctl.KeeperEvent) {
	t.Helper()
	events := make(chan ofctl.KeeperEvent, 100)
	cfg.Owner, cfg.Notify = keptOwner, func(e ofctl.KeeperEvent) { events <- e }
	if cfg.Dial == nil {
		cfg.Dial = func(context.Context) (ofctl.Switch, error) { return sw.Connect(), nil }
	}
	k := ofctl.NewKeeper(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done); require.NoError(t, sw.Close()) })
	return k, events
}

func TestKeeperHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := ofctltest.New(ofctltest.Config{})
		theirs := ofctl.FlowMod{Flow: ofctl.Flow{Cookie: 9, Apply: []ofctl.Action{ofctl.Normal()}}}
		require.NoError(t, sw.Apply(t.Context(), []ofctl.Mod{theirs}))
		k, events := kept(t, sw, ofctl.KeeperConfig{})
		require.Equal(t, ofctl.KeeperEvent{Kind: ofctl.KeeperConnected}, <-events, "nothing is wanted yet")
		require.NoError(t, k.Want(ofctl.Wanted{Flows: keptFlows(10)}))
		require.Equal(t, ofctl.KeeperEvent{Kind: ofctl.KeeperChanged, Changed: ofctl.Difference{Added: 10}}, <-events)
		synctest.Wait() // until it watches
		for name, row := range map[string]struct {
			mod    ofctl.FlowMod
			want   ofctl.Difference
			within time.Duration
		}{
			"one that tells":    {ofctl.FlowMod{Command: ofctl.DeleteStrict, Flow: keptFlows(2)[1]}, ofctl.Difference{Added: 1}, 0},
			"one that does not": {ofctl.FlowMod{Command: ofctl.DeleteStrict, Flow: keptFlows(1)[0]}, ofctl.Difference{Added: 1}, 500 * time.Millisecond},
			"all":               {ofctl.FlowMod{Command: ofctl.Delete, Flow: ofctl.Flow{Match: ofctl.TCP4()}}, ofctl.Difference{Added: 10}, 0},
			"modified":          {ofctl.FlowMod{Command: ofctl.ModifyStrict, Flow: ofctl.Flow{Priority: 7, Match: keptFlows(1)[0].Match}}, ofctl.Difference{Modified: 1}, 30 * time.Second},
			"one more of ours":  {ofctl.FlowMod{Flow: ofctl.Flow{Cookie: 0x1234, Priority: 99}}, ofctl.Difference{Deleted: 1}, 500 * time.Millisecond},
		} {
			start := time.Now()
			require.NoError(t, sw.Apply(t.Context(), []ofctl.Mod{row.mod}), name)
			require.Equal(t, ofctl.KeeperEvent{Kind: ofctl.KeeperHealed, Changed: row.want}, <-events, name)
			require.LessOrEqual(t, time.Since(start), row.within, name)
			<-time.After(time.Minute)
			require.Empty(t, events, "%s: one event", name)
			flows, err := sw.Flows(t.Context(), ofctl.AllFlows)
			require.NoError(t, err)
			require.Len(t, flows, 11, name)
		}
	})
}

func TestKeeperSurvives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := ofctltest.New(ofctltest.Config{})
		dials, away := 0, errors.New("away")
		k, events := kept(t, sw, ofctl.KeeperConfig{RetryMin: time.Second, RetryMax: 4 * time.Second, Dial: func(context.Context) (ofctl.Switch, error) {
			if dials++; dials > 1 && dials < 5 {
				return nil, away
			}
			return sw.Connect(), nil
		}})
		require.NoError(t, k.Want(ofctl.Wanted{Flows: keptFlows(3)}))
		require.Equal(t, ofctl.KeeperConnected, (<-events).Kind)
		synctest.Wait()
		sw.Restart(nil)
		start := time.Now()
		lost := <-events
		for lost.Kind == ofctl.KeeperChanged { // what was wanted may have come after the first connection
			lost = <-events
		}
		require.Equal(t, ofctl.KeeperLost, lost.Kind)
		require.ErrorIs(t, lost.Err, ofctl.ErrClosed)
		require.Equal(t, ofctl.KeeperEvent{Kind: ofctl.KeeperConnected, Changed: ofctl.Difference{Added: 3}}, <-events)
		require.Equal(t, 5, dials)
		// Four waits, of up to 1, 2, 4 and 4 seconds, at least half of that each.
		require.InDelta(t, 8.5, time.Since(start).Seconds(), 3)
	})
}

func TestKeeperIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := ofctltest.New(ofctltest.Config{})
		k, events := kept(t, sw, ofctl.KeeperConfig{})
		require.Equal(t, ofctl.KeeperConnected, (<-events).Kind)
		theirs := keptFlows(1)[0]
		theirs.Cookie, theirs.Apply = 1, nil
		require.NoError(t, sw.Apply(t.Context(), []ofctl.Mod{ofctl.FlowMod{Flow: theirs}}))
		require.NoError(t, k.Want(ofctl.Wanted{Flows: keptFlows(1)}))
		failed := <-events
		require.Equal(t, ofctl.KeeperFailed, failed.Kind)
		require.ErrorContains(t, failed.Err, "somebody else's flow")
		<-time.After(time.Minute)
		require.Empty(t, events, "told once")
		require.NoError(t, sw.Apply(t.Context(), []ofctl.Mod{ofctl.FlowMod{Command: ofctl.Delete}}))
		require.Equal(t, ofctl.KeeperEvent{Kind: ofctl.KeeperChanged, Changed: ofctl.Difference{Added: 1}}, <-events)
		require.ErrorContains(t, k.Want(ofctl.Wanted{Flows: []ofctl.Flow{{}}}), "not the owner's")
		sw.FailNext(1, &ofctl.SwitchError{Type: ofctl.ErrTypeFlowModFailed, Code: 1})
		require.NoError(t, k.Want(ofctl.Wanted{}))
		require.ErrorContains(t, (<-events).Err, "OFPFMFC_TABLE_FULL")
		require.Equal(t, ofctl.KeeperEvent{Kind: ofctl.KeeperChanged, Changed: ofctl.Difference{Deleted: 1}}, <-events)
	})
	require.Error(t, ofctl.NewKeeper(ofctl.KeeperConfig{}).Run(t.Context()))
}

// counted counts dumps of flows.
type counted struct {
	ofctl.Switch
	dumps int
}

func (c *counted) Flows(ctx context.Context, filter ofctl.FlowFilter) ([]ofctl.FlowStat, error) {
	c.dumps++
	return c.Switch.Flows(ctx, filter)
}

// Where somebody else's flow does what is wanted, one comparison is enough.
func TestKeeperCountsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := ofctltest.New(ofctltest.Config{})
		theirs := keptFlows(1)[0]
		theirs.Cookie = 1
		require.NoError(t, sw.Apply(t.Context(), []ofctl.Mod{ofctl.FlowMod{Flow: theirs}}))
		c := &counted{Switch: sw.Connect()}
		k, events := kept(t, sw, ofctl.KeeperConfig{Dial: func(context.Context) (ofctl.Switch, error) { return c, nil }})
		require.Equal(t, ofctl.KeeperConnected, (<-events).Kind)
		require.NoError(t, k.Want(ofctl.Wanted{Flows: keptFlows(3)}))
		require.Equal(t, ofctl.KeeperEvent{Kind: ofctl.KeeperChanged, Changed: ofctl.Difference{Added: 2}}, <-events)
		<-time.After(20 * time.Second)
		synctest.Wait()
		require.Equal(t, 2, c.dumps)
	})
}
