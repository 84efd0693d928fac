package udpio

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func open(tb testing.TB, network, addr string) (*Conn, netip.AddrPort) {
	tb.Helper()
	udp, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		tb.Skip("no such address here: " + err.Error())
	}
	tb.Cleanup(func() { _ = udp.Close() })
	_ = udp.SetReadBuffer(4 << 20)
	c, err := New(udp, 1<<20)
	require.NoError(tb, err)
	return c, udp.LocalAddr().(*net.UDPAddr).AddrPort()
}

// receive gets n datagrams.
func receive(tb testing.TB, c *Conn, n int) (got [][]byte, from netip.AddrPort) {
	tb.Helper()
	require.NoError(tb, c.udp.SetReadDeadline(time.Now().Add(10*time.Second)))
	buf := make([]byte, BufferSize)
	for len(got) < n {
		k, size, src, err := c.Receive(buf)
		require.NoError(tb, err)
		from = src
		if k == 0 {
			got = append(got, nil)
		}
		for off := 0; off < k; off += size {
			got = append(got, bytes.Clone(buf[off:min(off+size, k)]))
		}
	}
	return got, from
}

func datagrams(sizes ...int) (list [][]byte) {
	for i, n := range sizes {
		list = append(list, bytes.Repeat([]byte{byte(i + 1)}, n))
	}
	return list
}

func repeat(size, n int, more ...int) []int {
	var out []int
	for range n {
		out = append(out, size)
	}
	return append(out, more...)
}

func TestRun(t *testing.T) {
	for _, c := range []struct {
		sizes []int
		want  int
	}{
		{[]int{100}, 1},
		{[]int{100, 100, 50, 50}, 3},
		{[]int{100, 101}, 1},
		{[]int{100, 50, 100}, 2},
		{repeat(1400, 60), MaxBytes / 1400},
		{repeat(10, 100), MaxRun},
		{[]int{65507, 1}, 1},
		{[]int{0, 0}, 1}, // a segment of 0 bytes means none to the kernel
		{[]int{5, 0, 5}, 1},
		{nil, 0},
	} {
		require.Equal(t, c.want, Run(c.sizes), c.sizes)
	}
}

func TestSendAndReceive(t *testing.T) {
	for _, family := range []struct{ name, network, addr, to string }{
		{"IPv4", "udp4", "127.0.0.1:0", "127.0.0.1"},
		{"IPv6", "udp6", "[::1]:0", "::1"},
		{"IPv4 on an IPv6 socket", "udp", "[::]:0", "127.0.0.1"},
	} {
		t.Run(family.name, func(t *testing.T) {
			a, from := open(t, family.network, family.addr)
			b, at := open(t, family.network, family.addr)
			host := netip.MustParseAddr(family.to)
			for _, sizes := range [][]int{
				{1}, {1400}, {65507}, {0}, repeat(1400, 44, 700), repeat(1200, 100, 1200, 3, 900, 900, 1000), {1, 2, 3, 3, 3, 2, 2, 1},
			} {
				sent := datagrams(sizes...)
				require.NoError(t, a.Send(sent, netip.AddrPortFrom(host, at.Port())))
				got, src := receive(t, b, len(sent))
				require.Equal(t, netip.AddrPortFrom(host, from.Port()), src)
				require.Len(t, got, len(sent))
				for i := range sent {
					require.True(t, bytes.Equal(sent[i], got[i]), "%v: datagram %d has %d bytes", sizes, i, len(got[i]))
				}
			}
			s := a.Stats()
			require.Zero(t, s.Lost)
			require.Equal(t, s.Sent, b.Stats().Received)
			if s.Segmenting {
				require.Less(t, s.Sends, s.Sent/5)
			}
			if b.Stats().Coalescing {
				require.Less(t, b.Stats().Receives, s.Sent/5)
			}
		})
	}
}

// TestRefused: a run that the kernel does not cut goes out one by one, and only many of them
// end the trying.
func TestRefused(t *testing.T) {
	a, _ := open(t, "udp4", "127.0.0.1:0")
	b, at := open(t, "udp4", "127.0.0.1:0")
	if !a.Stats().Segmenting {
		t.Skip("this kernel cuts no runs")
	}
	raw, err := a.udp.SyscallConn()
	require.NoError(t, err)
	checksum := func(off int) {
		require.NoError(t, raw.Control(func(fd uintptr) { require.NoError(t, noChecksum(fd, off)) }))
	}
	sent := datagrams(repeat(1000, 5)...)
	for i := range maxRefused {
		checksum(1) // without checksums no run is cut: EINVAL
		require.NoError(t, a.Send(sent, at))
		got, _ := receive(t, b, len(sent))
		require.Equal(t, sent, got)
		require.Equal(t, i < maxRefused-1, a.Stats().Segmenting, i)
	}
	require.Zero(t, a.Stats().Lost)
}

// TestStepDown: a kernel that does not cut runs gets datagrams one by one, and nothing is lost.
func TestStepDown(t *testing.T) {
	a, _ := open(t, "udp4", "127.0.0.1:0")
	b, at := open(t, "udp4", "127.0.0.1:0")
	a.segments.Store(false)
	sent := datagrams(repeat(1000, 20)...)
	require.NoError(t, a.Send(sent, at))
	got, _ := receive(t, b, len(sent))
	require.Equal(t, sent, got)
	require.Equal(t, uint64(20), a.Stats().Sent)
}

func TestErrors(t *testing.T) {
	a, at := open(t, "udp4", "127.0.0.1:0")
	require.NoError(t, a.Send(datagrams(70000), at), "too long is lost")
	require.NoError(t, a.Send(datagrams(10, 10), netip.MustParseAddrPort("[::1]:9")), "no way there is lost")
	require.Equal(t, uint64(3), a.Stats().Lost)
	require.NoError(t, a.udp.SetReadDeadline(time.Now()))
	_, _, _, err := a.Receive(make([]byte, 10))
	var timeout net.Error
	require.True(t, errors.As(err, &timeout) && timeout.Timeout())
	require.NoError(t, a.udp.Close())
	require.ErrorIs(t, a.Send(datagrams(1), at), net.ErrClosed)
	_, _, _, err = a.Receive(make([]byte, 10))
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestNoAllocs(t *testing.T) {
	a, _ := open(t, "udp4", "127.0.0.1:0")
	b, at := open(t, "udp4", "127.0.0.1:0")
	noAllocs(t, a, b, at)
}

func noAllocs(t *testing.T, a, b *Conn, at netip.AddrPort) {
	sent, buf := datagrams(repeat(1400, 30)...), make([]byte, BufferSize)
	require.LessOrEqual(t, testing.AllocsPerRun(200, func() {
		if a.Send(sent, at) != nil {
			panic("send")
		}
		for got := 0; got < 30; {
			n, size, _, err := b.Receive(buf)
			if err != nil {
				panic(err)
			}
			got += (n + size - 1) / size
		}
	}), 0.0)
}

func BenchmarkSendReceive(b *testing.B) {
	for _, n := range []int{1, 8, 44} {
		b.Run(fmt.Sprintf("run=%d", n), func(b *testing.B) {
			x, _ := open(b, "udp4", "127.0.0.1:0")
			y, at := open(b, "udp4", "127.0.0.1:0")
			sendReceive(b, x, y, at, n)
		})
	}
}

func sendReceive(b *testing.B, x, y *Conn, at netip.AddrPort, n int) {
	sent, buf := datagrams(repeat(1400, n)...), make([]byte, BufferSize)
	b.ReportAllocs()
	b.SetBytes(int64(n * 1400))
	for b.Loop() {
		if x.Send(sent, at) != nil {
			b.Fatal("send")
		}
		for got := 0; got < n; {
			k, size, _, err := y.Receive(buf)
			if err != nil {
				b.Fatal(err)
			}
			got += (k + size - 1) / size
		}
	}
}
