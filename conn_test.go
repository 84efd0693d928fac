package vias

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/control"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
)

// countLink counts datagrams that are sent.
type countLink struct {
	overlay.Link
	mu   sync.Mutex
	sent int
}

func (*countLink) Path() overlay.Path { return overlay.Path{MTU: 1400} }
func (*countLink) Close() error       { return nil }

func (l *countLink) Peer() overlay.PeerID { return overlay.PeerID{1} }

func (l *countLink) SendBatch(b *tap.Batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent += b.Len()
	return nil
}

// A message is queued when a step has just sent what there was, and is about to set the timer for later.
func TestKickIsNotPostponed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Network{self: overlaytest.NewIdentity(t).ID()}
		n.messages.New = func() any { return tap.NewBatch(8, 8*1400) }
		n.config.Name = "test"
		link := &countLink{}
		c, err := (&peer{network: n, id: link.Peer()}).newConn(link, 1400)
		require.NoError(t, err)
		require.NotNil(t, c.port)
		c.kick()
		c.schedule() // the end of that step: the session's next moment is its Hello's time-out
		synctest.Wait()
		link.mu.Lock()
		require.Positive(t, link.sent, "it waits for the time-out")
		link.mu.Unlock()

		// The link is over: nothing runs any more.
		_, err = c.over(control.ErrStalled)
		require.ErrorIs(t, err, control.ErrStalled)
		link.sent = 0
		c.kick()
		c.end(errIdle)
		synctest.Wait()
		require.Zero(t, link.sent)
	})
}
