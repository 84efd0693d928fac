package icedtls

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
)

func offerMessage(from, to overlay.PeerID) *message {
	id := newSessionID()
	return &message{
		Version: messageVersion, Kind: kindOffer, From: from[:], To: to[:], Session: id[:],
		Time: time.Now().UnixMilli(), Ufrag: "abcdefgh", Pwd: "0123456789012345678901",
		Candidates: []candidate{
			{Kind: candidateHost, Addr: []byte{10, 0, 0, 1}, Port: 4000, Priority: 1},
			{Kind: candidateReflexive, Addr: make([]byte, 16), Port: 4001, Priority: 2},
		},
	}
}

func TestMessage(t *testing.T) {
	id := overlaytest.NewIdentity(t)
	s, err := newSigner(id)
	require.NoError(t, err)
	m := offerMessage(id.ID(), overlay.PeerID{1})
	b, err := s.seal(m)
	require.NoError(t, err)
	require.Less(t, len(b), 600, "offers are small")
	e, back, err := s.parse(b)
	require.NoError(t, err)
	require.Equal(t, m, back)
	require.NoError(t, e.verify(id.ID()))
	require.ErrorIs(t, e.verify(overlaytest.NewIdentity(t).ID()), errWrongKey)
	e.Body[len(e.Body)-1] ^= 1
	require.ErrorIs(t, e.verify(id.ID()), errWrongKey)
}

func TestMessageRejects(t *testing.T) {
	id := overlaytest.NewIdentity(t)
	s, err := newSigner(id)
	require.NoError(t, err)
	for name, spoil := range map[string]func(m *message){
		"version":        func(m *message) { m.Version = 9 },
		"kind":           func(m *message) { m.Kind = 9 },
		"from":           func(m *message) { m.From = m.From[1:] },
		"to":             func(m *message) { m.To = nil },
		"session":        func(m *message) { m.Session = append(m.Session, 1) },
		"no ufrag":       func(m *message) { m.Ufrag = "" },
		"long ufrag":     func(m *message) { m.Ufrag = string(make([]byte, maxCredential+1)) },
		"short password": func(m *message) { m.Pwd = "short" },
		"port 0":         func(m *message) { m.Candidates[0].Port = 0 },
		"address":        func(m *message) { m.Candidates[0].Addr = []byte{1, 2, 3} },
		"type":           func(m *message) { m.Candidates[0].Kind = 7 },
		"too many":       func(m *message) { m.Candidates = make([]candidate, maxCandidates+1) },
		"refusal":        func(m *message) { m.Kind = kindRefusal },
		"prompt":         func(m *message) { m.Kind = kindPrompt },
		"generation":     func(m *message) { m.Generation = 1 },
		"no generation":  func(m *message) { m.Kind = kindRestart },
		"bare refusal": func(m *message) {
			*m = message{Version: m.Version, Kind: kindRefusal, From: m.From, To: m.To, Session: m.Session, Credential: []byte{1}}
		},
		"candidates": func(m *message) { m.Kind = kindCandidates },
		"credential": func(m *message) { m.Credential = make([]byte, overlay.MaxCredential+1) },
	} {
		t.Run(name, func(t *testing.T) {
			m := offerMessage(id.ID(), overlay.PeerID{1})
			spoil(m)
			b, err := s.seal(m)
			require.NoError(t, err)
			_, _, err = s.parse(b)
			require.ErrorIs(t, err, errMalformed)
		})
	}
	_, _, err = s.parse(make([]byte, overlay.MaxSignal+1))
	require.ErrorIs(t, err, errMalformed)
}

func FuzzMessage(f *testing.F) {
	id, err := overlay.NewIdentity()
	require.NoError(f, err)
	s, err := newSigner(id)
	require.NoError(f, err)
	for kind := kindOffer; kind <= kindPrompt; kind++ {
		m := offerMessage(id.ID(), overlay.PeerID{1})
		if m.Kind = kind; kind == kindRefusal || kind == kindPrompt {
			m.Candidates = nil
		}
		if kind == kindRefusal || kind == kindPrompt || kind == kindCandidates {
			m.Ufrag, m.Pwd = "", ""
		}
		if kind > kindCandidates {
			m.Generation = 1
		}
		b, err := s.seal(m)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Add([]byte{0x83})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, m, err := s.parse(b)
		if err != nil {
			return
		}
		_ = e.verify(overlay.PeerID(m.From))
		require.LessOrEqual(t, len(remoteCandidates(m.Candidates, &Config{})), maxCandidates)
	})
}

func TestUsable(t *testing.T) {
	for a, want := range map[string]bool{
		"10.0.0.1": true, "8.8.8.8": true, "fd00::1": true, "2001:db8::1": true,
		"0.0.0.0": false, "::": false, "224.0.0.1": false, "ff02::1": false, "255.255.255.255": false,
		"169.254.1.1": false, "fe80::1": false, "127.0.0.1": false, "::1": false,
	} {
		require.Equal(t, want, usable(netip.MustParseAddr(a), false), a)
	}
	require.True(t, usable(netip.MustParseAddr("127.0.0.1"), true))
	require.True(t, usable(netip.MustParseAddr("::1"), true))
}

func newTestSocket(t testing.TB, c Config) (*socket, *drops) {
	t.Helper()
	var dropped drops
	c.Listen = netip.MustParseAddrPort("127.0.0.1:0")
	s, err := openSocket(&c, &dropped)
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.read()
	}()
	t.Cleanup(func() {
		_ = s.udp.Close()
		<-done
	})
	return s, &dropped
}

// FuzzDispatch: whatever comes to the socket, the reader lives on.
func FuzzDispatch(f *testing.F) {
	var dropped drops
	c := Config{Listen: netip.MustParseAddrPort("127.0.0.1:0")}
	s, err := openSocket(&c, &dropped)
	require.NoError(f, err)
	f.Cleanup(func() { _ = s.udp.Close() })
	x := &session{records: newPacketConn(s.addr, 4, s.pool, &dropped, nil)}
	g := &generation{session: x, ufrag: "abcd", stun: map[netip.Addr]*packetConn{}, sources: sources{socket: s}}
	g.stun[s.addr.Addr()] = newPacketConn(s.addr, 4, s.pool, &dropped, nil)
	s.add(x, func() uint32 { return 0x01020304 })
	s.addGeneration(g)
	peer := netip.MustParseAddrPort("127.0.0.1:9")
	s.meet(g, peer)
	req, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.NewUsername("abcd:efgh"))
	require.NoError(f, err)
	f.Add(req.Raw)
	f.Add([]byte{25, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 0, 0})
	f.Add([]byte{22, 0xfe, 0xfd})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		buf := s.pool.get()
		buf.n, buf.from = copy(buf.data, b), peer
		if s.dispatch(buf, new(stun.Message)) != causeNone {
			s.pool.put(buf)
		}
	})
}

// TestMappedAddress asks a STUN server that repeats itself, and one that is mute.
func TestMappedAddress(t *testing.T) {
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer server.Close()
	mute, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer mute.Close()
	var asked atomic.Int32
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := server.ReadFromUDP(b)
			if err != nil {
				return
			}
			m := &stun.Message{Raw: bytes.Clone(b[:n])}
			if m.Decode() != nil || asked.Add(1) == 1 { // the first one is lost
				continue
			}
			reply, err := stun.Build(m, stun.BindingSuccess, &stun.XORMappedAddress{IP: net.IPv4(192, 0, 2, 7), Port: 4711})
			if err != nil {
				return
			}
			_, _ = server.WriteToUDP(reply.Raw, from)
			_, _ = server.WriteToUDP(reply.Raw, from)
		}
	}()
	s, _ := newTestSocket(t, Config{STUN: []string{server.LocalAddr().String(), mute.LocalAddr().String(), "no port"}})
	want := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.7:4711")}
	require.Equal(t, want, s.mapped.get(testContext(t)))
	before := asked.Load()
	require.Equal(t, want, s.mapped.get(testContext(t)))
	require.Equal(t, before, asked.Load(), "a fresh answer is not asked for again")
	require.Empty(t, s.mapped.pending)
}

func TestPacketConn(t *testing.T) {
	var dropped drops
	pool := newBufferPool(100)
	local := netip.MustParseAddrPort("127.0.0.1:1")
	c := newPacketConn(local, 1, pool, &dropped, func(b []byte, _ netip.AddrPort) (int, error) { return len(b), nil })
	p := make([]byte, 100)
	read := func() error { _, _, err := c.ReadFrom(p); return err }
	require.NoError(t, c.SetReadDeadline(time.Unix(0, 1)))
	require.ErrorIs(t, read(), os.ErrDeadlineExceeded)
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Millisecond)))
	require.ErrorIs(t, read(), os.ErrDeadlineExceeded)
	require.NoError(t, c.SetReadDeadline(time.Time{}))
	for i := range byte(2) {
		b := pool.get()
		b.n = copy(b.data, []byte{i})
		c.put(b)
	}
	require.EqualValues(t, 1, dropped.snapshot().Full)
	require.NoError(t, read())
	require.Zero(t, p[0])
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	require.ErrorIs(t, read(), io.EOF)
	_, err := c.WriteTo(p, c.LocalAddr())
	require.ErrorIs(t, err, io.ErrClosedPipe)
}

// TestDatagramMTU: the longest datagram fills the underlay's packet to the byte, in a DTLS
// record: data records cost less.
func TestDatagramMTU(t *testing.T) {
	for _, underlay := range []int{minUnderlayMTU, defaultUnderlayMTU, maxUnderlayMTU} {
		n := newTestNet()
		c := n.config
		c.UnderlayMTU, c.DTLSOnly = underlay, true
		var longest atomic.Int64
		c.drop = func(b []byte, _ netip.AddrPort) bool {
			longest.Store(max(longest.Load(), int64(len(b))))
			return false
		}
		a := openTransport(t, Open(c), overlaytest.NewIdentity(t), nil)
		b := openTransport(t, Open(c), overlaytest.NewIdentity(t), nil)
		l, r := connect(t, a, b)
		awaitMTU(t, underlay-headerIPv4-recordOverhead, l, r)
		longest.Store(0)
		batch := tap.NewBatch(1, 65536)
		batch.Append(make([]byte, l.Path().MTU), tap.Offload{})
		require.NoError(t, l.SendBatch(batch))
		stop := context.AfterFunc(testContext(t), func() { _ = r.Close() })
		require.NoError(t, r.RecvBatch(batch), "the datagram was lost")
		stop()
		require.Len(t, batch.Frame(0), l.Path().MTU)
		require.EqualValues(t, underlay-headerIPv4, longest.Load())
	}
}

func TestRTT(t *testing.T) {
	n := newTestNet()
	a := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	b := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	l, r := connect(t, a, b)
	until(t, "no RTT", func() bool { return l.Path().RTT > 0 && r.Path().RTT > 0 })
	require.Less(t, l.Path().RTT, time.Second)
	require.Equal(t, overlay.PathHost, l.Path().Kind)
}

func TestRemembered(t *testing.T) {
	r := newRemembered(2)
	ids := []sessionID{{1}, {2}, {3}}
	r.add(ids[0])
	r.add(ids[0])
	r.add(ids[1])
	require.True(t, r.has(ids[0]) && r.has(ids[1]))
	r.add(ids[2])
	require.False(t, r.has(ids[0]))
	require.True(t, r.has(ids[1]) && r.has(ids[2]))
	require.Len(t, r.set, 2)
}

func benchLinks(b *testing.B) (l, r *link) {
	n := newTestNet()
	return connect(b,
		openTransport(b, Open(n.config), overlaytest.NewIdentity(b), nil),
		openTransport(b, Open(n.config), overlaytest.NewIdentity(b), nil))
}

// BenchmarkSendRecv moves batches of 32 datagrams of 1,400 bytes over loopback; a
// batch is sent when the one before has arrived. One that is lost ends it.
func BenchmarkSendRecv(b *testing.B) {
	l, r := benchLinks(b)
	// A new Link drops frames that are longer than every path takes, until longer probes are answered.
	for end := testContext(b); l.Path().MTU < 1400; {
		require.NoError(b, end.Err(), "the path's MTU was not found")
		exchange(b, l, r, "probe")
		exchange(b, r, l, "probe")
	}
	stalled := time.AfterFunc(time.Minute, func() { _ = r.Close() }) // go test has no time-out for benchmarks
	defer stalled.Stop()
	out, in := tap.NewBatch(32, 32*1500), tap.NewBatch(64, 64*1500)
	frame := make([]byte, 1400)
	b.SetBytes(32 * 1400)
	b.ReportAllocs()
	for b.Loop() {
		out.Reset()
		for range 32 {
			out.Append(frame, tap.Offload{})
		}
		if err := l.SendBatch(out); err != nil {
			b.Fatal(err)
		}
		for n := 0; n < 32; n += in.Len() {
			if err := r.RecvBatch(in); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkDial is signalling, ICE and DTLS together.
func BenchmarkDial(b *testing.B) {
	n := newTestNet()
	x := openTransport(b, Open(n.config), overlaytest.NewIdentity(b), nil)
	y := openTransport(b, Open(n.config), overlaytest.NewIdentity(b), nil)
	b.ReportAllocs()
	for b.Loop() {
		l, r := connect(b, x, y)
		_ = l.Close()
		_ = r.Close()
	}
}
