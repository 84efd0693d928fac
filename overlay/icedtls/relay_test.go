package icedtls

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	pionturn "github.com/pion/turn/v5"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/icedtls/internal/record"
	"github.com/viasnet/vias/overlay/overlaytest"
)

const relaySecret = "shared"

// serveTURN serves TURN on loopback, over UDP and TCP: for "user" with "password", and for
// credentials of relaySecret.
func serveTURN(tb testing.TB) netip.AddrPort {
	tb.Helper()
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(tb, err)
	at := udp.LocalAddr().(*net.UDPAddr).AddrPort()
	tcp, err := net.Listen("tcp4", at.String())
	require.NoError(tb, err)
	relays := func() pionturn.RelayAddressGenerator {
		return &pionturn.RelayAddressGeneratorStatic{RelayAddress: net.IPv4(127, 0, 0, 1), Address: "127.0.0.1"}
	}
	timed := pionturn.LongTermTURNRESTAuthHandler(relaySecret, pionLog{log: discardLog()})
	s, err := pionturn.NewServer(pionturn.ServerConfig{
		Realm: "vias", LoggerFactory: pionLog{log: discardLog()},
		AuthHandler: func(ra *pionturn.RequestAttributes) (string, []byte, bool) {
			if ra.Username == "user" {
				return ra.Username, pionturn.GenerateAuthKey(ra.Username, ra.Realm, "password"), true
			}
			return timed(ra)
		},
		PacketConnConfigs: []pionturn.PacketConnConfig{{PacketConn: udp, RelayAddressGenerator: relays()}},
		ListenerConfigs:   []pionturn.ListenerConfig{{Listener: tcp, RelayAddressGenerator: relays()}},
	})
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = s.Close() })
	return at
}

func static(at netip.AddrPort) Relay {
	return Relay{URL: "turn:" + at.String(), Username: "user", Password: "password"}
}

func TestRelayConfig(t *testing.T) {
	n := newTestNet()
	for url, want := range map[string]string{
		"turn:relay.example:3478": "", "turn:relay.example": "", "turn:relay.example?transport=tcp": "",
		"turns:relay.example:5349": "", "turn:[2001:db8::1]:3478": "",
		"stun:relay.example:3478": "neither turn: nor turns:", "http://x": "Config.Relays", "": "Config.Relays",
		"turns:relay.example?transport=udp": "neither turn: nor turns:",
	} {
		c := n.config
		c.Relays = []Relay{{URL: url, Username: "u", Password: "p"}}
		if err := c.complete(); want == "" {
			require.NoError(t, err, url)
		} else {
			require.ErrorContains(t, err, want, url)
		}
	}
	c := n.config
	c.Relays = []Relay{{URL: "turn:relay.example"}}
	require.ErrorContains(t, c.complete(), "no credentials")
}

// TestRelayPriority: of a server's transports UDP is used where it works. (That it is so over
// NATs, package internal/lab/nat tells.)
func TestRelayPriority(t *testing.T) {
	last := uint32(reflexivePriority)
	for _, url := range []string{"turn:192.0.2.1", "turn:192.0.2.1?transport=tcp", "turns:192.0.2.1"} {
		u, err := (&Relay{URL: url, Username: "u", Password: "p"}).parse()
		require.NoError(t, err)
		require.Less(t, relayPriority(u), last, url)
		last = relayPriority(u)
	}
}

// TestRelayOfAnotherFamily: a handshake that comes by a relay finds its session, also where our
// own addresses reach nobody of the peer's family.
func TestRelayOfAnotherFamily(t *testing.T) {
	n := newTestNet()
	n.config.Relays = []Relay{static(serveTURN(t))}
	six := n.config
	six.Listen = netip.MustParseAddrPort("[::1]:0")
	a := openTransport(t, Open(six), overlaytest.NewIdentity(t), nil)
	b := openTransport(t, Open(n.config), overlaytest.NewIdentity(t), nil)
	l, r := connect(t, a, b)
	require.Equal(t, overlay.PathRelay, l.Path().Kind)
	require.Equal(t, overlay.PathRelay, r.Path().Kind)
	exchange(t, l, r, "there")
	exchange(t, r, l, "and back")
}

func TestRelayCheck(t *testing.T) {
	at := serveTURN(t)
	for name, r := range map[string]Relay{
		"static": static(at),
		"tcp":    {URL: "turn:" + at.String() + "?transport=tcp", Username: "user", Password: "password"},
		"timed":  {URL: "turn:" + at.String(), Credentials: TimedCredentials(relaySecret, "node", time.Minute)},
	} {
		a, err := r.Check(testContext(t))
		require.NoError(t, err, name)
		require.True(t, a.IsValid(), name)
	}
	for name, r := range map[string]Relay{
		"wrong password": {URL: "turn:" + at.String(), Username: "user", Password: "wrong"},
		"expired":        {URL: "turn:" + at.String(), Credentials: TimedCredentials(relaySecret, "node", -time.Minute)},
		"no credentials": {URL: "turn:" + at.String(), Credentials: func(context.Context) (string, string, error) { return "", "", errors.New("none") }},
		"nobody there":   {URL: "turn:127.0.0.1:9?transport=tcp", Username: "user", Password: "password"},
	} {
		_, err := r.Check(testContext(t))
		require.Error(t, err, name)
	}
}

// relayedPair is two Links over a relay, between Transports whose sockets do not reach each
// other until the function that is returned is called.
func relayedPair(t *testing.T, r Relay, change func(*Config)) (l, x *link, heal func()) {
	n := newTestNet()
	n.config.Relays = []Relay{r}
	if change != nil {
		change(&n.config)
	}
	a := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	b := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	n.cut(a.self, b.self, true)
	l, x = connect(t, a, b)
	return l, x, func() { n.cut(a.self, b.self, false) }
}

// TestRelay: where no direct path works frames go by a relay, in data records and in DTLS
// records, and when one works it is found, under traffic, and nothing is lost.
func TestRelay(t *testing.T) {
	at := serveTURN(t)
	for name, c := range map[string]struct {
		relay    Relay
		dtlsOnly bool
	}{
		"udp":        {static(at), false},
		"tcp, timed": {Relay{URL: "turn:" + at.String() + "?transport=tcp", Credentials: TimedCredentials(relaySecret, "n", time.Minute)}, false},
		"dtls":       {static(at), true},
	} {
		t.Run(name, func(t *testing.T) {
			l, r, heal := relayedPair(t, c.relay, func(config *Config) { config.DTLSOnly = c.dtlsOnly })
			require.Equal(t, overlay.PathRelay, l.Path().Kind)
			require.Equal(t, overlay.PathRelay, r.Path().Kind)
			require.Equal(t, l.Path().Local, r.Path().Remote)
			require.Equal(t, r.Path().Local, l.Path().Remote)
			awaitMTU(t, defaultUnderlayMTU-headerIPv4-channelOverhead-recordOverhead, l, r)
			exchange(t, l, r, "there")
			exchange(t, r, l, "and back")
			if !c.dtlsOnly {
				sealed(t, l, r)
			}
			exchange(t, l, r, string(make([]byte, l.Path().MTU)))
			end := stream(t, l, r, 1) // the embedded server is slow
			start := time.Now()
			heal()
			until(t, "the path is direct", func() bool {
				return l.Path().Kind == overlay.PathHost && r.Path().Kind == overlay.PathHost
			})
			t.Logf("direct after %v", time.Since(start).Round(time.Millisecond))
			until(t, "the relays are given back", func() bool {
				l.session.mu.Lock()
				defer l.session.mu.Unlock()
				return len(l.session.generations) == 1
			})
			sent, got := end()
			until(t, "all of it, but for the queues of a busy machine", func() bool { return sent-got.Load() <= sent/100 })
			d := r.session.transport.Stats().Drops
			require.Zero(t, d.Forged+d.Epoch)
			require.EqualValues(t, 2, l.Stats().Paths)
		})
	}
}

// TestAloneOnRelay: an acceptor that is on the relay when the dialler is not any more leaves it too.
func TestAloneOnRelay(t *testing.T) {
	l, r, heal := relayedPair(t, static(serveTURN(t)), nil)
	require.Equal(t, []bool{true, false}, []bool{l.session.dialler, r.session.dialler})
	// As after an upgrade whose other end failed.
	direct := &route{Path: overlay.Path{Kind: overlay.PathHost, Local: l.session.transport.socket.addr, Remote: r.session.transport.socket.addr}}
	direct.limit(&l.session.transport.config)
	l.session.path.Store(direct)
	heal()
	exchange(t, l, r, "directly")
	exchange(t, r, l, "by the relay")
	require.Equal(t, overlay.PathRelay, r.Path().Kind)
	until(t, "both are direct", func() bool {
		return l.Path().Kind == overlay.PathHost && r.Path().Kind == overlay.PathHost
	})
	exchange(t, r, l, "directly")
}

// TestAwaited: an acceptor waits for longer than a dialler does, whose attempts fail.
func TestAwaited(t *testing.T) {
	var a awaited
	now, number := time.Now(), uint32(3)
	wait := upgradeFirst
	for next := now.Add(wait); now.Before(next.Add(10 * time.Minute)); now = now.Add(pingInterval) {
		if number < 20 && !now.Before(next) {
			number++
			wait = min(2*wait, upgradeLast)
			next = now.Add(wait)
		}
		require.False(t, a.late(now, number) && number < 20, "attempt %d", number)
	}
	began := now
	for !a.late(now, number) {
		now = now.Add(pingInterval)
	}
	require.LessOrEqual(t, now.Sub(began), upgradeLast+upgradeSlack+pingInterval)
}

// TestFallToRelay: a direct path that goes away is left for a relay while the Link lives.
func TestFallToRelay(t *testing.T) {
	n := newTestNet()
	n.config.Relays, n.config.lossTime = []Relay{static(serveTURN(t))}, 10*time.Second
	a := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	b := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	l, r := connect(t, a, b)
	require.Equal(t, overlay.PathHost, l.Path().Kind)
	exchange(t, l, r, "direct")
	start := time.Now()
	n.cut(a.self, b.self, true)
	exchange(t, l, r, "by the relay")
	t.Logf("by the relay after %v", time.Since(start).Round(time.Millisecond))
	require.Equal(t, overlay.PathRelay, l.Path().Kind)
	exchange(t, r, l, "and back")
}

// FuzzRelay: whatever comes from where the server is, the client lives on.
func FuzzRelay(f *testing.F) {
	c, err := pionturn.NewClient(&pionturn.ClientConfig{
		TURNServerAddr: "192.0.2.1:3478", Username: "u", Password: "p",
		Conn: stuck{make(chan struct{})}, LoggerFactory: pionLog{log: discardLog()},
	})
	require.NoError(f, err)
	f.Cleanup(c.Close)
	data, err := stun.Build(stun.TransactionID, stun.NewType(stun.MethodData, stun.ClassIndication),
		&stun.XORMappedAddress{IP: net.IPv4(192, 0, 2, 7), Port: 4711})
	require.NoError(f, err)
	f.Add(data.Raw)
	f.Add([]byte{0x40, 0, 0, 4, 1, 2, 3, 4})
	f.Add([]byte{})
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = c.HandleInbound(b, c.TURNServerAddr()) })
}

// FuzzMapped: whatever a STUN server answers.
func FuzzMapped(f *testing.F) {
	from := netip.MustParseAddrPort("192.0.2.1:3478")
	request, err := stun.Build(stun.TransactionID, stun.BindingRequest)
	require.NoError(f, err)
	for _, ip := range []net.IP{net.IPv4(192, 0, 2, 7), net.ParseIP("2001:db8::1")} {
		reply, err := stun.Build(request, stun.BindingSuccess, &stun.XORMappedAddress{IP: ip, Port: 4711})
		require.NoError(f, err)
		f.Add(reply.Raw)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := newMappedAddresses(nil, nil)
		msg := &stun.Message{Raw: b}
		if msg.Decode() != nil {
			return
		}
		q := query{from, make(chan netip.AddrPort, 1)}
		m.pending[msg.TransactionID] = q
		require.True(t, m.response(from, msg))
		select {
		case a := <-q.answer:
			require.True(t, a.IsValid())
			require.NotZero(t, a.Port())
		default:
		}
	})
}

// TestNoSessionIsSTUN: TURN's client would take what has STUN's cookie there for STUN.
func TestNoSessionIsSTUN(t *testing.T) {
	s, _ := newTestSocket(t, Config{})
	x := &session{}
	ids := []uint32{record.Cookie, 0, 7}
	s.add(x, func() (id uint32) { id, ids = ids[0], ids[1:]; return id })
	require.EqualValues(t, 7, x.cid)
}
