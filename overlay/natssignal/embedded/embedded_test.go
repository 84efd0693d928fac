package embedded_test

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/leaktest"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/natssignal"
	"github.com/viasnet/vias/overlay/natssignal/embedded"
	"github.com/viasnet/vias/overlay/overlaytest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

func serve(t testing.TB, config embedded.Config) *embedded.Server {
	t.Helper()
	config.Listen = loopback
	s, err := embedded.Start(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func connect(t testing.TB, s *embedded.Server, id *overlay.Identity) *natssignal.Signaler {
	t.Helper()
	c, err := natssignal.Connect(t.Context(), natssignal.Config{Servers: []string{s.URL()}, Network: "blue", PresenceTTL: time.Second}, id)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// raw is a client that proves an ID and then does what no Signaler does. What it is
// forbidden comes to denied.
func raw(t testing.TB, s *embedded.Server, id *overlay.Identity) (c *nats.Conn, denied chan error) {
	t.Helper()
	denied = make(chan error, 64)
	c, err := nats.Connect(s.URL(), natssignal.ProofOption(id, nil), nats.CustomInboxPrefix("_INBOX_"+id.ID().String()),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err }))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c, denied
}

// One peer can neither hear nor speak for another, nor record what others send.
func TestPermissions(t *testing.T) {
	s := serve(t, embedded.Config{})
	victim, thief := overlaytest.NewIdentity(t), overlaytest.NewIdentity(t)
	v, other := connect(t, s, victim), connect(t, s, overlaytest.NewIdentity(t))
	c, denied := raw(t, s, thief)
	name, own := victim.ID().String(), thief.ID().String()
	for _, subject := range []string{
		"vias.sig.blue." + name + ".*", "vias.sig.>", "vias.>", ">", "*.*.*.*.*", "$KV.>", "_INBOX_" + name + ".>", "$JS.API.>",
	} {
		sub, err := c.SubscribeSync(subject)
		require.NoError(t, err)
		require.ErrorIs(t, wait(t, denied), nats.ErrPermissionViolation, "subscribe %s", subject)
		_ = sub.Unsubscribe()
	}
	for _, subject := range []string{
		"vias.sig.blue." + own + "." + name, "$KV." + natssignal.Bucket + ".blue." + name,
		"$JS.API.STREAM.CREATE.spy", "$JS.API.STREAM.DELETE.KV_" + natssignal.Bucket, "$JS.API.STREAM.PURGE.KV_" + natssignal.Bucket,
		"$JS.API.STREAM.UPDATE.KV_" + natssignal.Bucket, "$JS.API.CONSUMER.CREATE.spy.x", "$SYS.REQ.SERVER.PING", "anything",
		"_INBOX_" + name + ".x",
	} {
		require.NoError(t, c.Publish(subject, []byte("x")))
		require.ErrorIs(t, wait(t, denied), nats.ErrPermissionViolation, "publish %s", subject)
	}
	require.NoError(t, c.Publish("vias.sig.blue."+name+"."+own, []byte("in its own name")))
	from, msg, err := v.Recv(deadline(t))
	require.NoError(t, err)
	require.Equal(t, thief.ID(), from)
	require.Equal(t, "in its own name", string(msg))
	require.NoError(t, other.Send(deadline(t), victim.ID(), []byte("for the victim")))
	_, msg, err = v.Recv(deadline(t))
	require.NoError(t, err)
	require.Equal(t, "for the victim", string(msg))
	require.Empty(t, denied)
}

func wait[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-deadline(t).Done():
		require.FailNow(t, "timed out")
		panic("unreachable")
	}
}

// The bucket is lost, with all that is in it: clients may not make it, but the server does, and
// everybody comes back.
func TestKeeperRestoresBucket(t *testing.T) {
	s := serve(t, embedded.Config{})
	id := overlaytest.NewIdentity(t)
	c := connect(t, s, id)
	present := func() bool {
		list, err := c.Present(deadline(t))
		return err == nil && len(list) == 1 && list[0].Peer == id.ID()
	}
	await(t, present)
	js, err := jetstream.New(s.Keeper())
	require.NoError(t, err)
	require.NoError(t, js.DeleteKeyValue(deadline(t), natssignal.Bucket))
	_, err = c.Present(deadline(t))
	require.ErrorContains(t, err, "bucket not found, and only the server may make it")
	require.NoError(t, c.Send(deadline(t), id.ID(), []byte("without a bucket")))
	_, msg, err := c.Recv(deadline(t))
	require.NoError(t, err)
	require.Equal(t, "without a bucket", string(msg))
	await(t, present)
}

func await(t testing.TB, done func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := deadline(t); !done(); {
		select {
		case <-tick.C:
		case <-end.Done():
			require.FailNow(t, "timed out")
		}
	}
}

func TestConfig(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	at := netip.MustParseAddrPort(taken.Addr().String())
	for want, c := range map[string]embedded.Config{
		"Listen is missing":           {},
		"Cluster.Listen is missing":   {Listen: loopback, Cluster: &embedded.Cluster{Secret: "x"}},
		"Secret is missing":           {Listen: loopback, Cluster: &embedded.Cluster{Listen: loopback}},
		"Routes is missing":           {Listen: loopback, Cluster: &embedded.Cluster{Listen: loopback, Secret: "x"}},
		"Routes: \"h\" is no HOST":    {Listen: loopback, Cluster: &embedded.Cluster{Listen: loopback, Secret: "x", Routes: []string{"h"}}},
		"Advertise: \"h\" is no HOST": {Listen: loopback, Cluster: &embedded.Cluster{Listen: loopback, Secret: "x", Routes: []string{"h:1"}, Advertise: "h"}},
		"address already in use":      {Listen: at},
		"not a directory":             {Listen: loopback, Store: "/dev/null/x"},
	} {
		_, err := embedded.Start(t.Context(), c)
		require.ErrorContains(t, err, want)
	}
}

// A stranger with another secret does not become a member.
func TestClusterSecret(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	at := netip.MustParseAddrPort(ln.Addr().String())
	require.NoError(t, ln.Close())
	member := serve(t, embedded.Config{Cluster: &embedded.Cluster{Listen: at, Routes: []string{at.String()}, Secret: "among us"}})
	spy := serve(t, embedded.Config{Cluster: &embedded.Cluster{Listen: loopback, Routes: []string{at.String()}, Secret: "a guess"}})
	friend := serve(t, embedded.Config{Cluster: &embedded.Cluster{Listen: loopback, Routes: []string{at.String()}, Secret: "among us"}})
	await(t, func() bool { return friend.NumRoutes() > 0 })
	require.Zero(t, spy.NumRoutes())
	require.NotZero(t, member.NumRoutes())
}
