package vias

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
)

// brittle is a device whose writes fail from some time on.
type brittle struct {
	tap.Device
	broken atomic.Bool
}

var errBrittle = errors.New("no writing any more")

func (d *brittle) WriteBatch(b *tap.Batch) error {
	if d.broken.Load() {
		return errBrittle
	}
	return d.Device.WriteBatch(b)
}

// TestLeaveWhileLinked: however Run ends, the host's goodbyes and the withdrawal
// reach the peers.
func TestLeaveWhileLinked(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(a, b *node, d *brittle)
		want error
	}{
		"told to":              {func(a, _ *node, _ *brittle) { a.stop() }, nil},
		"device ends":          {func(a, _ *node, _ *brittle) { _ = a.device.Close() }, tap.ErrClosed},
		"device takes nothing": {breakWrites, errBrittle},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &brittle{}
				l := newLab(t, overlaytest.Config{})
				a, b := l.node(nil), l.node(nil)
				d.Device = a.device
				a.config.Device = func(context.Context) (tap.Device, error) { return d, nil }
				ha, hb := &fakeHost{answer: silent}, &fakeHost{answer: silent}
				a.withHost(ha, bypass.Always)
				b.withHost(hb, bypass.Always)
				l.mesh(a, b)
				a.run()
				b.run()
				waitLinked(t, a, b)
				var sent, linked bool
				ha.leaving = func() {
					<-time.After(time.Second) // what is to break has broken
					sent = ha.config.Send(b.ID(), []byte("goodbye"))
					linked = a.Peers()[0].State == PeerLinked
				}
				c.end(a, b, d)
				err := <-a.ended
				a.ended <- nil // for shut
				require.ErrorIs(t, err, c.want)
				require.True(t, sent)
				require.True(t, linked)
				synctest.Wait()
				require.Equal(t, []string{"goodbye"}, hb.received)
				require.Empty(t, b.Peers()[0].Endpoints, "withdrawn")
			})
		})
	}
}

func breakWrites(_, b *node, d *brittle) {
	d.broken.Store(true)
	for range 3 {
		b.send(ethernet(testMAC(0), testMAC(1), "what nobody takes"))
	}
}

// TestDetachWithoutSwitch: the endpoint is gone for everybody but the switch, which
// the caller is told.
func TestDetachWithoutSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, h := bypassPair(t, bypass.Always, silent)
		h.detachErr = bypass.ErrSwitchDown
		require.ErrorIs(t, a.Detach(t.Context(), "a"), bypass.ErrSwitchDown)
		synctest.Wait()
		require.Empty(t, b.Peers()[0].Endpoints)
		_, ok := h.config.Resolve(testFlow(0, 1, 5, 6))
		require.False(t, ok)
		require.NoError(t, a.Detach(t.Context(), "a"), "it is not attached")
		require.Equal(t, 1, h.count("detach"))

		require.NoError(t, a.Attach(t.Context(), testEndpoint(0)))
		synctest.Wait()
		require.Len(t, b.Peers()[0].Endpoints, 1)
		require.Equal(t, 2, h.count("attach"))

		moved := testEndpoint(0)
		moved.Ofport = 7
		require.ErrorIs(t, a.Attach(t.Context(), moved), bypass.ErrSwitchDown, "the old port is still there")
		require.Equal(t, 3, h.count("attach"), "the Member knows the new one")
	})
}

// TestTagChanges: the policy is asked again about a flow that goes on, whichever
// end's tag changes.
func TestTagChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		green := func(r bypass.Request) bypass.Verdict {
			return bypass.Verdict{Bypass: r.LocalTag == "green" && r.PeerTag == "green"}
		}
		a, b, h := bypassPair(t, green, silent)
		f := tcpFrame(0, 1, 1000, 80, ack, 5)
		retag := func(m *node, i int, tag string) {
			e := testEndpoint(i)
			e.Tag = tag
			require.NoError(t, m.Attach(t.Context(), e))
			synctest.Wait()
			a.send(f)
			b.expect(f)
		}
		reason := func() bypass.Reason { return a.Explain(testFlow(0, 1, 1000, 80)).Reason }
		a.send(f)
		b.expect(f)
		retag(a, 0, "green")
		require.Equal(t, bypass.ReasonPolicy, reason())
		require.Zero(t, h.asked())
		retag(b, 1, "green")
		require.Equal(t, 1, h.asked(), "newly allowed")
		<-time.After(2 * time.Second)
		retag(b, 1, "red")
		require.Equal(t, bypass.ReasonPolicy, reason(), "newly denied")
		require.Equal(t, 1, h.asked())
	})
}
