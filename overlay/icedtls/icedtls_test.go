package icedtls

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/overlaytest"
)

// testNet is several Transports on loopback whose paths can be cut.
type testNet struct {
	signals *overlaytest.Net
	config  Config

	mu    sync.Mutex
	ports map[uint16]overlay.PeerID
	cuts  map[[2]overlay.PeerID]bool
}

func newTestNet() *testNet {
	n := &testNet{
		signals: overlaytest.NewNet(overlaytest.Config{}),
		ports:   map[uint16]overlay.PeerID{},
		cuts:    map[[2]overlay.PeerID]bool{},
	}
	n.config = Config{Signal: n.signals.SignalOpener(), Listen: netip.MustParseAddrPort("127.0.0.1:0"), IncludeLoopback: true}
	return n
}

func (n *testNet) cut(a, b overlay.PeerID, on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts[[2]overlay.PeerID{a, b}], n.cuts[[2]overlay.PeerID{b, a}] = on, on
}

func (n *testNet) dropper(self overlay.PeerID) func([]byte, netip.AddrPort) bool {
	return func(_ []byte, remote netip.AddrPort) bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.cuts[[2]overlay.PeerID{self, n.ports[remote.Port()]}]
	}
}

func (n *testNet) open(c Config) overlay.Opener {
	return func(ctx context.Context, env overlay.Env) (overlay.Transport, error) {
		c.drop = n.dropper(env.Identity.ID())
		t, err := Open(c)(ctx, env)
		if err == nil {
			n.mu.Lock()
			n.ports[t.(*Transport).socket.addr.Port()] = env.Identity.ID()
			n.mu.Unlock()
		}
		return t, err
	}
}

func (n *testNet) harness() overlaytest.TransportHarness {
	return overlaytest.TransportHarness{
		Open: n.open(n.config),
		Impostor: func(victim overlay.PeerID) overlay.Opener {
			c := n.config
			c.claim = victim
			c.Signal = n.signals.SignalImpostor(victim)
			return n.open(c)
		},
		Cut:  func(a, b overlay.PeerID) { n.cut(a, b, true) },
		Heal: func(a, b overlay.PeerID) { n.cut(a, b, false) },
	}
}

func TestTransport(t *testing.T) {
	overlaytest.RunTransport(t, func(*testing.T) overlaytest.TransportHarness { return newTestNet().harness() })
}

// TestTransportAllInterfaces runs the suite on a socket bound to no address, in DTLS records.
func TestTransportAllInterfaces(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 15 s")
	}
	overlaytest.RunTransport(t, func(*testing.T) overlaytest.TransportHarness {
		n := newTestNet()
		n.config.Listen, n.config.DTLSOnly = netip.AddrPort{}, true
		return n.harness()
	})
}

func discardLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

func openTransport(t testing.TB, open overlay.Opener, id *overlay.Identity, admit overlay.Admission) *Transport {
	t.Helper()
	if admit == nil {
		admit = overlay.AdmitFunc(func(overlay.PeerID) bool { return true })
	}
	tr, err := open(context.Background(), overlay.Env{Identity: id, Admission: admit, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { _ = tr.Close() })
	return tr.(*Transport)
}
