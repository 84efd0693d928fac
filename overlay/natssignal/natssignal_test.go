package natssignal_test

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/natssignal"
	"github.com/viasnet/vias/overlay/natssignal/embedded"
	"github.com/viasnet/vias/overlay/overlaytest"
)

func TestSignaler(t *testing.T) {
	overlaytest.RunSignaler(t, func(t *testing.T) overlaytest.SignalHarness {
		return overlaytest.SignalHarness{Open: natssignal.Open(blue(serve(t, embedded.Config{}).URL()))}
	})
}

func TestInProcess(t *testing.T) {
	s := serve(t, embedded.Config{})
	a := connect(t, natssignal.Config{InProcess: s, Network: "blue"})
	b := connect(t, blue(s.URL()))
	a.tell(t, b, "one")
	b.tell(t, a, "two")
}

func TestNetworksAreApart(t *testing.T) {
	url := serve(t, embedded.Config{}).URL()
	red := blue(url)
	red.Network = "Blue" // and not "blue"
	a, b := connect(t, blue(url)), connect(t, blue(url))
	other := connectAs(t, red, b.id)
	other.tell(t, other, "it listens")
	a.tell(t, b, "for blue")
	b.tell(t, b, "flushed")
	require.Empty(t, other.inbox)
}

func TestReconnect(t *testing.T) {
	first := serve(t, embedded.Config{})
	at := netip.MustParseAddrPort(first.Addr().String())
	a, b := connect(t, blue(first.URL())), connect(t, blue(first.URL()))
	a.tell(t, b, "one")
	require.NoError(t, first.Close())
	ctx, cancel := context.WithTimeout(deadline(t), 200*time.Millisecond)
	defer cancel()
	await(t, "Send to notice", func() bool { return a.Send(ctx, b.id.ID(), []byte("lost")) != nil })
	require.ErrorIs(t, a.Send(ctx, b.id.ID(), []byte("lost")), context.DeadlineExceeded)
	serve(t, embedded.Config{Listen: at})
	a.tell(t, b, "two") // Send waits for the server
	b.tell(t, a, "three")
	require.Greater(t, a.Stats().Connected, uint64(1))
}

func TestServerLater(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := ln.Addr().String()
	require.NoError(t, ln.Close())
	a := connect(t, blue("nats://"+addr))
	serve(t, embedded.Config{Listen: netip.MustParseAddrPort(addr)})
	a.tell(t, a, "me")
}

// What the other end of the world puts in must be bounded.
func TestSlowReader(t *testing.T) {
	url := serve(t, embedded.Config{}).URL()
	a, b := connect(t, blue(url)), connect(t, blue(url))
	id := overlaytest.NewIdentity(t)
	slow, err := natssignal.Connect(t.Context(), blue(url), id) // nobody calls Recv
	require.NoError(t, err)
	t.Cleanup(func() { _ = slow.Close() })
	await(t, "the slow one's connection", func() bool { return slow.Stats().Connected > 0 })
	for range 1000 {
		require.NoError(t, a.Send(deadline(t), id.ID(), make([]byte, overlay.MaxSignal)))
	}
	a.tell(t, b, "through")
	await(t, "drops", func() bool { return slow.Stats().Dropped > 0 })
}

func TestConfig(t *testing.T) {
	id := overlaytest.NewIdentity(t)
	for want, c := range map[string]natssignal.Config{
		"Servers is missing": {Network: "blue"},
		"Network has to":     {Servers: []string{"nats://h:1"}},
		"less than 1 s":      {Servers: []string{"nats://h:1"}, Network: "b", PresenceTTL: 1},
		"Password without":   {Servers: []string{"nats://h:1"}, Network: "b", Password: "x"},
		"more than one of":   {Servers: []string{"nats://h:1"}, Network: "b", Token: "x", NKey: "y"},
		"nkey /none":         {Servers: []string{"nats://h:1"}, Network: "b", NKey: "/none"},
	} {
		_, err := natssignal.Open(c)(t.Context(), id)
		require.ErrorContains(t, err, want)
	}
}

func TestNetworkToken(t *testing.T) {
	for name, want := range map[string]string{
		"blue-7": "blue-7", "Blue": "_42lue", "a.b": "a_2eb", "a_2eb": "a_5f2eb", "*": "_2a", ">": "_3e", "ü": "_c3_bc",
	} {
		require.Equal(t, want, natssignal.NetworkToken(name))
	}
}
