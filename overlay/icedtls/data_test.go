package icedtls

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/icedtls/internal/record"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
)

// linkPair is two links over drop, which may be nil.
func linkPair(t testing.TB, change func(*Config)) (l, r *link) {
	n := newTestNet()
	c := n.config
	if change != nil {
		change(&c)
	}
	return connect(t,
		openTransport(t, Open(c), overlaytest.NewIdentity(t), nil),
		openTransport(t, Open(n.config), overlaytest.NewIdentity(t), nil))
}

func sealing(l *link) bool { return l.data.use.Load() != nil }

func sealed(t testing.TB, links ...*link) {
	until(t, "data records are in use", func() bool {
		for _, l := range links {
			if !sealing(l) {
				return false
			}
		}
		return true
	})
}

func TestDataRecords(t *testing.T) {
	l, r := linkPair(t, nil)
	exchange(t, l, r, "by DTLS, or not")
	sealed(t, l, r)
	n := l.data.use.Load().sealer.Sealed()
	exchange(t, l, r, "sealed")
	exchange(t, r, l, "x") // short ones are opened elsewhere
	require.Greater(t, l.data.use.Load().sealer.Sealed(), n)
	until(t, "a round trip was timed", func() bool { return l.Path().RTT > 0 })
}

// TestDTLSOnly: one end that wants it is enough.
func TestDTLSOnly(t *testing.T) {
	l, r := linkPair(t, func(c *Config) { c.DTLSOnly = true })
	until(t, "the other end has said hello", func() bool { return r.said.Load() > 0 && l.heard.Load() > 0 })
	exchange(t, l, r, "there")
	exchange(t, r, l, "and back")
	require.False(t, sealing(l) || sealing(r))
}

// TestPathWithoutDataRecords: what only the path refuses is found out before any frame
// depends on it, in either direction.
func TestPathWithoutDataRecords(t *testing.T) {
	for name, both := range map[string]bool{"both ways": true, "one way": false} {
		t.Run(name, func(t *testing.T) {
			var bad atomic.Uint32 // the session to which none comes: the first that is seen
			var dropped atomic.Int64
			l, r := linkPair(t, func(c *Config) {
				c.drop = func(d []byte, _ netip.AddrPort) bool {
					h, ok := record.Parse(d)
					if !ok || !both && !bad.CompareAndSwap(0, h.Session) && bad.Load() != h.Session {
						return false
					}
					dropped.Add(1)
					return true
				}
			})
			until(t, "records were dropped", func() bool { return dropped.Load() > 3 })
			exchange(t, l, r, "there")
			exchange(t, r, l, "and back")
			require.False(t, sealing(l) && sealing(r))
			require.Equal(t, !both, sealing(l) || sealing(r))
		})
	}
}

// TestReplayedRecord: a record that comes again is dropped, and so is one that was changed.
func TestReplayedRecord(t *testing.T) {
	var mu sync.Mutex
	var kept [][]byte
	l, r := linkPair(t, func(c *Config) {
		c.drop = func(d []byte, _ netip.AddrPort) bool {
			mu.Lock()
			defer mu.Unlock()
			if len(d) > 100 && d[0] == record.Type {
				kept = append(kept, bytes.Clone(d))
			}
			return false
		}
	})
	sealed(t, l, r)
	text := string(bytes.Repeat([]byte("once"), 100))
	exchange(t, l, r, text)
	mu.Lock()
	defer mu.Unlock()
	require.NotEmpty(t, kept)
	b := tap.NewBatch(4, 8000)
	for name, c := range map[string]struct {
		change func([]byte) []byte
		count  func(overlay.Drops) uint64
	}{
		"again":         {func(d []byte) []byte { return d }, func(d overlay.Drops) uint64 { return d.Replayed }},
		"changed":       {func(d []byte) []byte { d[50] ^= 1; return d }, func(d overlay.Drops) uint64 { return d.Replayed }}, // that is seen first
		"other counter": {func(d []byte) []byte { d[14]++; return d }, func(d overlay.Drops) uint64 { return d.Forged }},
		"other epoch":   {func(d []byte) []byte { d[1] = 9; return d }, func(d overlay.Drops) uint64 { return d.Epoch }},
		"truncated":     {func(d []byte) []byte { return d[:record.Overhead-1] }, func(d overlay.Drops) uint64 { return d.Truncated }},
		"cut":           {func(d []byte) []byte { d[14]++; return d[:len(d)-1] }, func(d overlay.Drops) uint64 { return d.Forged }},
		"zeroes":        {func(d []byte) []byte { d[2] = 1; return d }, func(d overlay.Drops) uint64 { return d.Truncated }},
	} {
		d := c.change(bytes.Clone(kept[0]))
		before, all, in := r.Stats(), r.session.transport.Stats(), b.Len()
		run := &buffer{data: d, n: len(d), size: len(d), home: newBufferPool(1)}
		require.True(t, r.data.receive(b, run), name)
		require.Equal(t, in, b.Len(), name)
		now := r.Stats()
		require.Equal(t, c.count(before.Drops)+1, c.count(now.Drops), name)
		require.Equal(t, before.Drops.Total()+1, now.Drops.Total(), name)
		require.Equal(t, c.count(all.Drops)+1, c.count(r.session.transport.Stats().Drops), name)
	}
}

// TestOldKernel: where the kernel neither cuts runs of datagrams nor joins them, a bulk is few calls all the
// same, and the Transport tells.
func TestOldKernel(t *testing.T) {
	n := newTestNet()
	n.config.drop, n.config.oldKernel = nil, true
	a := openTransport(t, Open(n.config), overlaytest.NewIdentity(t), nil)
	b := openTransport(t, Open(n.config), overlaytest.NewIdentity(t), nil)
	l, r := connect(t, a, b)
	sealed(t, l, r)
	end := stream(t, l, r, 8)
	until(t, "some hundreds", func() bool { return a.Stats().Socket.Sent > 500 })
	sent, got := end()
	until(t, "all of it, but for the queues of a busy machine", func() bool { return sent == got.Load()+r.Stats().Drops.Full })
	from, to := a.Stats().Socket, b.Stats().Socket
	require.Positive(t, to.Received)
	require.False(t, from.Segmenting || from.Coalescing)
	if runtime.GOOS == "linux" {
		require.Less(t, from.Sends, from.Sent/2)
		require.Less(t, to.Receives, to.Received)
	}
	exchange(t, r, l, "and back")
}

// numbers sends datagrams with the next numbers of one link, so many each millisecond, until
// stop is closed, and tells how many.
func numbers(t *testing.T, l *link, each int, stop <-chan struct{}) (sent uint64) {
	b := tap.NewBatch(8, 8*400)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return sent
		case <-tick.C:
		}
		b.Reset()
		for range each {
			sent++
			b.Append(binary.BigEndian.AppendUint64(make([]byte, 300), sent), tap.Offload{})
		}
		if l.SendBatch(b) != nil {
			return 0
		}
	}
}

// TestRekey: keys change under traffic, and nothing is lost.
func TestRekey(t *testing.T) {
	l, r := linkPair(t, nil)
	sealed(t, l, r)
	client := l
	if l.data.role != record.Client {
		client = r
	}
	end := stream(t, l, r, 8)
	for epoch := uint8(2); epoch < 5; epoch++ {
		client.data.associate(epoch)
		until(t, "the next keys are in use", func() bool {
			return l.data.use.Load().epoch == epoch && r.data.use.Load().epoch == epoch && r.data.tunnel.Load() == nil && l.data.tunnel.Load() == nil
		})
	}
	sent, got := end()
	until(t, "all of it, but for the queues of a busy machine", func() bool { return sent-got.Load() <= sent/100 })
}

// TestRekeyWhenDue: by the number of records.
func TestRekeyWhenDue(t *testing.T) {
	l, r := linkPair(t, func(c *Config) { c.rekeyRecords = 10 })
	sealed(t, l, r)
	if l.data.role != record.Client {
		t.Skip("the other end has another bound") // cannot happen: l dialled
	}
	b := tap.NewBatch(1, 100)
	until(t, "the next keys are in use", func() bool {
		b.Reset()
		b.Append([]byte("frame"), tap.Offload{})
		require.NoError(t, l.SendBatch(b))
		return l.data.use.Load().epoch == 2 && r.data.use.Load().epoch == 2
	})
	exchange(t, l, r, "there")
	exchange(t, r, l, "and back")
}

// TestRekeyFails: a handshake that does not end leaves the keys as they are.
func TestRekeyFails(t *testing.T) {
	l, r := linkPair(t, nil)
	sealed(t, l, r)
	server := r
	if r.data.role != record.Server {
		server = l
	}
	for range 100 { // garbage that only the peer could send
		server.data.tunnelled([]byte{recordTunnel, 2, 22, 1, 2, 3})
	}
	server.data.tunnelled([]byte{recordTunnel})
	server.data.tunnelled([]byte{recordTunnel, 7, 22})
	exchange(t, l, r, "there")
	exchange(t, r, l, "and back")
	require.Equal(t, uint8(1), l.data.use.Load().epoch)
}

// BenchmarkGarbageRecord is what a datagram costs that names a session and does not open.
func BenchmarkGarbageRecord(b *testing.B) {
	l, r := linkPair(b, nil)
	sealed(b, l, r)
	d := make([]byte, 1400)
	d[0], d[1] = record.Type, 1
	binary.BigEndian.PutUint32(d[4:], r.session.cid)
	binary.BigEndian.PutUint64(d[8:], 1000)
	batch, run := tap.NewBatch(4, 8000), &buffer{data: d, n: len(d), size: len(d)}
	b.ReportAllocs()
	for b.Loop() {
		run.at = 0
		r.data.receive(batch, run)
	}
}
