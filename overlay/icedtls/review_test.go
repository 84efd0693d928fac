package icedtls

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay/icedtls/internal/record"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
)

// dtlsCounter counts DTLS records that a socket sends.
func dtlsCounter(n *atomic.Int64) func([]byte, netip.AddrPort) bool {
	return func(d []byte, _ netip.AddrPort) bool {
		if d[0] == recordWithCID {
			n.Add(1)
		}
		return false
	}
}

// TestHellosEnd: two ends that are done do not answer each other's hellos for ever.
func TestHellosEnd(t *testing.T) {
	var sent atomic.Int64
	l, r := linkPair(t, func(c *Config) { c.drop = dtlsCounter(&sent) })
	sealed(t, l, r)
	l.data.sayHello(l.data.use.Load()) // as a late one does
	exchange(t, l, r, "under way")
	before := sent.Load()
	for range 50 {
		exchange(t, l, r, "there")
		exchange(t, r, l, "and back")
	}
	require.LessOrEqual(t, sent.Load()-before, int64(8))
}

// TestHelloFlood: hellos cost less than they ask for, at any state of the keys.
func TestHelloFlood(t *testing.T) {
	var sent atomic.Int64
	l, r := linkPair(t, func(c *Config) {
		c.drop = func(d []byte, _ netip.AddrPort) bool {
			sent.Add(1)
			return false
		}
	})
	sealed(t, l, r)
	for name, epoch := range map[string]uint8{"in use": 1, "next": 2, "unknown": 7} {
		_, err := l.data.begin(l.conn, 2) // as a rekey that is under way
		require.NoError(t, err)
		before := sent.Load()
		for range 10_000 {
			l.data.hello([]byte{recordHello, helloVersion, epoch, 0, 1, 2, 3, 4})
		}
		require.Less(t, sent.Load()-before, int64(100), name)
	}
	exchange(t, l, r, "there")
	exchange(t, r, l, "and back")
}

// TestBeginInUse: the association of an epoch that is in use by now, by way of an earlier
// one, does not take its keys away.
func TestBeginInUse(t *testing.T) {
	l, r := linkPair(t, nil)
	sealed(t, l, r)
	keys := l.data.open[1]
	for _, epoch := range []uint8{0, 1, 3} {
		_, err := l.data.begin(l.conn, epoch)
		require.ErrorIs(t, err, errEpoch)
	}
	require.Same(t, keys, l.data.open[1])
	require.Nil(t, l.data.open[0])
	exchange(t, r, l, "there")
}

// TestDataSizes: the shortest datagram and the longest, in data records, alone and in a
// batch, and none longer.
func TestDataSizes(t *testing.T) {
	for _, underlay := range []int{minUnderlayMTU, maxUnderlayMTU} {
		var longest atomic.Int64
		n := newTestNet()
		n.config.UnderlayMTU = underlay // at both ends: nobody keeps room for more than its own
		c := n.config
		c.drop = func(d []byte, _ netip.AddrPort) bool {
			longest.Store(max(longest.Load(), int64(len(d))))
			return false
		}
		l, r := connect(t,
			openTransport(t, Open(c), overlaytest.NewIdentity(t), nil),
			openTransport(t, Open(n.config), overlaytest.NewIdentity(t), nil))
		sealed(t, l, r)
		awaitMTU(t, underlay-headerIPv4-recordOverhead, l, r)
		mtu := l.Path().MTU
		longest.Store(0)
		dropped := l.session.transport.Stats().Dropped
		want := map[int]int{1: 2, 2: 1, 8: 1, 9: 1, mtu - 1: 1, mtu: 3}
		b := tap.NewBatch(16, 1<<16)
		for n, times := range want {
			for range times {
				require.True(t, b.Append(make([]byte, n), tap.Offload{}))
			}
		}
		b.Append(make([]byte, mtu+1), tap.Offload{})
		b.Append(nil, tap.Offload{})
		require.NoError(t, l.SendBatch(b))
		require.Equal(t, dropped+2, l.session.transport.Stats().Dropped)
		defer context.AfterFunc(testContext(t), func() { _ = r.Close() })()
		got := map[int]int{}
		for total := 0; total < 9; total += b.Len() {
			require.NoError(t, r.RecvBatch(b))
			for i := range b.Len() {
				got[len(b.Frame(i))]++
			}
		}
		require.Equal(t, want, got)
		require.EqualValues(t, mtu+dataHeadroom+16, longest.Load())
	}
}

// spend has the keys in use seal n records more at most. A key seals 2^28.
func spend(l *link, n uint64) {
	next := reflect.ValueOf(l.data.use.Load().sealer).Elem().FieldByName("next")
	(*atomic.Uint64)(next.Addr().UnsafePointer()).Store(record.MaxRecords - n)
}

// TestSpent: a key that may seal no more does not end the Link: DTLS records carry on.
func TestSpent(t *testing.T) {
	l, r := linkPair(t, nil)
	sealed(t, l, r)
	spend(l, 3)
	b := tap.NewBatch(8, 1<<12)
	for i := range 5 {
		b.Append(make([]byte, 100+i), tap.Offload{})
	}
	require.NoError(t, l.SendBatch(b))
	defer context.AfterFunc(testContext(t), func() { _ = r.Close() })()
	got := map[int]bool{}
	for len(got) < 5 {
		require.NoError(t, r.RecvBatch(b))
		for i := range b.Len() {
			got[len(b.Frame(i))] = true
		}
	}
	exchange(t, l, r, "there")
	exchange(t, r, l, "and back")
	require.LessOrEqual(t, l.data.use.Load().sealer.Sealed(), uint64(record.MaxRecords))
}

// TestPingBehindRun: a ping that arrived as the last of a run is answered, even though
// nobody receives.
func TestPingBehindRun(t *testing.T) {
	l, r := linkPair(t, nil)
	sealed(t, l, r)
	keys, run := l.data.use.Load(), r.session.transport.socket.runs.get()
	run.size = 1400
	seal := func(text []byte, n int) {
		mem := make([]byte, n)
		copy(mem[record.HeaderLen:], text)
		l.data.mu.Lock()
		d, err := keys.sealer.Seal(mem, record.HeaderLen, n-record.Overhead)
		l.data.mu.Unlock()
		require.NoError(t, err)
		run.n += copy(run.data[run.n:], d)
	}
	for range 4 {
		seal([]byte{recordData}, run.size)
	}
	seal(append([]byte{recordPong}, make([]byte, 8)...), smallRecord)
	r.heard.Store(0)
	s := r.session.transport.socket
	if to := s.ownRun(run); to == nil || !worthWhole(run) || !to.putData(run) {
		s.split(run, new(stun.Message))
	}
	require.Positive(t, r.heard.Load())
	defer context.AfterFunc(testContext(t), func() { _ = r.Close() })()
	b := tap.NewBatch(8, 1<<14)
	for n := 0; n < 4; n += b.Len() {
		require.NoError(t, r.RecvBatch(b))
	}
}

// TestRekeyLossy: a fifth of all datagrams lost, both ways, does not keep keys from being
// changed, and both directions have a way before and after.
func TestRekeyLossy(t *testing.T) {
	var lossy atomic.Bool
	n, random := newTestNet(), &chance{rand: rand.New(rand.NewPCG(3, 4))}
	c := n.config
	c.drop = func([]byte, netip.AddrPort) bool { return lossy.Load() && random.one(5) } // it sends, and what it gets
	l, r := connect(t,
		openTransport(t, Open(c), overlaytest.NewIdentity(t), nil),
		openTransport(t, Open(n.config), overlaytest.NewIdentity(t), nil))
	sealed(t, l, r)
	lossy.Store(true)
	for epoch := uint8(2); epoch < 4; epoch++ {
		until(t, "the next keys are in use", func() bool {
			if l.data.use.Load().epoch < epoch {
				l.data.associate(epoch) // as the next try does, a minute later
			}
			return l.data.use.Load().epoch == epoch && r.data.use.Load().epoch == epoch &&
				l.data.tunnel.Load() == nil && r.data.tunnel.Load() == nil
		})
		exchange(t, l, r, "there")
		exchange(t, r, l, "and back")
	}
}

// TestCloseWhileRekeying: a handshake that gets no answer keeps neither a Link nor the
// Transport from closing, at either end.
func TestCloseWhileRekeying(t *testing.T) {
	before := runtime.NumGoroutine()
	for _, server := range []bool{false, true} {
		for _, whole := range []bool{false, true} {
			l, r := linkPair(t, nil)
			sealed(t, l, r)
			x := l
			if server {
				x = r
			}
			x.data.associate(2)
			require.NotNil(t, x.data.tunnel.Load())
			began := time.Now()
			if whole {
				require.NoError(t, x.session.transport.Close())
			} else {
				require.NoError(t, x.Close())
			}
			until(t, "the handshake ends", func() bool { return x.data.tunnel.Load() == nil })
			require.Less(t, time.Since(began), rekeyBound/2)
			require.NoError(t, l.session.transport.Close())
			require.NoError(t, r.session.transport.Close())
		}
	}
	until(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= before })
}

// TestTunnelFlood: a peer that begins associations as fast as it can is answered by few.
func TestTunnelFlood(t *testing.T) {
	l, r := linkPair(t, nil)
	sealed(t, l, r)
	began := 0
	var last *tunnel
	for i := range 10_000 {
		r.data.tunnelled([]byte{recordTunnel, 2, recordHandshake, byte(i), 2, 3})
		x := r.data.tunnel.Load()
		if x == nil {
			continue
		}
		if x != last {
			began, last = began+1, x
		}
		require.LessOrEqual(t, x.queue.len(), rekeyQueue)
		if i%1000 == 0 { // a peer that ends them, too
			_ = x.Close()
			until(t, "the handshake ends", func() bool { return r.data.tunnel.Load() != x })
		}
	}
	require.Positive(t, began)
	require.LessOrEqual(t, began, 5)
	require.False(t, r.data.renewals.take())
	exchange(t, l, r, "there")
	exchange(t, r, l, "and back")
	require.EqualValues(t, 1, r.data.use.Load().epoch)
}

// FuzzControl: whatever an authenticated peer says about keys, nothing breaks, and the keys
// in use stay.
func FuzzControl(f *testing.F) {
	l, r := linkPair(f, nil)
	sealed(f, l, r)
	f.Add([]byte{recordHello, helloVersion, 1, 0, 1, 2, 3, 4})
	f.Add([]byte{recordHello, helloVersion, 2, helloOpened | helloDone, 1, 2, 3, 4})
	f.Add([]byte{recordTunnel, 2, recordHandshake, 1, 2, 3})
	f.Add(append([]byte{recordTunnel, 2}, dtlsRecord(recordHandshake, 0, 0, fragment(0, "hello"))...))
	f.Add([]byte{recordConfirm})
	f.Add([]byte{recordPong, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, d []byte) {
		for _, x := range []*link{l, r} {
			b := x.session.transport.socket.pool.get()
			if b.n = copy(b.data, d); b.n == 0 || d[0] == recordClose || d[0] == recordData {
				b.home.put(b)
				continue
			}
			x.record(b)
			require.EqualValues(t, 1, x.data.use.Load().epoch)
			require.False(t, x.closed.Load())
		}
	})
}
