package natssignal_test

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/leaktest"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/natssignal"
	"github.com/viasnet/vias/overlay/natssignal/embedded"
	"github.com/viasnet/vias/overlay/overlaytest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

// serve runs a server until the test ends or it is closed.
func serve(t testing.TB, config embedded.Config) *embedded.Server {
	t.Helper()
	if !config.Listen.IsValid() {
		config.Listen = loopback
	}
	s, err := embedded.Start(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func blue(servers ...string) natssignal.Config {
	return natssignal.Config{Servers: servers, Network: "blue", PresenceTTL: time.Second}
}

// peer is a Signaler whose messages are in inbox.
type peer struct {
	*natssignal.Signaler
	id    *overlay.Identity
	inbox chan string
}

func connect(t testing.TB, config natssignal.Config) *peer {
	t.Helper()
	return connectAs(t, config, overlaytest.NewIdentity(t))
}

func connectAs(t testing.TB, config natssignal.Config, id *overlay.Identity) *peer {
	t.Helper()
	s, err := natssignal.Connect(t.Context(), config, id)
	require.NoError(t, err)
	p := &peer{Signaler: s, id: id, inbox: make(chan string, 4096)}
	ended := make(chan struct{})
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = s.Close()
		close(ended)
		wg.Wait()
	})
	wg.Go(func() { p.run(ended) })
	return p
}

// run fills the inbox, which nobody may empty any more.
func (p *peer) run(ended <-chan struct{}) {
	for {
		_, msg, err := p.Recv(context.Background())
		if err != nil {
			return
		}
		select {
		case p.inbox <- string(msg):
		case <-ended:
			return
		}
	}
}

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// tell sends until the message arrives, and returns how long that took.
func (p *peer) tell(t testing.TB, to *peer, msg string) time.Duration {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	for end := deadline(t); ; {
		require.NoError(t, p.Send(end, to.id.ID(), []byte(msg)))
		for again := false; !again; {
			select {
			case m := <-to.inbox:
				if m == msg {
					return time.Since(began)
				}
			case <-tick.C:
				again = true
			case <-end.Done():
				require.FailNow(t, "timed out", "%q never arrived", msg)
			}
		}
	}
}

// await waits until done.
func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := deadline(t); !done(); {
		select {
		case <-tick.C:
		case <-end.Done():
			require.FailNow(t, "timed out", "waiting for %s", what)
		}
	}
}

// sees tells whether p reads that q is there.
func (p *peer) sees(q *peer) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	list, err := p.Present(ctx)
	if err != nil {
		return false
	}
	for _, x := range list {
		if x.Peer == q.id.ID() {
			return true
		}
	}
	return false
}

func timeoutOf(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}
