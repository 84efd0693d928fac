package vias

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
)

// slowDevice takes its time for each batch.
type slowDevice struct {
	tap.Device
	each time.Duration
}

func (d slowDevice) WriteBatch(b *tap.Batch) error {
	<-time.After(d.each)
	return d.Device.WriteBatch(b)
}

// flood sends frames from node i's endpoint to node j's until ctx ends: burst of them every
// millisecond.
func (m *node) flood(ctx context.Context, i, j, burst int) {
	f := ethernet(testMAC(j), testMAC(i), "much of it")
	frames := make([][]byte, burst)
	for k := range frames {
		frames[k] = f
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = m.wire.WriteBatch(batch(frames...))
		}
	}
}

// TestSlowPeer: a peer that takes a quarter of what is sent to it holds up nobody else, and
// control messages get through to it all the same.
func TestSlowPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, overlaytest.Config{Delay: time.Millisecond, Queue: 1024})
		a, b, c := l.node(nil), l.node(nil), l.node(nil)
		open := b.config.Device
		b.config.Device = func(ctx context.Context) (tap.Device, error) {
			d, err := open(ctx)
			return slowDevice{d, 10 * time.Millisecond}, err // 12,800 frames a second
		}
		l.mesh(a, b, c)
		for _, m := range []*node{a, b, c} {
			m.run()
		}
		waitLinked(t, a, b, c)
		ctx, stop := context.WithCancel(context.Background())
		var flooding sync.WaitGroup
		flooding.Go(func() { a.flood(ctx, 0, 1, 51) })
		for lost := uint64(0); lost < 10_000; lost = b.Stats().Transport.Drops.Full {
			<-time.After(100 * time.Millisecond)
		}
		for range 100 { // each is there before the next one is sent
			f := ethernet(testMAC(2), testMAC(0), "for another")
			start := time.Now()
			a.send(f)
			c.expect(f)
			require.Less(t, time.Since(start), 20*time.Millisecond)
		}
		start := time.Now()
		late := testEndpoint(7)
		require.NoError(t, a.Attach(t.Context(), late))
		eventually(t, func() bool {
			for _, p := range b.Peers() {
				if p.ID == a.ID() {
					require.Equal(t, PeerLinked, p.State)
					return len(p.Endpoints) == 2
				}
			}
			return false
		})
		t.Logf("a message got through after %v", time.Since(start))
		require.Less(t, time.Since(start), 5*time.Second)
		stop()
		flooding.Wait()
		for _, m := range []*node{a, b, c} {
			require.NoError(t, m.shut())
		}
	})
}
