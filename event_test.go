package vias

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/overlaytest"
)

func TestEventsLag(t *testing.T) {
	n := &Network{}
	n.hub.emit(PeerUp{}) // to nobody
	events := n.Events(t.Context())
	for i := range eventBuffer + 10 {
		n.hub.emit(PeerUp{overlay.PeerID{byte(i)}})
	}
	n.hub.close()
	var got []Event
	for e := range events {
		got = append(got, e)
	}
	require.Len(t, got, eventBuffer+1)
	require.Equal(t, Lagged{10}, got[eventBuffer])
}

func TestEventsEndWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newPair(t, overlaytest.Config{}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		events := a.Events(ctx)
		time.AfterFunc(time.Second, cancel)
		for range events {
			t.Fatal("nothing happens here")
		}
		require.Empty(t, a.hub.subscribers)
	})
}
