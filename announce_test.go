package vias

import (
	"context"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/l2"
	"github.com/viasnet/vias/overlay/overlaytest"
)

// A link that comes up while a change waits to be told is told of it: it was told all there
// was before, and who tells the change must not have looked earlier for whom to tell.
func TestChangeIsToldToWhoComesMeanwhile(t *testing.T) {
	a, b := newPair(t, overlaytest.Config{}, nil)
	c := a.connOf(b.ID())
	setUp := func(up bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.up = up
	}

	a.told.mu.Lock()
	setUp(false)
	added := testEndpoint(2)
	require.NoError(t, a.Attach(context.Background(), added))
	eventually(t, func() bool { return waitsForLock("announceDelta") })
	setUp(true)
	c.tell(0, []l2.Endpoint{testEndpoint(0).announced()}, nil) // as announceAll does
	a.told.mu.Unlock()

	eventually(t, func() bool { return len(b.Peers()[0].Endpoints) == 2 })
}

// waitsForLock tells whether a function waits for a mutex somewhere in the process.
func waitsForLock(function string) bool {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for s := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(s, function) && strings.Contains(s, "sync.(*Mutex).Lock") {
			return true
		}
	}
	return false
}
