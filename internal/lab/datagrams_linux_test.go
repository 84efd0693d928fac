package lab

import (
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// mangled is a conversation whose datagrams to the server are carried, and spoilt: what
// arrives of a datagram depends on the last byte of its number.
func mangled(t *testing.T, mangle func(nr byte, b []byte) [][]byte) *datagrams {
	t.Helper()
	open := func() *net.UDPConn {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		require.NoError(t, err)
		return c
	}
	a, b := open(), open()
	require.NoError(t, errors.Join(tuneUDP(a), tuneUDP(b)), "nothing else is to lose any")
	dial := func(to *net.UDPConn) *net.UDPConn {
		c, err := net.DialUDP("udp4", nil, to.LocalAddr().(*net.UDPAddr))
		require.NoError(t, err)
		return c
	}
	client, server := dial(a), dial(b)
	done := make(chan struct{}, 2)
	carry := func(from, via, to *net.UDPConn, mangle func(byte, []byte) [][]byte) {
		defer func() { done <- struct{}{} }()
		buf := make([]byte, 2000)
		for {
			n, _, err := from.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			for _, out := range mangle(buf[7], buf[:n]) {
				_, _ = via.WriteToUDP(out, to.LocalAddr().(*net.UDPAddr)) // closed: the test is over
			}
		}
	}
	go carry(a, b, server, mangle)
	go carry(b, a, client, func(_ byte, b []byte) [][]byte { return [][]byte{b} })
	d := converse(client, server, datagramSize)
	t.Cleanup(func() {
		d.abort()
		_, _ = a.Close(), b.Close()
		<-done
		<-done
	})
	return d
}

func TestDatagrams(t *testing.T) {
	flip := func(b []byte) []byte {
		b[500] ^= 1
		return b
	}
	for name, c := range map[string]struct {
		mangle func(nr byte, b []byte) [][]byte
		lost   bool
		err    string
	}{
		"whole": {mangle: func(_ byte, b []byte) [][]byte { return [][]byte{b} }},
		"lost":  {lost: true, mangle: func(nr byte, b []byte) [][]byte { return map[bool][][]byte{false: {b}}[nr == 9] }},
		"twice": {err: "1 again and 0 that", mangle: func(nr byte, b []byte) [][]byte { return [][]byte{b, b}[:1+b2i(nr == 9)] }},
		"flipped": {lost: true, err: "0 again and 1 that", mangle: func(nr byte, b []byte) [][]byte {
			if nr == 9 {
				b = flip(b)
			}
			return [][]byte{b}
		}},
		"cut off": {lost: true, err: "0 again and 1 that", mangle: func(nr byte, b []byte) [][]byte { return [][]byte{b[:len(b)-b2i(nr == 9)]} }},
	} {
		t.Run(name, func(t *testing.T) {
			var ninth atomic.Bool // only the first such number
			d := mangled(t, func(nr byte, b []byte) [][]byte {
				if nr == 9 && ninth.Swap(true) {
					nr++
				}
				return c.mangle(nr, b)
			})
			require.Eventually(t, func() bool { return min(d.tallies()[0].Sent, d.tallies()[1].Sent) > 50 }, 10*time.Second, time.Millisecond)
			got, err := d.finish(t.Context())
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
			} else {
				require.NoError(t, err)
			}
			require.Equal(t, b2i(c.lost), got[0].Sent-got[0].Arrived)
			require.Zero(t, got[1].lost())
		})
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// What measure says is held against what the test itself dropped: no machine is so busy
// that the buffers would not hold the rest, but it may be too busy to send or to carry all
// in time.
func TestDatagramsMeasure(t *testing.T) {
	const every = 8
	d := mangled(t, func(nr byte, b []byte) [][]byte { return map[bool][][]byte{false: {b}}[nr%every == 0] })
	const rate = 2000
	require.Eventually(t, func() bool { return d.tallies()[0].Sent > 50 }, 10*time.Second, time.Millisecond, "before that")
	before, start := d.tallies()[0].Sent, time.Now()
	got, err := d.measure(t.Context(), rate, 300*time.Millisecond)
	took := time.Since(start)
	require.NoError(t, err)
	upTo := func(n int) int { return (n + every - 1) / every } // dropped of the first n
	all := d.tallies()
	dropped := upTo(all[0].Sent) - upTo(all[0].Sent-got[0].Sent)
	require.Positive(t, dropped)
	require.LessOrEqual(t, got[0].Sent, all[0].Sent-before, "not what was sent before")
	for _, way := range got {
		require.Greater(t, way.Sent, 100, "%d a second, on a busy machine", rate)
		require.Less(t, way.Sent, int(rate*took.Seconds())+rate/50)
	}
	lost := got[0].Sent - got[0].Arrived
	require.GreaterOrEqual(t, lost, dropped)
	require.Less(t, lost, dropped+got[0].Sent/4, "most of the others have come by then")
	require.InDelta(t, float64(lost)/float64(got[0].Sent), got[0].lost(), 1e-9)
	require.Less(t, got[1].lost(), 0.25)
	require.Eventually(t, func() bool {
		all := d.tallies()
		return all[0].Sent-all[0].Arrived == upTo(all[0].Sent) && all[1].lost() == 0
	}, 10*time.Second, time.Millisecond, "nothing else is lost: %v", d.tallies())
}
