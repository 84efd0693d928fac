package natssignal_test

import (
	"net/netip"
	"strings"
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
	"github.com/viasnet/vias/tap"
)

func TestDirectory(t *testing.T) {
	overlaytest.RunDirectory(t, func(t *testing.T) overlaytest.DirectoryHarness {
		return overlaytest.DirectoryHarness{Open: natssignal.OpenDirectory(natssignal.Config{Servers: []string{serve(t, embedded.Config{}).URL()}})}
	})
}

// A server of somebody else's, which lets clients make the bucket.
func TestDirectoryElsewhere(t *testing.T) {
	overlaytest.RunDirectory(t, func(t *testing.T) overlaytest.DirectoryHarness {
		return overlaytest.DirectoryHarness{Open: natssignal.OpenDirectory(natssignal.Config{Servers: []string{open(t, server.Options{JetStream: true}).ClientURL()}})}
	})
}

// node is one with a Directory.
type node struct {
	overlay.Directory
	id       *overlay.Identity
	sequence uint64
}

func directoryOf(t testing.TB, config natssignal.Config) *node {
	t.Helper()
	id := overlaytest.NewIdentity(t)
	d, err := natssignal.OpenDirectory(config)(t.Context(), overlay.DirectoryEnv{Identity: id, Network: "blue"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.Close() })
	return &node{d, id, 0}
}

func (n *node) publish(t testing.TB, life time.Duration, mac tap.MAC) error {
	t.Helper()
	n.sequence++
	r, err := overlay.SignEntry(n.id, "blue", overlay.Entry{Sequence: n.sequence, Issued: time.Now(), Life: life, MAC: mac})
	require.NoError(t, err)
	return n.Publish(deadline(t), r)
}

// sees tells whether the claims to mac are those of these nodes, in that order.
func (n *node) sees(t testing.TB, mac tap.MAC, want ...*node) bool {
	list, err := n.Lookup(deadline(t), overlay.KeyMAC(mac))
	if err != nil || len(list) != len(want) {
		return false
	}
	for i, c := range list {
		r, err := overlay.OpenEntry("blue", c.Signed)
		if err != nil || r.Peer != want[i].id.ID() {
			return false
		}
	}
	return true
}

var station = tap.MAC{2, 1}

// The embedded server's bucket is lost and comes back; who publishes again is there again. Watches
// are told when a server is there again.
func TestDirectoryReset(t *testing.T) {
	t.Parallel()
	first := serve(t, embedded.Config{})
	config := natssignal.Config{Servers: []string{first.URL()}}
	a, b := directoryOf(t, config), directoryOf(t, config)
	require.NoError(t, a.publish(t, time.Minute, station))
	await(t, "the claim", func() bool { return b.sees(t, station, a) })
	var told atomic.Int64
	defer b.Watch(overlay.KeyMAC(station), func() { told.Add(1) })()
	at := netip.MustParseAddrPort(first.Addr().String())
	require.NoError(t, first.Close())
	await(t, "nobody to answer", func() bool {
		_, err := b.Lookup(deadline(t), overlay.KeyMAC(station))
		return err != nil && strings.Contains(err.Error(), "no connection to a NATS server")
	})
	require.Error(t, a.publish(t, time.Minute, station))
	before := told.Load()                 // of the first connection, perhaps
	serve(t, embedded.Config{Listen: at}) // with nothing in it
	await(t, "word of the connection", func() bool { return told.Load() > before })
	await(t, "an empty directory", func() bool { return b.sees(t, station) })
	await(t, "the claim again", func() bool { return a.publish(t, time.Minute, station) == nil })
	await(t, "the claim to be seen", func() bool { return b.sees(t, station, a) })
}

// A bucket that is full says so, keeps what it has, and takes more when there is room.
func TestDirectoryFull(t *testing.T) {
	s := open(t, server.Options{JetStream: true})
	js := admin(t, s.ClientURL())
	kv, err := js.CreateKeyValue(deadline(t), jetstream.KeyValueConfig{
		Bucket: natssignal.DirectoryBucket, MaxBytes: 6000, LimitMarkerTTL: time.Second, Storage: jetstream.MemoryStorage,
	})
	require.NoError(t, err)
	config := natssignal.Config{Servers: []string{s.ClientURL()}}
	a, b := directoryOf(t, config), directoryOf(t, config)
	require.NoError(t, a.publish(t, time.Minute, station))
	_, err = kv.Put(deadline(t), "full", make([]byte, 4000))
	require.NoError(t, err)
	for i := byte(2); err == nil; i++ {
		err = b.publish(t, time.Minute, tap.MAC{2, i})
	}
	require.ErrorContains(t, err, "maximum bytes exceeded")
	require.True(t, b.sees(t, station, a))
	require.NoError(t, kv.Purge(deadline(t), "full"))
	require.NoError(t, b.publish(t, time.Minute, station))
	require.True(t, a.sees(t, station, a, b))
}

// The place of a claim that expired is removed, those of others are not.
func TestDirectoryPlaces(t *testing.T) {
	s := open(t, server.Options{JetStream: true})
	config := natssignal.Config{Servers: []string{s.ClientURL()}}
	a, b := directoryOf(t, config), directoryOf(t, config)
	require.NoError(t, a.publish(t, time.Second, station))
	require.NoError(t, b.publish(t, time.Minute, station))
	conn, err := nats.Connect(s.ClientURL())
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	await(t, "a's claim to end", func() bool { return a.sees(t, station, b) })
	found, err := natssignal.SweepPlaces(deadline(t), conn, nil)
	require.NoError(t, err)
	require.Len(t, found, 1)
	kv, err := admin(t, s.ClientURL()).KeyValue(deadline(t), natssignal.DirectoryBucket)
	require.NoError(t, err)
	keys := func() int {
		list, err := kv.Keys(deadline(t))
		require.NoError(t, err)
		return len(list)
	}
	require.Equal(t, 3, keys(), "once is not enough: its record may follow")
	found, err = natssignal.SweepPlaces(deadline(t), conn, found)
	require.NoError(t, err)
	require.Empty(t, found)
	await(t, "the place to go", func() bool { return keys() == 2 })
	require.True(t, a.sees(t, station, b))
}

// In a cluster any member answers, also when one was killed.
func TestDirectoryCluster(t *testing.T) {
	t.Parallel()
	servers := cluster(t)
	a := directoryOf(t, natssignal.Config{Servers: []string{servers[0].URL()}})
	b := directoryOf(t, natssignal.Config{Servers: []string{servers[1].URL()}})
	await(t, "a quorum", seldom(func() bool { return a.publish(t, time.Minute, station) == nil }))
	await(t, "b's claim", seldom(func() bool { return b.publish(t, time.Minute, station) == nil }))
	await(t, "both claims, in order", seldom(func() bool { return a.sees(t, station, a, b) && b.sees(t, station, a, b) }))
	conn, err := nats.Connect(servers[1].URL(), natssignal.ProofOption(b.id, nil), nats.CustomInboxPrefix("_INBOX_"+b.id.ID().String()))
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	require.NoError(t, err)
	await(t, "three replicas", seldom(func() bool {
		s, err := js.Stream(deadline(t), "KV_"+natssignal.DirectoryBucket)
		if err != nil {
			return false
		}
		info := s.CachedInfo()
		return info.Config.Replicas == 3 && info.Cluster != nil && len(info.Cluster.Replicas) == 2 &&
			info.Cluster.Replicas[0].Current && info.Cluster.Replicas[1].Current
	}))
	require.NoError(t, servers[0].Close())
	await(t, "a to find another server", seldom(func() bool { return a.publish(t, time.Minute, station) == nil }))
	await(t, "the claims", seldom(func() bool { return b.sees(t, station, a, b) && a.sees(t, station, a, b) }))
}
