package lab

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/tap"
)

// rawSocket opens a packet socket on a device of a namespace. The caller closes it.
func rawSocket(t *testing.T, ns, dev string) (fd, index int) {
	t.Helper()
	inside(t, ns, func() error {
		d, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		index = d.Index
		all := uint16(unix.ETH_P_ALL)
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all<<8 | all>>8, Ifindex: index}))
		if err != nil {
			_ = unix.Close(fd)
		}
		return err
	})
	return fd, index
}

// listenIn captures what a device of a namespace receives.
func (s *system) listenIn(ns, dev string) *capture {
	s.t.Helper()
	c := &capture{}
	fd, _ := rawSocket(s.t, ns, dev)
	c.fds = append(c.fds, fd)
	c.readers.Add(1)
	go c.read(fd)
	s.t.Cleanup(c.end)
	return c
}

// with tells whether a frame has the marker.
func (m marker) with(f []byte) bool { return bytes.Contains(f, m[:]) }

// mouth sends frames as they are, from a device.
type mouth struct {
	t         *testing.T
	fd, index int
	sent      int
}

func (s *system) mouth(ns, dev string) *mouth {
	m := &mouth{t: s.t}
	m.fd, m.index = rawSocket(s.t, ns, dev)
	// It is for sending only: nobody reads what comes.
	require.NoError(s.t, unix.Bind(m.fd, &unix.SockaddrLinklayer{Ifindex: m.index}))
	s.t.Cleanup(func() { _ = unix.Close(m.fd) })
	return m
}

// spoofer sends into a host's uplink what nobody on the provider's network checks.
func (s *system) spoofer(h *Host) *mouth {
	return s.mouth(h.Provider, fmt.Sprintf("h%d", h.Index))
}

// say sends frames, at most perSecond of them.
func (m *mouth) say(perSecond int, frames ...[]byte) {
	m.t.Helper()
	start := time.Now()
	to := &unix.SockaddrLinklayer{Ifindex: m.index}
	for i, f := range frames {
		err := unix.Sendto(m.fd, f, 0, to)
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			require.NoError(m.t, err)
		}
		m.sent++
		if i%64 == 63 {
			if ahead := time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(perSecond))); ahead > 0 {
				<-time.After(ahead)
			}
		}
	}
}

// packet is a TCP segment or UDP datagram with a marker.
func packet(dst, src tap.MAC, proto bypass.Proto, from, to netip.AddrPort, m marker) []byte {
	body := append(segment(from.Port(), to.Port(), ack), m[:]...)
	if proto == bypass.UDP {
		body = datagram(from.Port(), to.Port(), m[:]...)
	}
	return ipv4(dst, src, byte(proto), 64, from.Addr(), to.Addr(), body)
}

// tagged is f with a VLAN tag.
func tagged(f []byte, tci uint16) []byte {
	out := append([]byte(nil), f[:12]...)
	out = append(out, 0x81, 0, byte(tci>>8), byte(tci))
	return append(out, f[12:]...)
}

// fragments are f's packet in two, the first of size bytes behind the IP header.
func fragments(f []byte, size int) [][]byte {
	part := func(offset int, more uint16, body []byte) []byte {
		p := append(bytes.Clone(f[:34]), body...)
		be.PutUint16(p[16:], uint16(20+len(body)))
		be.PutUint16(p[20:], more|uint16(offset/8))
		be.PutUint16(p[24:], 0)
		be.PutUint16(p[24:], ^sum(p[14:34], 0))
		return p
	}
	return [][]byte{part(0, 0x2000, f[34:34+size]), part(size, 0, f[34+size:])}
}

// claim is an ARP packet (RFC 826) in which sender says that it has the MAC src.
func claim(dst, src tap.MAC, op byte, sender, target netip.Addr, m marker) []byte {
	f := append(append(dst[:len(dst):len(dst)], src[:]...), 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, op)
	f = append(append(f, src[:]...), sender.AsSlice()...)
	f = append(append(f, dst[:]...), target.AsSlice()...)
	return append(f, m[:]...)
}

// guess draws a reserved port.
func guess() uint16 {
	return bypass.DefaultPorts.First() + uint16(rand.IntN(bypass.DefaultPorts.Len()))
}

// spoofed are frames as if host a had sent them to host b, or guests to guests: a sweep
// of one port of the tuple at, random pairs, guests' addresses. Each has the marker.
func (s *system) spoofed(a, b *Host, at tuple, m marker) (frames [][]byte) {
	mac := tap.MAC{0x02, 0x66, 0, 0, 0, 1} // of the spoofer
	for _, proto := range []bypass.Proto{bypass.TCP, bypass.UDP} {
		for p := range bypass.DefaultPorts.Len() {
			from := netip.AddrPortFrom(a.Addr, bypass.DefaultPorts.First()+uint16(p))
			frames = append(frames, packet(b.MAC, mac, proto, from, at.dst, m))
		}
		for range 4096 {
			from, to := netip.AddrPortFrom(a.Addr, guess()), netip.AddrPortFrom(b.Addr, guess())
			if from != at.src || to != at.dst {
				frames = append(frames, packet(b.MAC, mac, proto, from, to, m))
			}
		}
		for _, g := range b.Containers {
			for _, dst := range []tap.MAC{b.MAC, g.MAC, {255, 255, 255, 255, 255, 255}} {
				for _, o := range a.Containers {
					from, to := netip.AddrPortFrom(o.Addr, chatPort), netip.AddrPortFrom(g.Addr, chatPort)
					frames = append(frames, packet(dst, o.MAC, proto, from, to, m), tagged(packet(dst, o.MAC, proto, from, to, m), workloadTag))
				}
			}
		}
	}
	return frames
}

// odd are frames of the very tuple, but in a shape that no host sends.
func odd(a, b *Host, at tuple, m marker) [][]byte {
	f := packet(b.MAC, a.MAC, bypass.TCP, at.src, at.dst, m)
	frames := [][]byte{tagged(f, 1), tagged(f, workloadTag), tagged(f, 1<<13), tagged(tagged(f, workloadTag), workloadTag),
		packet(b.MAC, a.MAC, bypass.UDP, at.src, at.dst, m)}
	for _, size := range []int{8, 16, 24, 40} {
		frames = append(frames, fragments(f, size)...)
	}
	return frames
}

// usage is what a process has used.
type usage struct {
	cpu time.Duration
	rss int // bytes, now
	at  time.Time
}

func used(t *testing.T, pid int) (u usage) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	for _, f := range []int{11, 12} { // utime and stime (proc(5))
		n, err := strconv.Atoi(fields[f])
		require.NoError(t, err)
		u.cpu += time.Duration(n) * 10 * time.Millisecond
	}
	pages, err := strconv.Atoi(fields[21])
	require.NoError(t, err)
	u.rss, u.at = pages*os.Getpagesize(), time.Now()
	return u
}

// since is CPU used in cores, and memory grown in MiB.
func (u usage) since(o usage) string {
	return fmt.Sprintf("%.2f cores, RSS %d MiB (%+d)", (u.cpu-o.cpu).Seconds()/u.at.Sub(o.at).Seconds(), u.rss>>20, (u.rss-o.rss)>>20)
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	i, err := os.Stat(path)
	require.NoError(t, err)
	return i.Size()
}

// stopwatch notes when the last frame of a bypassed flow was on the provider's network;
// what it returns ends it and tells.
func (s *system) stopwatch() (end func() time.Time) {
	c := &capture{}
	var last [2]time.Time
	n := s.network()
	for i, h := range s.hosts {
		fd, _ := rawSocket(s.t, h.Provider, fmt.Sprintf("h%d", h.Index))
		c.fds = append(c.fds, fd)
		c.readers.Add(1)
		go func() {
			defer c.readers.Done()
			b := make([]byte, 1<<16)
			for {
				k, err := unix.Read(fd, b)
				switch {
				case errors.Is(err, unix.EAGAIN):
					if c.stopping.Load() {
						return
					}
					_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20) // milliseconds
				case err == nil && n.class(b[:k]) == classBypass:
					last[i] = time.Now()
				}
			}
		}()
		require.NoError(s.t, unix.SetNonblock(fd, true))
	}
	s.t.Cleanup(c.end)
	return func() time.Time {
		c.end()
		if last[0].After(last[1]) {
			return last[0]
		}
		return last[1]
	}
}
