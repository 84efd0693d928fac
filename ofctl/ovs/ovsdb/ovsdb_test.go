package ovsdb_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/leaktest"
	"github.com/viasnet/vias/ofctl/ovs/ovsdb"
	"github.com/viasnet/vias/ofctl/ovs/ovsdb/ovsdbtest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// patience bounds a wait for what takes milliseconds.
const patience = 20 * time.Second

// serve starts a server in memory. t.TempDir is too long for unix sockets.
func serve(t *testing.T) *ovsdbtest.Server {
	dir, err := os.MkdirTemp("", "vd")
	require.NoError(t, err)
	s := ovsdbtest.New(filepath.Join(dir, "db.sock"))
	require.NoError(t, s.Start())
	t.Cleanup(func() { s.Stop(); require.NoError(t, os.RemoveAll(dir)) })
	return s
}

// probe is as short as a busy machine's answers allow.
const probe = 400 * time.Millisecond

// watch runs a watcher; the channel has all its views.
func watch(t *testing.T, address string) <-chan *ovsdb.View {
	w, err := ovsdb.New(ovsdb.Config{Address: address, Probe: probe, RetryMax: 100 * time.Millisecond})
	require.NoError(t, err)
	views := make(chan *ovsdb.View, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx, func(v *ovsdb.View) { views <- v }) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	return views
}

// await takes views until one is good.
func await(t *testing.T, views <-chan *ovsdb.View, good func(*ovsdb.View) bool) *ovsdb.View {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case v := <-views:
			if good(v) {
				return v
			}
		case <-late:
			require.Fail(t, "no such view came")
		}
	}
}

func port(name string, tag uint16, ofport int64) ovsdb.Port {
	return ovsdb.Port{Name: name, Tag: tag, ExternalIDs: map[string]string{}, Interfaces: []ovsdb.Interface{{
		UUID: "u-" + name, Name: name, Ofport: ofport, MAC: "02:00:00:00:00:01",
		ExternalIDs: map[string]string{"iface-id": "of " + name}, Status: map[string]string{"driver_name": "veth"},
	}}}
}

func bridge(ports ...ovsdb.Port) ovsdb.Bridge {
	return ovsdb.Bridge{Name: "br0", DatapathType: "netdev", ExternalIDs: map[string]string{"a": "b"}, Ports: ports}
}

func TestViews(t *testing.T) {
	s := serve(t)
	s.Set(bridge(port("a", 7, 3), port("b", 0, 0)))
	views := watch(t, s.Address())
	v := await(t, views, func(*ovsdb.View) bool { return true })
	require.Equal(t, &ovsdb.View{Bridges: []ovsdb.Bridge{bridge(port("a", 7, 3), port("b", 0, 0))}}, v)

	s.Set(bridge(port("b", 9, -1)), ovsdb.Bridge{Name: "a0"})
	v = await(t, views, func(v *ovsdb.View) bool { return len(v.Bridges) == 2 })
	b, ok := v.Bridge("br0")
	require.True(t, ok)
	require.Equal(t, bridge(port("b", 9, -1)), b)
	_, ok = b.Port("a")
	require.False(t, ok)
	_, ok = v.Bridge("none")
	require.False(t, ok)
}

// What changed while the server was away is in the first view afterwards, and nothing else.
func TestServerRestarts(t *testing.T) {
	s := serve(t)
	s.Set(bridge(port("a", 7, 3), port("b", 7, 4)))
	views := watch(t, s.Address())
	await(t, views, func(*ovsdb.View) bool { return true })
	s.Stop()
	s.Set(bridge(port("b", 7, 4), port("c", 7, 5)))
	require.NoError(t, s.Start())
	v := await(t, views, func(*ovsdb.View) bool { return true })
	require.Equal(t, []ovsdb.Bridge{bridge(port("b", 7, 4), port("c", 7, 5))}, v.Bridges)
}

// A server that says nothing is given up, and asked again.
func TestServerIsMute(t *testing.T) {
	s := serve(t)
	s.Set(bridge(port("a", 7, 3)))
	views := watch(t, s.Address())
	await(t, views, func(*ovsdb.View) bool { return true })
	s.Mute(true)
	s.Set(bridge())
	s.Mute(false) // but the update is lost: only a new connection brings it
	select {
	case <-views:
		require.Fail(t, "the update was not sent")
	case <-time.After(5 * probe / 2): // two that are answered
	}
	s.Hang()
	v := await(t, views, func(*ovsdb.View) bool { return true })
	require.Empty(t, v.Bridges[0].Ports)
}

func TestLook(t *testing.T) {
	s := serve(t)
	s.Set(bridge(port("a", 7, 3)))
	w, err := ovsdb.New(ovsdb.Config{Address: s.Address()})
	require.NoError(t, err)
	v, err := w.Look(t.Context())
	require.NoError(t, err)
	require.Len(t, v.Bridges, 1)
	s.Stop()
	_, err = w.Look(t.Context())
	require.ErrorContains(t, err, "ovsdb: connect")
	_, err = ovsdb.New(ovsdb.Config{Address: "db.sock"})
	require.ErrorContains(t, err, "none of unix:PATH")
}
