package icedtls

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
)

// TestStuckReader: whoever does not read one Link, on which a peer sends as fast as it can,
// loses what comes by that one, within bounds; the Link stays, and others carry on.
func TestStuckReader(t *testing.T) {
	n := newTestNet()
	hub := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	loud := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	quiet := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	noise, unread := connect(t, loud, hub)
	l, r := connect(t, quiet, hub)
	sealed(t, noise, unread, l, r)
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		b := tap.NewBatch(44, 44*1500)
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			b.Reset()
			for range 44 {
				b.Append(make([]byte, 1200), tap.Offload{}) // nobody reads the probes for more
			}
			if err := noise.SendBatch(b); err != nil {
				done <- err
				return
			}
		}
	}()
	until(t, "its queue is full", func() bool { return unread.Stats().Drops.Full > 100 })
	for range 20 {
		exchange(t, l, r, "there")
		exchange(t, r, l, "and back")
	}
	require.LessOrEqual(t, unread.waiting.Load(), int64(inboxBytes))
	require.Zero(t, r.Stats().Drops.Full)
	urgent := tap.NewBatch(1, 100)
	urgent.Append([]byte("urgent"), tap.Offload{})
	urgent.SetUrgent()
	require.NoError(t, noise.SendBatch(urgent))
	before := unread.heard.Load()
	until(t, "longer than a Link lives that is not heard", func() bool { return unread.now() > before+int64(lossTime) })
	close(stop)
	require.NoError(t, <-done, "it stays, though nobody reads it")
	require.NoError(t, unread.final())
	in, found := tap.NewBatch(64, 64*1500), false
	for !found {
		require.NoError(t, unread.RecvBatch(in))
		for i := range in.Len() {
			found = found || string(in.Frame(i)) == "urgent"
		}
	}
	exchange(t, noise, unread, "read at last")
}

// stuck is an allocation whose server takes nothing.
type stuck struct{ closed chan struct{} }

func (s stuck) WriteTo([]byte, net.Addr) (int, error) { <-s.closed; return 0, net.ErrClosed }

func (s stuck) ReadFrom([]byte) (int, net.Addr, error) { <-s.closed; return 0, nil, net.ErrClosed }

func (s stuck) Close() error { close(s.closed); return nil }

func (s stuck) LocalAddr() net.Addr              { return &net.UDPAddr{} }
func (s stuck) SetDeadline(time.Time) error      { return nil }
func (s stuck) SetReadDeadline(time.Time) error  { return nil }
func (s stuck) SetWriteDeadline(time.Time) error { return nil }

// TestStuckRelay: a relay that takes nothing keeps nobody waiting who sends by it.
func TestStuckRelay(t *testing.T) {
	n := newTestNet()
	a := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	x := &relay{transport: a, conn: stuck{make(chan struct{})}, out: make(chan relayed, relayQueue), done: make(chan struct{})}
	x.running.Go(x.write)
	r := &route{}
	r.Remote = netip.MustParseAddrPort("192.0.2.1:1")
	r.useRelay(x)
	batch := make([][]byte, 10)
	for i := range batch {
		batch[i] = make([]byte, 1400)
	}
	for range 100 { // it would never come back from the second
		require.NoError(t, r.sendAll(a.socket, batch))
	}
	require.GreaterOrEqual(t, a.Stats().Drops.Unsent, uint64(1000-relayQueue-1))
	x.close()
}
