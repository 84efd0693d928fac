package vias

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay/overlaytest"
)

// TestSleeper: a node sleeps for ten minutes, unheard and out of reach of signalling too. The
// others lose it and stay linked; when it is back they are linked to it again, soon, and its
// connections carry on.
func TestSleeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, overlaytest.Config{})
		sleeper, b, c := l.node(nil), l.node(nil), l.node(nil)
		awake := []*node{b, c}
		l.mesh(sleeper, b, c)
		for _, m := range []*node{sleeper, b, c} {
			m.run()
		}
		waitLinked(t, sleeper, b, c)
		sleeper.send(tcpFrame(0, 1, 40000, 22, ack, 1000))
		b.expect(tcpFrame(0, 1, 40000, 22, ack, 1000))
		of := func(m, peer *node) PeerStatus {
			for _, p := range m.Peers() {
				if p.ID == peer.ID() {
					return p
				}
			}
			return PeerStatus{}
		}
		since := of(b, c).Since

		l.net.BlockSignals(sleeper.ID(), true)
		for _, m := range awake {
			l.net.Cut(sleeper.ID(), m.ID())
		}
		<-time.After(10 * time.Minute)
		for _, m := range awake {
			require.Equal(t, PeerConnecting, of(m, sleeper).State)
		}
		require.Equal(t, PeerLinked, of(b, c).State)
		require.Equal(t, since, of(b, c).Since, "it is the same link")

		l.net.BlockSignals(sleeper.ID(), false)
		for _, m := range awake {
			l.net.Heal(sleeper.ID(), m.ID())
		}
		start := time.Now()
		waitLinked(t, sleeper, b, c)
		t.Logf("linked again %v after it woke", time.Since(start))
		require.Less(t, time.Since(start), lastRetry+patience+time.Second)
		sleeper.send(tcpFrame(0, 1, 40000, 22, ack, 1000))
		b.expect(tcpFrame(0, 1, 40000, 22, ack, 1000))
		b.send(tcpFrame(1, 0, 22, 40000, ack, 1000))
		sleeper.expect(tcpFrame(1, 0, 22, 40000, ack, 1000))
	})
}
