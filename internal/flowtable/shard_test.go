package flowtable

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
)

// The shards find what a map finds, whatever came and went.
func TestShardsAgainstMap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	table, model, now := New(64*8), map[bypass.Flow]*Entry{}, time.Unix(1000, 0)
	kinds := []func(int) bypass.Flow{flow, flow6, udp}
	for range 20_000 {
		f := kinds[r.IntN(len(kinds))](r.IntN(150))
		switch r.IntN(200) {
		case 0:
			now = now.Add(UDPTime / 2)
			table.Sweep(now)
			forget(model, func(e *Entry) bool { return e.silent(now.UnixNano()) })
		case 1:
			if e := model[f]; e != nil {
				e.SetClosed()
			}
		default:
			evicted := table.Evicted()
			e, fresh := table.Track(f, now)
			require.Equal(t, model[f] == nil, fresh)
			if model[f] != nil {
				require.Same(t, model[f], e)
			}
			e.Seen(now)
			model[f] = e
			if table.Evicted() != evicted { // who went is the table's to choose
				forget(model, func(e *Entry) bool { return table.Get(e.Flow()) == nil })
			}
		}
		require.Equal(t, len(model), table.Len())
	}
	require.Positive(t, table.Evicted())
	for f, e := range model {
		require.Same(t, e, table.Get(f))
	}
	table.Each(func(e *Entry) bool { delete(model, e.Flow()); return true })
	require.Empty(t, model)
	table.Sweep(now.Add(IdleTime))
	require.Zero(t, table.Len())
	for i := range table.shards {
		require.Zero(t, table.shards[i].udp)
	}
}

func forget(model map[bypass.Flow]*Entry, gone func(*Entry) bool) {
	for f, e := range model {
		if gone(e) {
			delete(model, f)
		}
	}
}

// Short exchanges over UDP take each other's places, not those of other flows; and one that
// is no short exchange any more is not pushed out by them either.
func TestBriefUDPPushesOutItself(t *testing.T) {
	table, now := New(6400), time.Unix(1000, 0)
	for i := range 3200 {
		_, _ = table.Track(flow(i), now)
	}
	long, _ := table.Track(udp(60_000), now)
	for range bypass.DefaultUDPPackets {
		long.In.Add(100)
	}
	for i := range 15_000 {
		now = now.Add(time.Millisecond)
		_, fresh := table.Track(udp(i), now)
		require.True(t, fresh)
	}
	kept := 0
	for i := range 3200 {
		if table.Get(flow(i)) != nil {
			kept++
		}
	}
	// A shard that happened to get more TCP flows than its limit lets go of some at first.
	require.Greater(t, kept, 3195)
	require.Same(t, long, table.Get(udp(60_000)))
}

func TestUDPIsForgottenSoon(t *testing.T) {
	table, now := New(0), time.Unix(1000, 0)
	_, _ = table.Track(udp(1), now)
	back, _ := table.Track(udp(2), now)
	_, _ = table.Track(flow(3), now)
	back.SetStatus(bypass.Status{State: bypass.Bypassed, Since: now})
	table.Sweep(now.Add(UDPTime - 1))
	require.Equal(t, 3, table.Len())
	now = now.Add(UDPTime)
	table.Sweep(now)
	require.Equal(t, 2, table.Len())
	require.Nil(t, table.Get(udp(1)))
	now = now.Add(time.Hour)
	back.SetStatus(bypass.Status{State: bypass.OnOverlay, Reason: bypass.ReasonIdle, Since: now})
	table.Sweep(now)
	require.NotNil(t, table.Get(udp(2)), "it has just come back")
	table.Sweep(now.Add(UDPTime))
	require.Zero(t, table.Len())
}
