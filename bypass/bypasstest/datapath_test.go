package bypasstest_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/tap"
)

// bench is a Switch whose wire ends in the test.
type bench struct {
	t    *testing.T
	wire *bypasstest.Wire
	sw   *bypasstest.Switch
	out  [5]chan []byte
}

func newBench(t *testing.T) bypasstest.Bench {
	b := &bench{t: t, wire: bypasstest.NewWire()}
	for i := range b.out {
		b.out[i] = make(chan []byte, 64)
	}
	to := func(e bypasstest.End) func([]byte) {
		return func(f []byte) {
			if bypasstest.Sought(f) {
				b.out[e] <- append([]byte(nil), f...)
			}
		}
	}
	b.sw = b.wire.NewSwitch(bypasstest.SwitchConfig{UplinkMAC: tap.MAC{2, 0xc, 0, 0, 0, 1}})
	b.sw.Tap(to(bypasstest.Plain))
	b.sw.Host(to(bypasstest.Stack))
	b.sw.AddPort(3, tap.MAC{2, 0xa, 0, 0, 0, 1}, to(bypasstest.WorkloadA))
	b.sw.AddPort(4, tap.MAC{2, 0xa, 0, 0, 0, 2}, to(bypasstest.WorkloadB))
	uplink := to(bypasstest.Uplink)
	b.wire.Tap(func(f []byte) {
		// What the test itself puts on the wire is for the switch.
		if tap.MAC(f[:6]) != (tap.MAC{2, 0xc, 0, 0, 0, 1}) {
			uplink(f)
		}
	})
	return b
}

func (b *bench) Open(ctx context.Context) (bypass.Datapath, error) { return b.sw.Open(ctx) }
func (b *bench) Settle()                                           {}

func (b *bench) Ofport(e bypasstest.End) uint32 {
	return map[bypasstest.End]uint32{bypasstest.WorkloadA: 3, bypasstest.WorkloadB: 4}[e]
}

func (b *bench) Send(e bypasstest.End, frame []byte) {
	if e == bypasstest.Uplink {
		b.wire.Send(frame)
		return
	}
	b.sw.Send(b.Ofport(e), frame)
}

func (b *bench) Recv(e bypasstest.End, timeout time.Duration) []byte {
	select {
	case f := <-b.out[e]:
		return f
	case <-time.After(timeout):
		return nil
	}
}

// Foreign: there is nobody else in this switch.
func (b *bench) Foreign() func() string { return func() string { return "" } }

func (b *bench) Delete(epoch uint16, dir bypass.Direction, peer uint32) {
	for _, s := range b.sw.Rules() {
		if s.Epoch == epoch && s.Rule.Direction == dir && s.Rule.Peer == peer {
			require.True(b.t, b.sw.Forget(epoch, dir, s.Rule.ID))
		}
	}
}

func TestDatapath(t *testing.T) {
	bypasstest.RunDatapath(t, bypasstest.DatapathHarness{New: newBench, Virtual: true})
}
