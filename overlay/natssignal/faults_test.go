package natssignal_test

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/natssignal"
	"github.com/viasnet/vias/overlay/natssignal/embedded"
	"github.com/viasnet/vias/overlay/overlaytest"
)

// freePorts are addresses that nobody listens at now.
func freePorts(t testing.TB, n int) []netip.AddrPort {
	t.Helper()
	var at []netip.AddrPort
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer ln.Close()
		at = append(at, netip.MustParseAddrPort(ln.Addr().String()))
	}
	return at
}

// cluster runs three servers that know each other.
func cluster(t testing.TB) []*embedded.Server {
	t.Helper()
	routes := freePorts(t, 3)
	var names []string
	for _, r := range routes {
		names = append(names, r.String())
	}
	var all []*embedded.Server
	for i, r := range routes {
		all = append(all, serve(t, embedded.Config{
			Name: "n" + string(rune('1'+i)), Store: t.TempDir(),
			Cluster: &embedded.Cluster{Listen: r, Routes: names, Secret: "among us"},
		}))
	}
	for _, s := range all {
		await(t, "routes", func() bool { return s.NumRoutes() >= 2 })
	}
	return all
}

// A server of three is killed while peers at all three talk: those at the killed one
// find another by themselves, the others notice nothing.
func TestClusterLosesAServer(t *testing.T) {
	servers := cluster(t)
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.URL())
	}
	var peers []*peer
	for i := range servers {
		// Each first tries its own server; the others it learns from the cluster.
		peers = append(peers, connect(t, blue(urls[i])))
	}
	for i, p := range peers {
		for j, q := range peers {
			p.tell(t, q, "before "+string(rune('0'+3*i+j)))
		}
	}
	await(t, "presence in the cluster", func() bool {
		return peers[0].sees(peers[1]) && peers[2].sees(peers[0]) && peers[1].sees(peers[2])
	})
	var lost atomic.Bool
	talk := make(chan struct{})
	go func() { // in mid-use
		defer close(talk)
		for !lost.Load() {
			_ = peers[1].Send(deadline(t), peers[2].id.ID(), []byte("chatter"))
		}
	}()
	require.NoError(t, servers[0].Close())
	longest := peers[1].tell(t, peers[0], "to the one that lost its server")
	longest = max(longest, peers[0].tell(t, peers[2], "from the one that lost its server"))
	lost.Store(true)
	<-talk
	t.Logf("messages passed again after %v", longest)
	await(t, "presence on two of three", func() bool { return peers[2].sees(peers[0]) && peers[0].sees(peers[1]) })
}

// relay passes a TCP connection on until it is cut: then nothing comes through, and
// neither end is told.
type relay struct {
	net.Listener
	to  string
	cut atomic.Bool
	wg  sync.WaitGroup
}

func newRelay(t testing.TB, to string) *relay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &relay{Listener: ln, to: to}
	t.Cleanup(func() { _ = ln.Close(); r.wg.Wait() })
	r.wg.Go(r.run)
	return r
}

func (r *relay) run() {
	for {
		near, err := r.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", r.to)
		if err != nil {
			_ = near.Close()
			continue
		}
		r.wg.Go(func() { r.pass(near, far) })
		r.wg.Go(func() { r.pass(far, near) })
	}
}

func (r *relay) pass(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		if r.cut.Load() {
			continue
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

// A partition: the connection is dead, but nobody says so. The client finds out by its
// pings, and comes back when the path does.
func TestPartition(t *testing.T) {
	s := serve(t, embedded.Config{})
	r := newRelay(t, s.Addr().String())
	far := connect(t, blue("nats://"+r.Addr().String()).Impatient())
	near := connect(t, blue(s.URL()))
	near.tell(t, far, "one")
	r.cut.Store(true)
	await(t, "the far one to notice", func() bool {
		ctx, cancel := timeoutOf(20 * time.Millisecond)
		defer cancel()
		return far.Send(ctx, near.id.ID(), []byte("into the void")) != nil
	})
	near.tell(t, near, "the rest works")
	r.cut.Store(false)
	near.tell(t, far, "two")
	far.tell(t, near, "three")
}

// A partition in a cluster: a server that is alone keeps serving its own clients, and the
// others theirs.
func TestClusterMemberAlone(t *testing.T) {
	a := serve(t, embedded.Config{Cluster: &embedded.Cluster{
		Listen: loopback, Routes: []string{"127.0.0.1:1"}, Secret: "among us", // nobody is there
	}})
	p, q := connect(t, blue(a.URL())), connect(t, blue(a.URL()))
	p.tell(t, q, "without a quorum")
}

// open runs a server without accounts, as somebody else's might be.
func open(t testing.TB, opts server.Options) *server.Server {
	t.Helper()
	opts.Host, opts.Port, opts.NoSigs, opts.NoLog = "127.0.0.1", server.RANDOM_PORT, true, true
	opts.StoreDir = t.TempDir()
	s, err := server.NewServer(&opts)
	require.NoError(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	require.True(t, s.ReadyForConnections(20*time.Second))
	return s
}

func admin(t testing.TB, url string) jetstream.JetStream {
	t.Helper()
	c, err := nats.Connect(url)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	js, err := jetstream.New(c)
	require.NoError(t, err)
	return js
}

func TestNoJetStream(t *testing.T) {
	s := open(t, server.Options{})
	a, b := connect(t, blue(s.ClientURL())), connect(t, blue(s.ClientURL()))
	a.tell(t, b, "one")
	await(t, "a failure to be counted", func() bool { return a.Stats().PresenceFailed > 0 })
	_, err := a.Present(deadline(t))
	require.Error(t, err)
	a.tell(t, b, "two")
}

func TestFullBucket(t *testing.T) {
	s := open(t, server.Options{JetStream: true})
	js := admin(t, s.ClientURL())
	kv, err := js.CreateKeyValue(deadline(t), jetstream.KeyValueConfig{Bucket: natssignal.Bucket, MaxBytes: 700, Storage: jetstream.MemoryStorage})
	require.NoError(t, err)
	for i := 0; err == nil; i++ {
		_, err = kv.Put(deadline(t), "full."+string(rune('a'+i)), make([]byte, 100))
	}
	a, b := connect(t, blue(s.ClientURL())), connect(t, blue(s.ClientURL()))
	a.tell(t, b, "one")
	await(t, "a failure to be counted", func() bool { return a.Stats().PresenceFailed > 0 })
	a.tell(t, b, "two")
	require.NoError(t, kv.PurgeDeletes(deadline(t)))
	require.NoError(t, js.DeleteKeyValue(deadline(t), natssignal.Bucket))
	await(t, "presence once there is room", func() bool { return a.sees(b) && b.sees(a) })
}

func TestResetBucket(t *testing.T) {
	s := open(t, server.Options{JetStream: true})
	a, b := connect(t, blue(s.ClientURL())), connect(t, blue(s.ClientURL()))
	await(t, "presence", func() bool { return a.sees(b) && b.sees(a) })
	js := admin(t, s.ClientURL())
	require.NoError(t, js.DeleteKeyValue(deadline(t), natssignal.Bucket))
	a.tell(t, b, "without a bucket")
	await(t, "presence again", func() bool { return a.sees(b) && b.sees(a) })
}

func TestPresenceEnds(t *testing.T) {
	s := open(t, server.Options{JetStream: true})
	a, b := connect(t, blue(s.ClientURL())), connect(t, blue(s.ClientURL()))
	await(t, "presence", func() bool { return a.sees(b) })
	require.NoError(t, b.Close())
	await(t, "its end", func() bool { return !a.sees(b) })
}

// The server, or anybody who may write the bucket, cannot make peers say things.
func TestForgedPresence(t *testing.T) {
	s := open(t, server.Options{JetStream: true})
	a := connect(t, blue(s.ClientURL()))
	await(t, "presence", func() bool { return a.sees(a) })
	kv, err := admin(t, s.ClientURL()).KeyValue(deadline(t), natssignal.Bucket)
	require.NoError(t, err)
	victim, thief := overlaytest.NewIdentity(t), overlaytest.NewIdentity(t)
	now := time.Now()
	good, err := natssignal.SealPresence(victim, "blue", [8]byte{7}, now)
	require.NoError(t, err)
	p, err := natssignal.OpenPresence(victim.ID(), "blue", good)
	require.NoError(t, err)
	require.Equal(t, natssignal.Presence{Peer: victim.ID(), Instance: [8]byte{7}, At: time.UnixMilli(now.UnixMilli())}, p)
	stolen, err := natssignal.SealPresence(thief, "blue", [8]byte{}, now)
	require.NoError(t, err)
	elsewhere, err := natssignal.SealPresence(victim, "red", [8]byte{}, now)
	require.NoError(t, err)
	for name, b := range map[string][]byte{
		"another's key": stolen, "another network": elsewhere, "empty": nil, "cut": good[:len(good)-1],
		"changed": append(append([]byte{}, good[:5]...), append([]byte{good[5] ^ 1}, good[6:]...)...),
		"version": append([]byte{2}, good[1:]...), "no key": append(append([]byte{}, good[:17]...), 0),
	} {
		_, err := kv.Put(deadline(t), "blue."+victim.ID().String(), b)
		require.NoError(t, err)
		list, err := a.Present(deadline(t))
		require.NoError(t, err)
		for _, p := range list {
			require.NotEqual(t, victim.ID(), p.Peer, name)
		}
	}
	_, err = kv.Put(deadline(t), "blue."+victim.ID().String(), good)
	require.NoError(t, err)
	list, err := a.Present(deadline(t))
	require.NoError(t, err)
	require.Contains(t, list, p)
}

// What the server passes on that no Signaler would send is dropped.
func TestOddMessages(t *testing.T) {
	s := open(t, server.Options{})
	a := connect(t, blue(s.ClientURL()))
	a.tell(t, a, "it listens")
	c, err := nats.Connect(s.ClientURL())
	require.NoError(t, err)
	t.Cleanup(c.Close)
	to := "vias.sig.blue." + a.id.ID().String() + "."
	require.NoError(t, c.Publish(to+"nobody", []byte("x")))
	require.NoError(t, c.Publish(to+a.id.ID().String(), make([]byte, overlay.MaxSignal+1)))
	await(t, "drops", func() bool { return a.Stats().Dropped == 2 })
	a.tell(t, a, "still")
	require.Empty(t, a.inbox)
}
