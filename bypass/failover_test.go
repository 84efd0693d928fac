package bypass_test

import (
	"bytes"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/tap"
)

func isARP(f []byte) bool { return len(f) >= 42 && f[12] == 8 && f[13] == 6 }

// isND: a neighbour solicitation or advertisement.
func isND(f []byte) bool {
	return len(f) >= 78 && f[12] == 0x86 && f[13] == 0xdd && f[20] == 58 && (f[54] == 135 || f[54] == 136)
}

// questions is how often A asked for its next hop.
type questions struct{ anywhere, there atomic.Int32 }

// moveHop moves the way from A to B to another MAC, or ends it (zero). Whoever had the old
// one is no more; A's kernel learns of the new one when A asks on the link.
func (p *pair) moveHop(old, now tap.MAC) *questions {
	asked := &questions{}
	p.wire.Mangle(func(frame []byte) []byte {
		switch tap.MAC(frame[:6]) {
		case old:
			return nil
		case now:
			copy(frame, p.b.uplink[:])
		}
		return frame
	})
	p.wire.Tap(func(frame []byte) {
		if !isARP(frame) || tap.MAC(frame[6:12]) != p.a.uplink {
			return
		}
		if tap.MAC(frame[:6]) != (tap.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}) {
			asked.there.Add(1)
			return
		}
		asked.anywhere.Add(1)
		if bytes.Equal(frame[38:42], p.b.addr.AsSlice()) && !now.IsZero() {
			r, _ := p.a.underlay.Route(p.a.t.Context(), p.b.addr)
			r.NextHop = now
			time.AfterFunc(time.Millisecond, func() { p.a.underlay.SetRoute(p.b.addr, r) })
		}
	})
	return asked
}

// A next hop that fails over, and says nothing, is found, and the bypass never ends.
func TestNextHopFailsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.bypassed(time.Second)
		since := p.a.status(p.flow).Since
		asked := p.moveHop(p.b.uplink, tap.MAC{2, 0, 0, 0, 9, 9})
		require.Equal(t, 1, p.exchange(), "B still reaches A")
		until(t, 700*time.Millisecond, "A reaches B again", func() bool { return p.exchange() == 2 })
		require.EqualValues(t, 1, asked.anywhere.Load(), "one question was enough")
		asked.there.Store(0)
		for range 100 {
			<-time.After(200 * time.Millisecond)
			require.Equal(t, 2, p.exchange())
		}
		require.EqualValues(t, 1, asked.anywhere.Load())
		require.InDelta(t, 4, asked.there.Load(), 1, "one in five seconds confirms it")
		require.Equal(t, since, p.a.status(p.flow).Since, "the flow was bypassed all the time")
		p.leave()
	})
}

// A hop that nobody has any more is not asked for without end.
func TestNextHopIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.bypassed(time.Second)
		asked := p.moveHop(p.b.uplink, tap.MAC{})
		until(t, 3*time.Second, "A has given the path up", func() bool { return p.a.status(p.flow).State != bypass.Bypassed })
		require.LessOrEqual(t, asked.anywhere.Load(), int32(5))
		<-time.After(time.Minute)
		require.LessOrEqual(t, asked.anywhere.Load(), int32(30), "only while rounds of proof are in trouble")
		p.wire.Mangle(nil)
		p.bypassed(30 * time.Second)
		p.leave()
	})
}
