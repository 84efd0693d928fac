package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/viasnet/vias/tap"
)

// farBridge is the link that the far host is plugged to, at the other end of the long way.
const farBridge = "far"

// mostUnderWay is how many frames a long way holds in each direction; it loses what comes
// beyond, as a router does.
const mostUnderWay = 4096

// distance is a long way: it carries frames from one TAP to another, late, and loses some. The kernel
// here has no netem.
type distance struct {
	ends [2]tap.Device
	wg   sync.WaitGroup
}

// longWay joins a link by a distance to another that has no router.
func (l *Lab) longWay(ctx context.Context, at site) error {
	if err := l.ips(ctx, at.namespace,
		fmt.Sprintf("link add %s type bridge mcast_snooping 0", farBridge),
		fmt.Sprintf("link set %s mtu %d up", farBridge, l.cfg.UnderlayMTU)); err != nil {
		return err
	}
	var far distance
	names := [2]string{"line-near", "line-far"}
	err := within(at.namespace, func() (err error) {
		for i, name := range names {
			// Without offloads: each packet has a fate of its own.
			if far.ends[i], err = (tap.LinuxConfig{Name: name, MTU: l.cfg.UnderlayMTU, NoOffload: true}).Open(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		far.close()
		return err
	}
	l.far = append(l.far, &far)
	far.carry(l.cfg.Far, rand.Uint64())
	return l.ips(ctx, at.namespace, "link set "+names[0]+" master "+at.bridge, "link set "+names[1]+" master "+farBridge)
}

// late is a frame under way.
type late struct {
	due   time.Time
	frame []byte
}

// carry starts both directions.
func (n *distance) carry(f Far, seed uint64) {
	for i := range n.ends {
		way := make(chan late, mostUnderWay)
		n.wg.Go(func() {
			defer close(way)
			takeLate(n.ends[i], f, rand.New(rand.NewPCG(seed, uint64(i))), way)
		})
		n.wg.Go(func() { giveLate(n.ends[1-i], way) })
	}
}

// takeLate reads frames until the device is closed.
func takeLate(from tap.Device, f Far, draw *rand.Rand, way chan<- late) {
	b := tap.NewBatch(64, 4*tap.MaxFrame)
	for from.ReadBatch(b) == nil {
		due := time.Now().Add(f.Delay)
		for i := range b.Len() {
			if draw.Float64() < f.Loss {
				continue
			}
			select {
			case way <- late{due, append([]byte(nil), b.Frame(i)...)}:
			default: // full
			}
		}
	}
}

// giveLate writes them when they are due, until the device is closed.
func giveLate(to tap.Device, way <-chan late) {
	b := tap.NewBatch(64, 4*tap.MaxFrame)
	for x := range way {
		time.Sleep(time.Until(x.due))
		b.Reset()
		b.Append(x.frame, tap.Offload{})
		for now, more := time.Now(), true; more && b.Len() < 32; {
			select {
			case next, ok := <-way:
				if more = ok && !next.due.After(now); ok {
					b.Append(next.frame, tap.Offload{}) // at most the batch's wait too early
				}
			default:
				more = false
			}
		}
		if to.WriteBatch(b) != nil {
			return // it is closed
		}
	}
}

// close ends it.
func (n *distance) close() {
	for _, d := range n.ends {
		if d != nil {
			_ = d.Close() // it goes with its namespace in any case
		}
	}
	n.wg.Wait()
}
