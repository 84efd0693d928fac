package icedtls

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/overlaytest"
)

// crowd has as many Dials under way as may be.
func crowd(t *Transport) {
	for range maxDials {
		t.turns <- struct{}{}
	}
}

func twoTransports(t *testing.T) (a, b *Transport) {
	n := newTestNet()
	return openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil),
		openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
}

// dialled is what a Dial under way gives.
type dialled struct {
	link overlay.Link
	err  error
}

func beginDial(ctx context.Context, from *Transport, to overlay.PeerID) <-chan dialled {
	c := make(chan dialled, 1)
	go func() {
		l, err := from.Dial(ctx, to)
		c <- dialled{l, err}
	}()
	return c
}

// underWay tells whether a Dial from t to peer has begun, and whether it has a call.
func (t *Transport) underWay(peer overlay.PeerID) (begun, calls bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.dials[peer]
	return d != nil, d != nil && d.call != nil
}

func TestDialWaitsForItsTurn(t *testing.T) {
	a, b := twoTransports(t)
	crowd(a)
	done := beginDial(testContext(t), a, b.self)
	until(t, "no Dial", func() bool { begun, _ := a.underWay(b.self); return begun })
	_, calls := a.underWay(b.self)
	require.False(t, calls, "it did not wait")
	<-a.turns
	r := <-done
	require.NoError(t, r.err)
	require.Len(t, a.turns, maxDials-1, "it gave its turn back")
}

// What the peer dials meanwhile is the Link of both.
func TestPeerDialsWhoWaits(t *testing.T) {
	a, b := twoTransports(t)
	crowd(a)
	done := beginDial(testContext(t), a, b.self)
	until(t, "no Dial", func() bool { begun, _ := a.underWay(b.self); return begun })
	theirs, err := b.Dial(testContext(t), a.self)
	require.NoError(t, err)
	r := <-done
	require.NoError(t, r.err)
	exchange(t, theirs.(*link), r.link.(*link), "one and the same")
	require.Len(t, a.turns, maxDials, "it took none")
}

func TestDialEndsWhileItWaits(t *testing.T) {
	a, b := twoTransports(t)
	crowd(a)
	ctx, cancel := context.WithCancel(testContext(t))
	done := beginDial(ctx, a, b.self)
	until(t, "no Dial", func() bool { begun, _ := a.underWay(b.self); return begun })
	cancel()
	r := <-done
	require.ErrorIs(t, r.err, overlay.ErrUnreachable)
	require.ErrorIs(t, r.err, context.Canceled)
	require.ErrorContains(t, r.err, "wait for other dials")
	begun, _ := a.underWay(b.self)
	require.False(t, begun)
	require.Len(t, a.turns, maxDials)
}

// A peer that is not there keeps nobody waiting.
func TestSilentPeerLosesItsTurn(t *testing.T) {
	a, b := twoTransports(t)
	crowd(a)
	<-a.turns
	ctx, cancel := context.WithCancel(testContext(t))
	silent := beginDial(ctx, a, overlaytest.NewIdentity(t).ID())
	until(t, "no turn", func() bool { return len(a.turns) == maxDials })
	l, err := a.Dial(testContext(t), b.self)
	require.NoError(t, err)
	require.Equal(t, b.self, l.Peer())
	select {
	case r := <-silent:
		require.Fail(t, "the other Dial is over", "%v", r.err)
	default:
	}
	cancel()
	require.Error(t, (<-silent).err)
	require.Len(t, a.turns, maxDials-1)
}

// Who has enough to do with others answers later.
func TestFullAnswersLater(t *testing.T) {
	a, b := twoTransports(t)
	b.mu.Lock()
	for i := range maxInbound {
		b.inbound[overlay.PeerID{1, byte(i)}] = &session{}
	}
	b.mu.Unlock()
	done := beginDial(testContext(t), a, b.self)
	until(t, "no second offer", func() bool { _, calls := a.underWay(b.self); return calls && len(a.turns) == 0 })
	b.mu.Lock()
	require.Len(t, b.inbound, maxInbound)
	clear(b.inbound)
	b.mu.Unlock()
	require.NoError(t, (<-done).err)
}
