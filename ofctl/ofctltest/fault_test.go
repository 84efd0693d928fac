package ofctltest

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/ofctl"
)

func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		c := b.Connect()
		b.Stall()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := c.Apply(ctx, add(ofctl.Flow{Cookie: 1}))
		require.ErrorIs(t, err, ofctl.ErrUnconfirmed)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		fs, err := c.Flows(t.Context(), ofctl.AllFlows)
		require.NoError(t, err)
		require.Empty(t, fs)
		done := make(chan error)
		go func() { done <- c.Apply(t.Context(), add(ofctl.Flow{Priority: 1, Cookie: 2})) }()
		synctest.Wait()
		b.Resume()
		require.NoError(t, <-done)
		fs, err = c.Flows(t.Context(), ofctl.AllFlows)
		require.NoError(t, err)
		require.Len(t, fs, 2, "the one that nobody waits for is executed too")
		b.Stall()
		go func() { done <- c.Apply(t.Context(), add(ofctl.Flow{Priority: 2})) }()
		synctest.Wait()
		b.Disconnect()
		require.ErrorIs(t, <-done, ofctl.ErrUnconfirmed)
		b.Resume()
		fs, err = b.Flows(t.Context(), ofctl.AllFlows)
		require.NoError(t, err)
		require.Len(t, fs, 2)
	})
}

func TestFailAndLose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		boom := errors.New("boom")
		b.FailNext(2, boom)
		require.ErrorIs(t, b.Apply(t.Context(), add(ofctl.Flow{})), boom)
		require.ErrorIs(t, b.Apply(t.Context(), add(ofctl.Flow{})), boom)
		require.NoError(t, b.Apply(t.Context(), nil))
		c := b.Connect()
		log := b.watch(c)
		b.LoseNext(1)
		require.ErrorIs(t, c.Apply(t.Context(), add(ofctl.Flow{Cookie: 3})), ofctl.ErrUnconfirmed)
		require.ErrorIs(t, <-log.end, ofctl.ErrClosed)
		require.ErrorIs(t, c.Apply(t.Context(), nil), ofctl.ErrClosed)
		fs, err := b.Connect().Flows(t.Context(), ofctl.Owned(3, 3))
		require.NoError(t, err)
		require.Len(t, fs, 1, "it took effect")
	})
}

func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		log := b.watch(b)
		f := ofctl.Flow{Cookie: 3, Match: ofctl.TCP4(), HardTimeout: 5, SendFlowRemoved: true}
		require.NoError(t, b.Apply(t.Context(), []ofctl.Mod{
			ofctl.GroupMod{Group: indirect(1, toPort(1)...)}, ofctl.FlowMod{Flow: f},
		}))
		require.True(t, b.SetPort(1, func(p *Port) { p.Tag = 7 }))
		require.True(t, b.SetPort(3, func(p *Port) { p.Tag = 8 }))
		b.Restart(map[uint32]uint32{2: 12, 77: 5})
		require.ErrorIs(t, <-log.end, ofctl.ErrClosed)
		fs, err := b.Flows(t.Context(), ofctl.AllFlows)
		require.NoError(t, err)
		require.Equal(t, []string{ofctl.Flow{Apply: []ofctl.Action{ofctl.Normal()}}.String()}, texts(fs))
		gs, err := b.Groups(t.Context())
		require.NoError(t, err)
		require.Empty(t, gs)
		b.Input(2, frameTo(macA, macB)) // has no port any more
		require.Equal(t, [3]int{}, b.sent())
		b.Input(12, withTag(frameTo(macA, macB), 7))
		require.Equal(t, [3]int{1, 0, 0}, b.sent(), "tags survive")
		<-time.After(time.Minute)
		for _, ev := range log.take() {
			_, removed := ev.(ofctl.FlowRemoved)
			require.False(t, removed)
		}
	})
}
