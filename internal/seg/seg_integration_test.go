//go:build linux

package seg_test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
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
	"github.com/viasnet/vias/internal/seg"
	"github.com/viasnet/vias/tap"
)

const patience = 20 * time.Second

// host is one end of a wire: its TAP's addresses, last octets of documentation
// prefixes, and static neighbours, so that nothing waits for ARP.
type host struct{ own, other string }

var (
	left  = host{"1", "2"}
	right = host{"2", "1"}
)

// openTAP sets up t0 in the calling thread's namespace.
func (h host) openTAP(t *testing.T, c tap.LinuxConfig) tap.Device {
	t.Helper()
	c.Name, c.LeaveDown = "t0", true
	d, err := c.Open(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	itest.Exec(t, "ip", "link", "set", "t0", "address", "02:00:00:00:00:0"+h.own, "up")
	for prefix, length := range map[string]string{"192.0.2.": "/24", "2001:db8::": "/64"} {
		itest.Exec(t, "ip", "addr", "add", prefix+h.own+length, "dev", "t0", "nodad")
		itest.Exec(t, "ip", "neigh", "add", prefix+h.other, "lladdr", "02:00:00:00:00:0"+h.other, "dev", "t0")
	}
	return d
}

func (h host) ip(v6 bool) net.IP {
	if v6 {
		return net.ParseIP("2001:db8::" + h.own)
	}
	return net.ParseIP("192.0.2." + h.own)
}

// What the kernel cuts and what we cut is the same, byte by byte (but for the IPv4
// identification's and the IPv6 flow label's random start).
func TestIntegrationUDPLikeTheKernel(t *testing.T) {
	itest.Require(t, "ip")
	for name, v6 := range map[string]bool{"IPv4": false, "IPv6": true} {
		t.Run(name, func(t *testing.T) {
			kernel := sendUDP(t, v6, tap.LinuxConfig{NoOffload: true})
			ours := sendUDP(t, v6, tap.LinuxConfig{})
			require.Len(t, ours, 6)
			require.Equal(t, kernel, ours)
		})
	}
}

// sendUDP has the kernel send one super-datagram and returns the frames that it
// became in the end, normalised.
func sendUDP(t *testing.T, v6 bool, c tap.LinuxConfig) (frames [][]byte) {
	itest.Namespace(t, func() {
		d := left.openTAP(t, c)
		s, err := net.DialUDP("udp", &net.UDPAddr{IP: left.ip(v6), Port: 1000}, &net.UDPAddr{IP: right.ip(v6), Port: 2000})
		require.NoError(t, err)
		defer s.Close()
		raw, err := s.SyscallConn()
		require.NoError(t, err)
		var serr error
		require.NoError(t, raw.Control(func(fd uintptr) {
			serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1000)
		}))
		require.NoError(t, serr)
		payload := make([]byte, 5500)
		for i := range payload {
			payload[i] = byte(i * i >> 3)
		}
		_, err = s.Write(payload)
		if errors.Is(err, unix.EIO) {
			itest.NotOn(t, itest.System, "user-mode-linux is 6.1, and before 6.11 no kernel cuts UDP for a device that does no checksums")
		}
		require.NoError(t, err)
		frames = readUDP(t, d, len(payload))
	})
	first := binary.BigEndian.Uint16(frames[0][18:])
	for _, f := range frames {
		if v6 {
			clear(f[15:18])
			continue
		}
		require.Zero(t, seg.Checksum(f[14:34], 0))
		id := binary.BigEndian.Uint16(f[18:]) - first
		binary.BigEndian.PutUint16(f[18:], id)
		clear(f[24:26])
	}
	return frames
}

// readUDP reads and cuts until all of the payload came.
func readUDP(t *testing.T, d tap.Device, payload int) (frames [][]byte) {
	defer time.AfterFunc(patience, func() { _ = d.Close() }).Stop()
	in, out := tap.NewBatch(64, 4*tap.MaxFrame), tap.NewBatch(64, 64*1600)
	var c seg.Cutter
	for payload > 0 {
		require.NoError(t, d.ReadBatch(in))
		for i := range in.Len() {
			require.NoError(t, c.Reset(in.Frame(i), in.Offload(i), d.MTU()))
			out.Reset()
			require.True(t, c.Next(out))
			for k := range out.Len() {
				f := append([]byte{}, out.Frame(k)...)
				headers := 42
				if f[12] == 0x86 {
					headers = 62
				}
				if len(f) < headers || f[23] != 17 && f[20] != 17 {
					continue // the kernel's own chatter
				}
				frames, payload = append(frames, f), payload-(len(f)-headers)
			}
		}
	}
	return frames
}

// pump carries frames from one TAP to the other, finished.
type pump struct {
	from, to tap.Device
	supers   atomic.Int64 // super-frames cut
	bad      atomic.Int64 // frames refused by the Cutter
}

// run ends when a device is closed.
func (p *pump) run() {
	in, out := tap.NewBatch(64, 4*tap.MaxFrame), tap.NewBatch(64, 64*1600)
	var c seg.Cutter
	for p.from.ReadBatch(in) == nil {
		out.Reset()
		for i := range in.Len() {
			if in.Offload(i).GSO != tap.GSONone {
				p.supers.Add(1)
			}
			if c.Reset(in.Frame(i), in.Offload(i), p.to.MTU()) != nil {
				p.bad.Add(1)
				continue
			}
			for !c.Next(out) {
				if p.to.WriteBatch(out) != nil {
					return
				}
				out.Reset()
			}
		}
		if p.to.WriteBatch(out) != nil {
			return
		}
	}
}

// Two kernels talk TCP through two TAPs with every offload and a Cutter between.
func TestIntegrationTCPThroughCutter(t *testing.T) {
	itest.Require(t, "ip")
	for name, v6 := range map[string]bool{"IPv4": false, "IPv6": true} {
		t.Run(name, func(t *testing.T) { transfer(t, v6) })
	}
}

func transfer(t *testing.T, v6 bool) {
	var a, b tap.Device
	var ln *net.TCPListener
	var snmp *os.File
	itest.Namespace(t, func() {
		var err error
		b = right.openTAP(t, tap.LinuxConfig{})
		ln, err = net.ListenTCP("tcp", &net.TCPAddr{IP: right.ip(v6), Port: 5000})
		require.NoError(t, err)
		snmp, err = os.Open("/proc/thread-self/net/snmp")
		require.NoError(t, err)
	})
	defer snmp.Close()
	defer ln.Close()
	const size = 16 << 20
	received := make(chan []byte, 1)
	go func() {
		defer close(received)
		s, err := ln.Accept()
		if err != nil {
			return
		}
		defer s.Close()
		_ = s.SetDeadline(time.Now().Add(patience))
		h := sha256.New()
		if _, err := io.Copy(h, s); err == nil {
			received <- h.Sum(nil)
		}
	}()
	var out, back *pump
	itest.Namespace(t, func() {
		a = left.openTAP(t, tap.LinuxConfig{})
		out, back = &pump{from: a, to: b}, &pump{from: b, to: a}
		go out.run()
		go back.run()
		s, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: right.ip(v6), Port: 5000})
		require.NoError(t, err)
		defer s.Close()
		require.NoError(t, s.SetDeadline(time.Now().Add(patience)))
		data := make([]byte, size)
		r := rand.NewChaCha8([32]byte{1})
		_, _ = r.Read(data)
		_, err = s.Write(data)
		require.NoError(t, err)
		require.NoError(t, s.CloseWrite())
		want := sha256.Sum256(data)
		require.Equal(t, want[:], <-received)
	})
	require.Greater(t, out.supers.Load(), int64(size/(64<<10)), "the kernel sent super-frames")
	require.Zero(t, out.bad.Load()+back.bad.Load())
	text, err := io.ReadAll(snmp)
	require.NoError(t, err)
	require.Zero(t, tcpChecksumErrors(t, string(text)))
}

// tcpChecksumErrors reads InCsumErrors from /proc/net/snmp: a
// wrong segment would otherwise hide behind its retransmission.
func tcpChecksumErrors(t *testing.T, snmp string) int {
	t.Helper()
	var names []string
	for line := range strings.Lines(snmp) {
		fields := strings.Fields(line)
		switch {
		case fields[0] != "Tcp:":
		case names == nil:
			names = fields
		default:
			n := mustAtoi(t, fields[slices.Index(names, "InCsumErrors")])
			require.Positive(t, mustAtoi(t, fields[slices.Index(names, "InSegs")]), "the receiver's own counters")
			return n
		}
	}
	t.Fatal("no Tcp lines in /proc/net/snmp")
	return 0
}

func mustAtoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	require.NoError(t, err)
	return n
}
