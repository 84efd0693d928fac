package vias

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/internal/itest"
)

const (
	diffPatience = 60 * time.Second
	diffPort     = 5000
)

// The same random traffic of two kernels arrives the same over a wire and over vias, whose links hold less than
// the workloads' MTU: TCP byte for byte, every datagram and every echo as it was sent.
func TestIntegrationDifferential(t *testing.T) {
	itest.Require(t, "ip")
	for _, mtu := range []int{1500, 9000} {
		t.Run(fmt.Sprintf("MTU=%d", mtu), func(t *testing.T) {
			native := differential(t, mtu, wired(mtu))
			over := differential(t, mtu, tapped(t, mtu))
			require.Equal(t, native, over)
		})
	}
}

// diffHost is one workload: a namespace with an interface g0, the first or the second.
type diffHost struct {
	i          int
	ns, counts *os.File
	udp4, udp6 *net.UDPConn
	ln4, ln6   *net.TCPListener
	ping4      net.PacketConn
	ping6      net.PacketConn
}

func (h *diffHost) addr(v6 bool, i int) netip.Addr {
	if v6 {
		return netip.MustParseAddr("2001:db8::" + strconv.Itoa(i+1))
	}
	return netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})
}

// outcome is what arrived, each as a hash or, where order means nothing, sorted.
type outcome struct {
	UDP     [2][][32]byte // at the first host and at the second
	Streams [8][32]byte
	Echoes  [][32]byte
}

// differential runs the traffic between two fresh hosts.
func differential(t *testing.T, mtu int, l link) (got outcome) {
	hosts := [2]*diffHost{{i: 0}, {i: 1}}
	for i, h := range hosts {
		itest.Namespace(t, func() {
			var err error
			h.ns, err = os.Open("/proc/thread-self/ns/net")
			require.NoError(t, err)
			t.Cleanup(func() { _ = h.ns.Close() })
			l.plug(t, h, hosts[0])
			if i == 0 {
				return // a veth's first end comes with the second
			}
			h.open(t)
		})
	}
	var streams chan stream
	inNamespace(t, hosts[0].ns, func() {
		hosts[0].open(t)
		l.join(t)
		hosts[0].greet(t)
		streams = hosts[0].dial(t, hosts[1])
	})
	r := rand.New(rand.NewPCG(uint64(mtu), 42))
	for from := range hosts {
		got.UDP[1-from] = hosts[from].sendUDP(t, r, hosts[1-from], mtu)
	}
	got.Echoes = hosts[0].echoes(t, r, mtu)
	for range len(got.Streams) {
		s := <-streams
		require.NoError(t, s.err)
		got.Streams[s.index] = s.sum
	}
	for _, h := range hosts {
		h.noErrors(t)
	}
	l.check(t)
	return got
}

// inNamespace runs f in a namespace that exists.
func inNamespace(t *testing.T, ns *os.File, f func()) {
	itest.Namespace(t, func() {
		require.NoError(t, unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET))
		f()
	})
}

// configure gives g0 its addresses.
func (h *diffHost) configure(t *testing.T, mtu int) {
	itest.Exec(t, "ip", "link", "set", "g0", "mtu", strconv.Itoa(mtu), "address", testMAC(h.i).String(), "up")
	itest.Exec(t, "ip", "addr", "add", h.addr(false, h.i).String()+"/24", "dev", "g0")
	itest.Exec(t, "ip", "addr", "add", h.addr(true, h.i).String()+"/64", "dev", "g0", "nodad")
}

// open opens the host's sockets, in its namespace.
func (h *diffHost) open(t *testing.T) {
	listen := func(v6 bool) (*net.UDPConn, *net.TCPListener, net.PacketConn) {
		at := net.UDPAddrFromAddrPort(netip.AddrPortFrom(h.addr(v6, h.i), diffPort))
		u, err := net.ListenUDP("udp", at)
		require.NoError(t, err)
		raw, err := u.SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20)
		}))
		require.NoError(t, err)
		ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: at.IP, Port: diffPort})
		require.NoError(t, err)
		p, err := net.ListenPacket(map[bool]string{false: "ip4:icmp", true: "ip6:ipv6-icmp"}[v6], at.IP.String())
		require.NoError(t, err)
		t.Cleanup(func() { _, _, _ = u.Close(), ln.Close(), p.Close() })
		for _, c := range []interface{ SetDeadline(time.Time) error }{u, ln, p} {
			require.NoError(t, c.SetDeadline(time.Now().Add(diffPatience)))
		}
		return u, ln, p
	}
	h.udp4, h.ln4, h.ping4 = listen(false)
	h.udp6, h.ln6, h.ping6 = listen(true)
	var err error
	h.counts, err = os.Open("/proc/thread-self/net/snmp")
	require.NoError(t, err)
	t.Cleanup(func() { _ = h.counts.Close() })
}

// greet pings until neighbours are known: what is lost before is the kernel's choice.
func (h *diffHost) greet(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		eventually(t, func() bool { return h.echo(t, v6, 0xffff, []byte("hello"), 200*time.Millisecond) != nil })
	}
}

type stream struct {
	index int
	sum   [32]byte
	err   error
}

// dial opens four connections to o, over which both ends send at once.
func (h *diffHost) dial(t *testing.T, o *diffHost) chan stream {
	done := make(chan stream, 8)
	for k := range 4 {
		ln := []*net.TCPListener{o.ln4, o.ln6}[k%2]
		near, err := net.DialTimeout("tcp", ln.Addr().String(), diffPatience)
		require.NoError(t, err)
		far, err := ln.Accept()
		require.NoError(t, err)
		t.Cleanup(func() { _, _ = near.Close(), far.Close() })
		for i, c := range []net.Conn{near, far} {
			require.NoError(t, c.SetDeadline(time.Now().Add(diffPatience)))
			go send(c.(*net.TCPConn), uint64(2*k+i))
			go func() {
				s := stream{index: 2*k + i}
				hash := sha256.New()
				_, s.err = io.Copy(hash, c)
				s.sum = [32]byte(hash.Sum(nil))
				done <- s
			}()
		}
	}
	return done
}

// send writes some megabytes in writes of any size. Whoever reads sees if it failed.
func send(c *net.TCPConn, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 7))
	data := rand.NewChaCha8([32]byte{byte(seed)})
	piece := make([]byte, 100_000)
	for left := 1 + r.IntN(6<<20); left > 0; {
		n := min(left, 1+r.IntN(1<<r.IntN(17)))
		_, _ = data.Read(piece[:n])
		if _, err := c.Write(piece[:n]); err != nil {
			return
		}
		left -= n
	}
	_ = c.CloseWrite()
}

// sendUDP sends datagrams of every size to o, and returns the hashes of those that came.
func (h *diffHost) sendUDP(t *testing.T, r *rand.Rand, o *diffHost, mtu int) (sums [][32]byte) {
	var received atomic.Int64
	arrived := make(chan [][]byte, 2)
	for _, u := range []*net.UDPConn{o.udp4, o.udp6} {
		go func() {
			var list [][]byte
			buffer := make([]byte, 1<<16)
			for {
				n, err := u.Read(buffer)
				if err != nil || n == 0 { // none is empty but the last
					arrived <- list
					return
				}
				list = append(list, slices.Clone(buffer[:n]))
				received.Add(1)
			}
		}()
	}
	var sent [][]byte
	to := [2]netip.AddrPort{netip.AddrPortFrom(o.addr(false, o.i), diffPort), netip.AddrPortFrom(o.addr(true, o.i), diffPort)}
	for k := range 300 {
		size := 1 + r.IntN([]int{100, mtu - 28, mtu + 100, 20_000}[r.IntN(4)])
		piece := size // of one datagram of a super-frame
		if r.IntN(3) == 0 && size > 100 {
			piece = min(size/(1+r.IntN(8))+1, mtu-48)
		}
		payload := make([]byte, size)
		for i := range payload {
			payload[i] = byte(r.Uint32())
		}
		for rest := payload; len(rest) > 0; rest = rest[min(piece, len(rest)):] {
			sent = append(sent, rest[:min(piece, len(rest))])
		}
		h.write(t, payload, piece, to[k%2])
		// A full queue is no fault of vias': let it be emptied.
		eventually(t, func() bool { return int(received.Load())+20 > len(sent) })
	}
	eventually(t, func() bool { return int(received.Load()) >= len(sent) })
	h.write(t, nil, 1, to[0])
	h.write(t, nil, 1, to[1])
	got := append(<-arrived, <-arrived...)
	require.Len(t, got, len(sent))
	sortBytes(got)
	sortBytes(sent)
	for i := range got {
		require.True(t, bytes.Equal(sent[i], got[i]))
		sums = append(sums, sha256.Sum256(got[i]))
	}
	return sums
}

func sortBytes(list [][]byte) { slices.SortFunc(list, bytes.Compare) }

// write sends payload in datagrams of piece bytes, by UDP_SEGMENT if they are several.
func (h *diffHost) write(t *testing.T, payload []byte, piece int, to netip.AddrPort) {
	u := h.udp4
	if to.Addr().Is6() {
		u = h.udp6
	}
	var control []byte
	if piece < len(payload) {
		control = make([]byte, unix.CmsgSpace(2))
		binary.NativeEndian.PutUint64(control, uint64(unix.CmsgLen(2)))
		binary.NativeEndian.PutUint32(control[8:], unix.IPPROTO_UDP)
		binary.NativeEndian.PutUint32(control[12:], unix.UDP_SEGMENT)
		binary.NativeEndian.PutUint16(control[16:], uint16(piece))
	}
	_, _, err := u.WriteMsgUDPAddrPort(payload, control, to)
	require.NoError(t, err, "%d bytes by %d to %v", len(payload), piece, to)
}

// echoes pings with odd sizes, and returns the hashes of the answers.
func (h *diffHost) echoes(t *testing.T, r *rand.Rand, mtu int) (sums [][32]byte) {
	for k := range 60 {
		payload := make([]byte, r.IntN([]int{10, mtu, mtu + 60, 20_000}[k%4]))
		for i := range payload {
			payload[i] = byte(r.Uint32())
		}
		answer := h.echo(t, k%2 == 1, uint16(k), payload, diffPatience)
		require.True(t, bytes.Equal(payload, answer))
		sums = append(sums, sha256.Sum256(answer))
	}
	return sums
}

// echo is the payload of the answer to an echo request; nil: none came in time.
func (h *diffHost) echo(t *testing.T, v6 bool, seq uint16, payload []byte, wait time.Duration) []byte {
	conn, request, reply := h.ping4, byte(8), byte(0)
	if v6 {
		conn, request, reply = h.ping6, 128, 129
	}
	m := append([]byte{request, 0, 0, 0, 0x42, 0x42, byte(seq >> 8), byte(seq)}, payload...)
	if !v6 { // the kernel does it for IPv6
		binary.BigEndian.PutUint16(m[2:], checksum(m))
	}
	_, err := conn.WriteTo(m, &net.IPAddr{IP: h.addr(v6, 1-h.i).AsSlice()})
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(wait)))
	buffer := make([]byte, 1<<16)
	for {
		n, _, err := conn.ReadFrom(buffer)
		if err != nil {
			require.Less(t, wait, diffPatience, "no answer: %v", err)
			return nil
		}
		if n >= 8 && buffer[0] == reply && bytes.Equal(buffer[4:8], m[4:8]) {
			return buffer[8:n]
		}
	}
}

// checksum is RFC 1071's.
func checksum(b []byte) uint16 {
	var sum uint32
	for i, v := range b {
		sum += uint32(v) << (8 * (1 - i%2))
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// noErrors looks at the kernel's counters: what was wrong would otherwise hide behind its repetition.
func (h *diffHost) noErrors(t *testing.T) {
	text, err := io.ReadAll(h.counts)
	require.NoError(t, err)
	names := map[string][]string{}
	found := 0
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if names[f[0]] == nil {
			names[f[0]] = f
			continue
		}
		for i, name := range names[f[0]] {
			switch f[0] + name {
			case "Ip:InHdrErrors", "Ip:ReasmFails", "Icmp:InErrors", "Icmp:InCsumErrors", "Tcp:InErrs", "Tcp:InCsumErrors", "Udp:InErrors", "Udp:InCsumErrors":
				require.Equal(t, "0", f[i], "%s %s", f[0], name)
				found++
			}
		}
	}
	require.Equal(t, 8, found)
}
