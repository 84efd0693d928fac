package icedtls

import (
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/icedtls/internal/record"
	"github.com/viasnet/vias/overlay/icedtls/internal/udpio"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
)

// garbage is a datagram that a stranger could send, and where it is counted.
type garbage struct {
	name     string
	datagram []byte
	count    func(overlay.Drops) uint64
}

// garbageFor is about a session, whose number a stranger has seen.
func garbageFor(tb testing.TB, cid uint32, ufrag string) []garbage {
	truncated := func(d overlay.Drops) uint64 { return d.Truncated }
	foreign := func(d overlay.Drops) uint64 { return d.Foreign }
	unknown := func(d overlay.Drops) uint64 { return d.Unknown }
	data := func(epoch byte, session uint32, counter uint64, n int) []byte {
		d := make([]byte, n)
		d[0], d[1] = record.Type, epoch
		binary.BigEndian.PutUint32(d[4:], session)
		binary.BigEndian.PutUint64(d[8:], counter)
		return d
	}
	dtls := func(session uint32) []byte {
		d := append([]byte{recordWithCID, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 99}, 0, 0, 0, 0, 0, 40)
		binary.BigEndian.PutUint32(d[recordCIDStart:], session)
		return append(d, make([]byte, 40)...)
	}
	plain := dtls(cid)
	plain[4] = 0
	request, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.NewUsername("nobody:x"))
	require.NoError(tb, err)
	anonymous, err := stun.Build(stun.TransactionID, stun.BindingRequest)
	require.NoError(tb, err)
	response, err := stun.Build(stun.TransactionID, stun.BindingSuccess)
	require.NoError(tb, err)
	broken := append([]byte{}, request.Raw...)
	broken[3] += 200 // its length
	return []garbage{
		{"data record, forged", data(1, cid, 1<<20, 1400), func(d overlay.Drops) uint64 { return d.Forged }},
		{"data record, forged, short", data(1, cid, 1<<20, 40), func(d overlay.Drops) uint64 { return d.Forged }},
		{"data record, replayed", data(1, cid, record.MaxRecords, 1400), func(d overlay.Drops) uint64 { return d.Replayed }},
		{"data record, other epoch", data(7, cid, 0, 1400), func(d overlay.Drops) uint64 { return d.Epoch }},
		{"data record, no session", data(1, cid+1, 0, 1400), unknown},
		{"data record, truncated", data(1, cid, 0, record.Overhead-1), truncated},
		{"DTLS, no session", dtls(cid + 1), unknown},
		{"DTLS, truncated", dtls(cid)[:12], truncated},
		{"DTLS, plaintext", plain, func(d overlay.Drops) uint64 { return d.Plaintext }},
		{"handshake of a stranger", []byte{22, 0xfe, 0xfd, 0, 0, 0, 0}, unknown},
		{"STUN request for nobody", request.Raw, unknown},
		{"STUN request without a name", anonymous.Raw, foreign},
		{"STUN response that nobody waits for", response.Raw, unknown},
		{"STUN, broken", broken, truncated},
		{"no STUN", make([]byte, 1400), foreign},
		{"other first byte", append([]byte{255}, make([]byte, 1399)...), foreign},
	}
}

// TestGarbage: whatever strangers send is dropped, each with its cause, and changes nothing.
func TestGarbage(t *testing.T) {
	n := newTestNet()
	a := openTransport(t, Open(n.config), overlaytest.NewIdentity(t), nil)
	b := openTransport(t, Open(n.config), overlaytest.NewIdentity(t), nil)
	l, r := connect(t, a, b)
	sealed(t, l, r)
	end := make(chan struct{})
	defer close(end)
	go func() { // data records are opened by who reads the Link
		in := tap.NewBatch(64, 1<<17)
		for r.RecvBatch(in) == nil {
		}
	}()
	stranger, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(b.socket.addr))
	require.NoError(t, err)
	defer stranger.Close()
	path, key := r.Path(), r.data.use.Load()
	for _, g := range garbageFor(t, r.session.cid, r.session.current.ufrag) {
		before := b.Stats().Drops
		for range 10 {
			_, err := stranger.Write(g.datagram)
			require.NoError(t, err)
		}
		until(t, g.name, func() bool { return g.count(b.Stats().Drops) >= g.count(before)+10 })
		require.Equal(t, before.Total()+10, b.Stats().Drops.Total(), g.name)
	}
	now := r.Path()
	path.RTT, now.RTT, path.MTU, now.MTU = 0, 0, 0, 0 // which may have been measured meanwhile
	require.Equal(t, path, now)
	require.Same(t, key, r.data.use.Load())
	require.EqualValues(t, 1, r.Stats().Paths)
	require.Zero(t, r.session.generationNumber())
	exchange(t, r, l, "still there")
	before := r.Stats().Received.Datagrams
	exchange(t, r, l, "and there")
	until(t, "pings are answered", func() bool { return r.Stats().Received.Datagrams > before })
}

// BenchmarkGarbage is what one datagram of garbage costs behind the kernel, by kind.
func BenchmarkGarbage(b *testing.B) {
	l, r := linkPair(b, nil)
	sealed(b, l, r)
	s := r.session.transport.socket
	in := tap.NewBatch(64, 1<<17)
	msg := new(stun.Message)
	for _, g := range garbageFor(b, r.session.cid, r.session.current.ufrag) {
		b.Run(g.name, func(b *testing.B) {
			run := &buffer{data: g.datagram, n: len(g.datagram), size: len(g.datagram),
				from: netip.MustParseAddrPort("192.0.2.1:9"), home: newBufferPool(1)}
			b.ReportAllocs()
			for b.Loop() {
				s.split(run, msg)
				if d := r.inbox.get(); d != nil { // to be opened by the receiver
					r.waiting.Add(-int64(len(d.data)))
					in.Reset()
					r.data.receive(in, d)
					d.home.put(d)
				}
			}
		})
	}
}

// BenchmarkGarbageFlood is a flood of it through the kernel: per datagram, sending and
// receiving, on however many cores there are.
func BenchmarkGarbageFlood(b *testing.B) {
	n := newTestNet()
	t := openTransport(b, Open(n.config), overlaytest.NewIdentity(b), nil)
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(b, err)
	defer conn.Close()
	out, err := udpio.New(conn, socketBuffer)
	require.NoError(b, err)
	const size, runs = 44, 3
	run := make([][]byte, size)
	for i := range run {
		run[i] = make([]byte, 1400)
		run[i][0], run[i][1] = record.Type, 1
	}
	var seen uint64
	for b.Loop() {
		for range runs { // as many as any kernel keeps for us
			if err := out.Send(run, t.socket.addr); err != nil {
				b.Fatal(err)
			}
		}
		late := time.Now().Add(time.Second)
		for seen += runs * size; t.drops.count[causeUnknown].Load() < seen; runtime.Gosched() {
			if time.Now().After(late) {
				seen = t.drops.count[causeUnknown].Load() // the kernel dropped some
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(size*runs), "ns/datagram")
}
