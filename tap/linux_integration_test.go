//go:build linux

package tap_test

import (
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/tap"
	"github.com/viasnet/vias/tap/taptest"
)

// packetSocket is the kernel's end of a TAP: frames of one EtherType, in Go's
// poller. It must be made in the TAP's namespace.
func packetSocket(tb testing.TB, name string, etherType uint16) *os.File {
	tb.Helper()
	be := etherType<<8 | etherType>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(be))
	require.NoError(tb, err)
	i, err := net.InterfaceByName(name)
	require.NoError(tb, err)
	require.NoError(tb, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: be, Ifindex: i.Index}))
	return os.NewFile(uintptr(fd), "packet:"+name)
}

func openTAP(tb testing.TB, c tap.LinuxConfig) tap.Device {
	tb.Helper()
	d, err := c.Open(tb.Context())
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, d.Close()) })
	return d
}

func TestIntegrationLinux(t *testing.T) {
	for _, c := range []struct {
		name   string
		config tap.LinuxConfig
	}{
		{"Offload", tap.LinuxConfig{Name: "t0"}},
		{"NoOffload", tap.LinuxConfig{Name: "t0", NoOffload: true}},
		{"MTU9000", tap.LinuxConfig{Name: "t0", MTU: 9000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			taptest.Run(t, func(t *testing.T) (dev, peer tap.Device) {
				itest.Namespace(t, func() {
					dev = openTAP(t, c.config)
					peer = tap.Simple(packetSocket(t, "t0", taptest.EtherType), c.config.MTU)
				})
				return dev, peer
			})
		})
	}
}

func TestIntegrationLinuxSetUp(t *testing.T) {
	itest.Require(t, "ip")
	itest.Namespace(t, func() {
		up := openTAP(t, tap.LinuxConfig{Name: "up", MTU: 1400})
		require.Equal(t, 1400, up.MTU())
		require.True(t, up.Caps().Offload)
		require.Contains(t, itest.Exec(t, "ip", "-o", "link", "show", "up"), "mtu 1400")
		require.Contains(t, itest.Exec(t, "ip", "-o", "link", "show", "up"), ",UP,")

		down := openTAP(t, tap.LinuxConfig{Name: "fifteen-bytes-x", LeaveDown: true, NoOffload: true})
		require.Equal(t, 1500, down.MTU())
		require.Zero(t, down.Caps())
		require.NotContains(t, itest.Exec(t, "ip", "-o", "link", "show", "fifteen-bytes-x"), ",UP")

		_, err := tap.LinuxConfig{Name: "x", MTU: 20}.Open(t.Context())
		require.ErrorIs(t, err, unix.EINVAL)
		require.ErrorContains(t, err, "set MTU 20")

		require.NoError(t, up.Close())
		require.NotContains(t, itest.Exec(t, "ip", "-o", "link", "show"), "up:", "ours goes with Close")
	})
}

func TestIntegrationLinuxSuperFrame(t *testing.T) {
	itest.Require(t, "ip")
	itest.Namespace(t, func() {
		show := func(name string) string { return itest.Exec(t, "ip", "-d", "-o", "link", "show", name) }
		openTAP(t, tap.LinuxConfig{Name: "short", SuperFrame: 60000})
		require.Contains(t, show("short"), "gso_max_size 60000")
		openTAP(t, tap.LinuxConfig{Name: "usual"})
		require.Contains(t, show("usual"), "gso_max_size 65536")
	})
}

func TestIntegrationLinuxTakenOver(t *testing.T) {
	itest.Require(t, "ip")
	itest.Namespace(t, func() {
		itest.Exec(t, "ip", "tuntap", "add", "keep", "mode", "tap")
		d := openTAP(t, tap.LinuxConfig{Name: "keep"})
		_, err := tap.Linux("keep")(t.Context())
		require.ErrorIs(t, err, unix.EBUSY)
		require.ErrorContains(t, err, "another process holds this TAP")
		require.NoError(t, d.Close())
		require.Contains(t, itest.Exec(t, "ip", "-o", "link", "show", "keep"), "keep", "persistent: stays")
		openTAP(t, tap.LinuxConfig{Name: "keep"})

		itest.Exec(t, "ip", "tuntap", "add", "l3", "mode", "tun")
		for _, other := range []string{"lo", "l3"} {
			_, err = tap.Linux(other)(t.Context())
			require.ErrorIs(t, err, unix.EINVAL, other)
			require.ErrorContains(t, err, "no single-queue TAP")
		}
	})
}

func TestIntegrationLinuxUnprivileged(t *testing.T) {
	itest.Namespace(t, func() {
		// Of this thread only, which ends with the namespace.
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		require.NoError(t, unix.Capget(&header, &data[0]))
		data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
		require.NoError(t, unix.Capset(&header, &data[0]))
		_, err := tap.Linux("t0")(t.Context())
		require.ErrorIs(t, err, unix.EPERM)
		require.ErrorContains(t, err, "CAP_NET_ADMIN")
	})
}

// A link that is down drops; a deleted interface is final.
func TestIntegrationLinuxDownAndDeleted(t *testing.T) {
	itest.Require(t, "ip")
	itest.Namespace(t, func() {
		d := openTAP(t, tap.LinuxConfig{Name: "t0"})
		b := tap.NewBatch(2, 400)
		b.Append(taptest.Frame(1, 100), tap.Offload{})
		itest.Exec(t, "ip", "link", "set", "t0", "down")
		require.NoError(t, d.WriteBatch(b))
		require.Equal(t, tap.Stats{WriteDropped: 1}, d.(tap.Counted).Stats())

		itest.Exec(t, "ip", "link", "set", "t0", "up")
		s := packetSocket(t, "t0", taptest.EtherType)
		defer s.Close()
		require.NoError(t, d.WriteBatch(b))
		got := make([]byte, 200)
		require.NoError(t, s.SetReadDeadline(time.Now().Add(5*time.Second)))
		n, err := s.Read(got)
		require.NoError(t, err)
		require.Equal(t, taptest.Frame(1, 100), got[:n])

		read := make(chan error, 1)
		go func() {
			b := tap.NewBatch(64, 4*tap.MaxFrame)
			for {
				if err := d.ReadBatch(b); err != nil {
					read <- err
					return
				}
			}
		}()
		itest.Exec(t, "ip", "link", "del", "t0")
		select {
		case err = <-read:
		case <-time.After(10 * time.Second):
			t.Fatal("a deleted interface does not end ReadBatch")
		}
		require.ErrorIs(t, err, unix.EBADFD)
		require.NotErrorIs(t, err, tap.ErrClosed)
		require.ErrorIs(t, d.WriteBatch(b), unix.EBADFD)
		require.NoError(t, d.Close())
		require.ErrorIs(t, d.WriteBatch(b), tap.ErrClosed)
	})
}

// The kernel's offloads arrive as Offload, and what we leave undone the kernel does.
func TestIntegrationLinuxOffload(t *testing.T) {
	itest.Require(t, "ip")
	itest.Namespace(t, func() {
		d := openTAP(t, tap.LinuxConfig{Name: "t0"})
		itest.Exec(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "t0")
		itest.Exec(t, "ip", "neigh", "add", "192.0.2.2", "lladdr", "02:00:00:00:00:02", "dev", "t0")
		c, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1000}, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 2000})
		require.NoError(t, err)
		defer c.Close()
		setSegment(t, c, 1000)
		_, err = c.Write(make([]byte, 5500))
		require.NoError(t, err)

		b := tap.NewBatch(64, 4*tap.MaxFrame)
		i := findUDP(t, d, b)
		o := b.Offload(i)
		if !d.Caps().USO {
			require.Equal(t, tap.GSONone, o.GSO, "before Linux 6.2 the kernel cuts for us")
			return
		}
		require.Equal(t, tap.Offload{
			NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 6,
			GSO: tap.GSOUDP, SegmentSize: 1000, HeaderLen: 42,
		}, o)
		require.Len(t, b.Frame(i), 42+5500)

		// Back, with sender and receiver exchanged: the kernel cuts or keeps it, and
		// the socket gets every byte.
		turn(b.Frame(i), hardware(t, "t0"))
		b.Drop(func(k int) bool { return k == i })
		require.NoError(t, d.WriteBatch(b))
		require.NoError(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
		buf, sum := make([]byte, 9000), 0
		for sum < 5500 {
			n, err := c.Read(buf)
			require.NoError(t, err)
			sum += n
		}
		require.Equal(t, 5500, sum)
	})
}

func hardware(tb testing.TB, name string) net.HardwareAddr {
	tb.Helper()
	i, err := net.InterfaceByName(name)
	require.NoError(tb, err)
	return i.HardwareAddr
}

func setSegment(tb testing.TB, c syscall.Conn, size int) {
	tb.Helper()
	raw, err := c.SyscallConn()
	require.NoError(tb, err)
	var serr error
	require.NoError(tb, raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, size)
	}))
	require.NoError(tb, serr)
}

// findUDP reads until an untagged IPv4 UDP frame comes.
func findUDP(tb testing.TB, d tap.Device, b *tap.Batch) int {
	tb.Helper()
	defer time.AfterFunc(10*time.Second, func() { _ = d.Close() }).Stop()
	for {
		require.NoError(tb, d.ReadBatch(b))
		for i := range b.Len() {
			if f := b.Frame(i); len(f) > 42 && f[12] == 8 && f[13] == 0 && f[23] == 17 {
				return i
			}
		}
	}
}

// turn exchanges source and destination of an IPv4 UDP frame (sums stay right).
func turn(f []byte, to net.HardwareAddr) {
	copy(f[6:12], f[0:6])
	copy(f[0:6], to)
	for i := range 4 {
		f[26+i], f[30+i] = f[30+i], f[26+i]
	}
	for i := range 2 {
		f[34+i], f[36+i] = f[36+i], f[34+i]
	}
}

// TestIntegrationQueues: each flow's frames come from one queue, in order; all queues write at once.
func TestIntegrationQueues(t *testing.T) {
	itest.Require(t, "ip")
	taptest.RunQueues(t, func(t *testing.T) (dev tap.MultiQueue, peer tap.Device) {
		itest.Namespace(t, func() {
			d := openTAP(t, tap.LinuxConfig{Name: "q0", Queues: 3})
			dev = d.(tap.MultiQueue)
			require.Contains(t, itest.Exec(t, "ip", "-d", "-o", "link", "show", "q0"), "numqueues 3")
			peer = tap.Simple(packetSocket(t, "q0", 0x0800), 1500)
		})
		return dev, peer
	})
	itest.Namespace(t, func() {
		_, err := tap.LinuxConfig{Name: "x", Queues: tap.MaxQueues + 1}.Open(t.Context())
		require.ErrorContains(t, err, "9 queues")
		itest.Exec(t, "ip", "tuntap", "add", "many", "mode", "tap", "multi_queue")
		require.Len(t, tap.Queues(openTAP(t, tap.LinuxConfig{Name: "many", Queues: 4})), 4)
	})
}
