package lab

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/tap"
)

// tunnel joins the links of the first two sites, as a layer-2 VPN does.
type tunnel struct {
	delay atomic.Int64 // of each frame, each way
}

// startTunnel plugs a TAP into each site's bridge.
func (p *inquiry) startTunnel(delay time.Duration) *tunnel {
	p.t.Helper()
	n := &tunnel{}
	n.delay.Store(int64(delay))
	var ends [2]tap.Device
	for i := range ends {
		s := p.cfg.siteNr(i)
		inside(p.t, s.namespace, func() (err error) {
			ends[i], err = tap.LinuxConfig{Name: "vpn", MTU: p.cfg.UnderlayMTU}.Open(p.t.Context())
			return err
		})
		require.NoError(p.t, p.ip(p.t.Context(), s.namespace, "link set vpn master "+s.bridge))
	}
	var carriers sync.WaitGroup
	p.t.Cleanup(func() {
		for _, e := range ends {
			_ = e.Close()
		}
		carriers.Wait()
	})
	carriers.Go(func() { n.carry(ends[0], ends[1]) })
	carriers.Go(func() { n.carry(ends[1], ends[0]) })
	return n
}

// carry takes frames from one end to the other until either is closed.
func (n *tunnel) carry(from, to tap.Device) {
	type late struct {
		due   time.Time
		batch *tap.Batch
	}
	queue := make(chan late, 1000)
	var writer sync.WaitGroup
	writer.Go(func() {
		for l := range queue {
			if wait := time.Until(l.due); wait > 0 {
				<-time.After(wait)
			}
			_ = to.WriteBatch(l.batch) // closed: the test is over
		}
	})
	for {
		b := tap.NewBatch(32, 1<<18)
		if from.ReadBatch(b) != nil {
			break
		}
		queue <- late{time.Now().Add(time.Duration(n.delay.Load())), b}
	}
	close(queue)
	writer.Wait()
}
