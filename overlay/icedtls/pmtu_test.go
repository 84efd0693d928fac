package icedtls

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay/icedtls/internal/pmtu"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
)

// awaitMTU waits until both ends of a Link may send so much. Probes in data records are opened by
// whoever receives, so it does.
func awaitMTU(t testing.TB, want int, l, r *link) {
	t.Helper()
	found := func() bool { return l.Path().MTU == want && r.Path().MTU == want }
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := testContext(t); !found(); <-tick.C {
		require.NoError(t, end.Err(), "MTU %d and %d, want %d", l.Path().MTU, r.Path().MTU, want)
		exchange(t, l, r, "probe")
		exchange(t, r, l, "probe")
	}
}

// narrow is a path that takes datagrams of so many bytes, from either end.
type narrow struct{ takes atomic.Int64 }

func (x *narrow) drop(d []byte, _ netip.AddrPort) bool { return int64(len(d)) > x.takes.Load() }

// narrowPair is a Link over x, whose ends are configured apart.
func narrowPair(t testing.TB, x *narrow, change func(i int, c *Config)) (l, r *link) {
	n := newTestNet()
	open := func(i int) *Transport {
		c := n.config
		c.drop = x.drop
		if change != nil {
			change(i, &c)
		}
		return openTransport(t, Open(c), overlaytest.NewIdentity(t), nil)
	}
	return connect(t, open(0), open(1))
}

// drain receives until the Link ends, and counts what is as long as it was when last asked.
func drain(l *link) *atomic.Int64 {
	var longest atomic.Int64
	go func() {
		b := tap.NewBatch(64, 64*9000)
		for l.RecvBatch(b) == nil {
			for i := range b.Len() {
				note(&longest, len(b.Frame(i)))
			}
		}
	}()
	return &longest
}

// TestPathMTU: what the path takes is found in data records and in DTLS records; a black hole is
// left, and what opens again is found again.
func TestPathMTU(t *testing.T) {
	for name, dtlsOnly := range map[string]bool{"data": false, "dtls": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := &narrow{}
			x.takes.Store(1400 - headerIPv4)
			l, r := narrowPair(t, x, func(_ int, c *Config) { c.DTLSOnly, c.MTURaise = dtlsOnly, 2*time.Second })
			drain(l)
			got := drain(r)
			is := func(underlay int) func() bool {
				return func() bool { return l.Path().MTU == underlay-headerIPv4-recordOverhead }
			}
			until(t, "the path's MTU", is(1400))
			stop, full := make(chan struct{}), make(chan struct{})
			go func() { // always as long as may be
				defer close(full)
				b := tap.NewBatch(4, 4*9000)
				tick := time.NewTicker(5 * time.Millisecond)
				defer tick.Stop()
				for {
					select {
					case <-stop:
						return
					case <-tick.C:
					}
					b.Reset()
					b.Append(make([]byte, l.Path().MTU), tap.Offload{})
					if l.SendBatch(b) != nil {
						return
					}
				}
			}()
			defer func() { close(stop); <-full }()
			x.takes.Store(1300 - headerIPv4)
			start := time.Now()
			until(t, "the fall", func() bool { return l.Path().MTU <= 1300-headerIPv4-recordOverhead })
			t.Logf("a black hole was left after %v", time.Since(start))
			require.Positive(t, l.Stats().Shrunk)
			got.Store(0)
			until(t, "frames get through", func() bool { return got.Load() > 0 })
			x.takes.Store(9000)
			until(t, "all of it, again", is(defaultUnderlayMTU))
			until(t, "frames of full length", func() bool { return int(got.Load()) == l.Path().MTU })
		})
	}
}

// TestUnequalMTU: ends that are configured apart find each direction's by themselves.
func TestUnequalMTU(t *testing.T) {
	for name, dtlsOnly := range map[string]bool{"data": false, "dtls": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := &narrow{}
			x.takes.Store(9000)
			l, r := narrowPair(t, x, func(i int, c *Config) { c.UnderlayMTU, c.DTLSOnly = []int{4000, minUnderlayMTU}[i], dtlsOnly })
			drain(l)
			got := drain(r)
			least := minUnderlayMTU - headerIPv4 - recordOverhead
			until(t, "more than the other end sends", func() bool { return l.Path().MTU > least+500 })
			require.Equal(t, least, r.Path().MTU)
			until(t, "it arrives", func() bool {
				b := tap.NewBatch(1, 9000)
				b.Append(make([]byte, l.Path().MTU), tap.Offload{})
				require.NoError(t, l.SendBatch(b))
				return int(got.Load()) > least+500
			})
		})
	}
}

// TestProbesAreAnsweredAtARate: not even a peer gets more answers than that, and what is no probe
// gets none.
func TestProbesAreAnsweredAtARate(t *testing.T) {
	l, r := linkPair(t, nil)
	sealed(t, l, r)
	sent := r.Stats().Sent.Datagrams
	for range 2000 {
		r.mtu.probed([]byte{recordProbe, 0, 0, 0, 1})
	}
	require.Less(t, r.Stats().Sent.Datagrams-sent, uint64(1000))
	for _, text := range [][]byte{{recordReport}, {recordReport, 1, 2, 3}, make([]byte, 100)} {
		r.mtu.reported(text)
		r.mtu.probed(text[:1])
	}
}

// FuzzProbe: whatever an authentic peer says about MTUs, in either kind of record.
func FuzzProbe(f *testing.F) {
	l, r := linkPair(f, nil)
	sealed(f, l, r)
	f.Add([]byte{0, 0, 0, 1})
	f.Add(pmtu.Report{Number: 1, Longest: 1400}.Append(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, kind := range []byte{recordProbe, recordReport} {
			l.data.write(append([]byte{kind}, b...))
			l.data.take(append([]byte{kind}, b...), l.data.use.Load())
		}
		require.GreaterOrEqual(t, l.Path().MTU, minUnderlayMTU-headerIPv4-recordOverhead)
		require.LessOrEqual(t, l.Path().MTU, defaultUnderlayMTU-headerIPv4-recordOverhead)
	})
}

// TestPathMTUOfAnother: another path begins with what works anywhere; one as before keeps its size.
func TestPathMTUOfAnother(t *testing.T) {
	c := &Config{UnderlayMTU: 1500}
	make := func(remote string) *route {
		r := &route{}
		r.Remote = netip.MustParseAddrPort(remote)
		r.limit(c)
		return r
	}
	a := make("192.0.2.1:7")
	require.Equal(t, 1280-headerIPv4-recordOverhead, a.mtu())
	a.size.Store(1400)
	b := make("192.0.2.1:7")
	b.resume(a)
	require.EqualValues(t, 1400, b.size.Load())
	b = make("192.0.2.1:8")
	b.resume(a)
	require.Equal(t, 1280-headerIPv4-recordOverhead, b.mtu())
	require.Equal(t, 1280-headerIPv6-recordOverhead, make("[2001:db8::1]:7").mtu())
}
