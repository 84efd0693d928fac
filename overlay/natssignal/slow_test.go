package natssignal_test

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/icedtls"
	"github.com/viasnet/vias/overlay/natssignal"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/overlay/sealed"
)

// stutter has a server repeat all messages, later and in another order.
func stutter(t testing.TB, url string) {
	t.Helper()
	const mark = "Said-Before"
	c, err := nats.Connect(url)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	dice := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	var said []*nats.Msg
	_, err = c.Subscribe("vias.sig.>", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if m.Header.Get(mark) != "" {
			return
		}
		again := nats.NewMsg(m.Subject)
		again.Data = m.Data
		again.Header.Set(mark, "yes")
		said = append(said, again)
		for range 3 {
			_ = c.PublishMsg(said[dice.IntN(len(said))])
		}
	})
	require.NoError(t, err)
	require.NoError(t, c.Flush())
}

// far is a sealed peer whose messages take a while in each direction.
func far(t testing.TB, address string, delay time.Duration) natssignal.Config {
	t.Helper()
	return blue("nats://" + newValve(t, address, delay).Addr().String())
}

// A server that is slow and says everything several times: each message is taken once.
func TestSlowDuplicatingServer(t *testing.T) {
	t.Parallel()
	s := open(t, server.Options{})
	stutter(t, s.ClientURL())
	var peers []*sealed.Signaler
	var ids []*overlay.Identity
	for range 2 {
		ids = append(ids, overlaytest.NewIdentity(t))
		inner, err := natssignal.Connect(t.Context(), far(t, s.Addr().String(), 100*time.Millisecond), ids[len(ids)-1])
		require.NoError(t, err)
		p, err := sealed.Wrap(inner, ids[len(ids)-1], sealed.Config{})
		require.NoError(t, err)
		t.Cleanup(func() { _ = p.Close() })
		peers = append(peers, p)
		await(t, "a connection", func() bool { return inner.Stats().Connected > 0 })
	}
	const messages = 30
	got := map[string]int{}
	say := func(i int) {
		require.NoError(t, peers[0].Send(deadline(t), ids[1].ID(), []byte{byte(i)}))
	}
	hear := func() {
		from, msg, err := peers[1].Recv(deadline(t))
		require.NoError(t, err)
		require.Equal(t, ids[0].ID(), from)
		got[string(msg)]++
	}
	// The first waits for the peer's key, and may be sent before the peer listens.
	for first := false; !first; {
		say(0)
		ctx, cancel := timeoutOf(time.Second)
		_, _, err := peers[1].Recv(ctx)
		cancel()
		first = err == nil
	}
	for i := 1; i <= messages; i++ {
		say(i)
	}
	for len(got) < messages {
		hear()
	}
	await(t, "repetitions", func() bool { return peers[1].Stats().Replayed >= messages })
	ctx, cancel := timeoutOf(300 * time.Millisecond)
	defer cancel()
	for {
		_, msg, err := peers[1].Recv(ctx)
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
			break
		}
		require.Equal(t, []byte{0}, msg, "only the first was sent more than once")
	}
	for msg, n := range got {
		require.True(t, n == 1 || msg == "\x00", "%q came %d times", msg, n)
	}
	require.Zero(t, peers[1].Stats().Refused)
}

// Links come up over such a server: one link for one dial.
func TestLinkOverSlowServer(t *testing.T) {
	t.Parallel()
	s := open(t, server.Options{})
	stutter(t, s.ClientURL())
	var peers []overlay.Transport
	var ids []*overlay.Identity
	for range 2 {
		id := overlaytest.NewIdentity(t)
		c := icedtls.Config{
			Signal: sealed.Open(natssignal.Open(far(t, s.Addr().String(), 100*time.Millisecond)), sealed.Config{}),
			Listen: netip.MustParseAddrPort("127.0.0.1:0"), IncludeLoopback: true,
		}
		tr, err := icedtls.Open(c)(t.Context(), overlay.Env{
			Identity: id, Admission: overlay.AdmitFunc(func(overlay.PeerID) bool { return true }), Logger: slog.New(slog.DiscardHandler),
		})
		require.NoError(t, err)
		t.Cleanup(func() { _ = tr.Close() })
		peers, ids = append(peers, tr), append(ids, id)
	}
	began := time.Now()
	dialled := make(chan error, 1)
	go func() {
		_, err := peers[0].Dial(deadline(t), ids[1].ID())
		dialled <- err
	}()
	l, err := peers[1].Accept(deadline(t))
	require.NoError(t, err)
	require.Equal(t, ids[0].ID(), l.Peer())
	require.NoError(t, <-dialled)
	t.Logf("linked after %v", time.Since(began))
	ctx, cancel := timeoutOf(500 * time.Millisecond)
	defer cancel()
	_, err = peers[1].Accept(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded, "what is repeated makes no second link")
}

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// The bucket fills up while peers are there: they signal on, their log has the server's
// reason, not each time, and there is presence again when there is room.
func TestBucketFillsUp(t *testing.T) {
	s := open(t, server.Options{JetStream: true})
	js := admin(t, s.ClientURL())
	kv, err := js.CreateKeyValue(deadline(t), jetstream.KeyValueConfig{
		Bucket: natssignal.Bucket, MaxBytes: 4096, Storage: jetstream.MemoryStorage, History: 1,
	})
	require.NoError(t, err)
	var log lines
	c := blue(s.ClientURL())
	c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	a, b := connect(t, c), connect(t, blue(s.ClientURL()))
	await(t, "presence", func() bool { return a.sees(b) && b.sees(a) })
	var keys []string
	for i := range 100 {
		key := "full." + string(rune('a'+i%26)) + string(rune('a'+i/26))
		if _, err = kv.Put(deadline(t), key, make([]byte, 100)); err != nil {
			break
		}
		keys = append(keys, key)
	}
	require.Error(t, err)
	await(t, "a failure to be counted", func() bool { return a.Stats().PresenceFailed > 1 })
	a.tell(t, b, "while it is full")
	require.Contains(t, log.String(), "presence cannot be put; signalling goes on")
	require.Contains(t, log.String(), "maximum bytes exceeded")
	for _, key := range keys {
		require.NoError(t, kv.Purge(deadline(t), key))
	}
	require.NoError(t, kv.PurgeDeletes(deadline(t), jetstream.DeleteMarkersOlderThan(-1)))
	failed := a.Stats().PresenceFailed
	late := connect(t, blue(s.ClientURL()))
	await(t, "presence once there is room", func() bool { return a.sees(late) && late.sees(a) })
	require.LessOrEqual(t, a.Stats().PresenceFailed, failed+1)
}
