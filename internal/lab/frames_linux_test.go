package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/tap"
)

// gateway is the provider's own address in a lab of one site.
func gateway() netip.Addr { return netip.AddrFrom4([4]byte{10, 99, 0, 254}) }

// gatewayMAC is that of the provider's bridge.
const gatewayMAC = "02:99:00:00:00:fe"

// Classes of frames that hosts send to the provider's network.
const (
	classARP    = "ARP"    // of hosts
	classHost   = "host"   // the rendezvous, echoes, ICMP
	classSTUN   = "STUN"   // between the overlays' ports
	classDTLS   = "DTLS"   // the same
	classData   = "data"   // the same: docs/protocol.md
	classProbe  = "probe"  // TCP or UDP on probes' ports, as vias sends it
	classND     = "ND"     // IPv6's neighbour discovery, of hosts
	classMLD    = "MLD"    // reports of the multicast groups of hosts' IPv6 addresses
	classBypass = "bypass" // TCP and UDP on flows' ports
)

// network is what a frame is judged by.
type network struct {
	macs map[netip.Addr]tap.MAC // of hosts and gateway
	// live are the tuples of bypassed flows; nil = any on flows' ports.
	live map[tuple]bool
}

func (s *system) network() network {
	router := s.cfg.site(1)
	n := network{macs: map[netip.Addr]tap.MAC{gateway(): router.routerMAC(), router.gateway6(): router.routerMAC(), linkLocal(254): router.routerMAC()}}
	for _, h := range s.hosts {
		n.macs[h.Addr], n.macs[h.Addr6], n.macs[linkLocal(h.Index)] = h.MAC, h.MAC, h.MAC
	}
	return n
}

func addr4(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }

var be = binary.BigEndian

// class names a frame's class; "" = it is none of them.
func (n network) class(f []byte) string {
	if len(f) < 14+28 {
		return ""
	}
	dst, src := tap.MAC(f[:6]), tap.MAC(f[6:12])
	switch p := f[14:]; be.Uint16(f[12:]) {
	case 0x0806:
		sender, target := addr4(p[14:]), addr4(p[24:])
		if n.macs[sender] == src && tap.MAC(p[8:14]) == src && n.macs[target] != (tap.MAC{}) {
			return classARP
		}
	case 0x0800:
		from, to := addr4(p[12:]), addr4(p[16:])
		size := int(be.Uint16(p[2:]))
		whole := p[0] == 0x45 && be.Uint16(p[6:])&0x3fff == 0 && size >= 28 && size <= len(p)
		if whole && n.macs[from] == src && n.macs[to] == dst {
			return n.packet(p[9], p[8], from, to, p[20:size])
		}
	case 0x86dd:
		if len(p) >= 48 && 40+int(be.Uint16(p[4:])) <= len(p) {
			return n.class6(dst, src, p[:40+int(be.Uint16(p[4:]))])
		}
	}
	return ""
}

// class6 is class for an IPv6 packet.
func (n network) class6(dst, src tap.MAC, p []byte) string {
	next, hops, from, to, body := p[6], p[7], addr16(p[8:]), addr16(p[24:]), p[40:]
	multicast := to.IsMulticast() && dst[0] == 0x33 && dst[1] == 0x33
	known := n.macs[from] == src && len(body) >= 8
	const solicitation, advertisement, report = 135, 136, 143 // RFC 4861, 3810
	switch {
	case len(body) >= 16 && next == 0 && body[0] == 58 && body[8] == report:
		if multicast && (known || from.IsUnspecified() && n.isHost(src)) {
			return classMLD
		}
	case !known:
	case next == 58 && hops == 255 && len(body) >= 24 && (body[0] == solicitation || body[0] == advertisement):
		if n.macs[addr16(body[8:])] != (tap.MAC{}) && (multicast || n.macs[to] == dst) {
			return classND
		}
	case n.macs[to] == dst:
		return n.packet(next, hops, from, to, body)
	}
	return ""
}

func addr16(b []byte) netip.Addr { return netip.AddrFrom16([16]byte(b)) }

// isHost tells whether any address known is at that MAC.
func (n network) isHost(mac tap.MAC) bool {
	for _, m := range n.macs {
		if m == mac {
			return true
		}
	}
	return false
}

// packet is class for what an IP packet between two hosts holds.
func (n network) packet(proto, ttl byte, from, to netip.Addr, p []byte) string {
	sport, dport := be.Uint16(p), be.Uint16(p[2:])
	between := tuple{netip.AddrPortFrom(from, sport), netip.AddrPortFrom(to, dport)}
	switch {
	case proto == 1 && from.Is4(), proto == 58 && from.Is6():
		return classHost
	case proto != 6 && proto != 17:
		return ""
	case ttl == 255 && min(sport, dport) > lastFlowPort():
		return classProbe
	case proto == 17 && !isFlowPort(sport, dport):
		return overlayClass(sport, dport, p[8:])
	case proto == 17 && (n.live == nil || n.live[between]):
		return classBypass
	case proto == 17:
		return ""
	case sport == signalPort || dport == signalPort:
		return classHost // with a reset while nobody serves there yet
	case len(p) < 20 || p[13]&rst != 0: // nobody has a reason to reset anything else
		return ""
	case isFlowPort(sport, dport) && (n.live == nil || n.live[between]):
		return classBypass
	}
	return ""
}

// lastFlowPort is the last port of flows: above are those of probes.
func lastFlowPort() uint16 { return bypass.DefaultPorts.Last() - uint16(bypass.DefaultPorts.Len()/16) }

func isFlowPort(sport, dport uint16) bool {
	return min(sport, dport) >= bypass.DefaultPorts.First() && max(sport, dport) <= lastFlowPort()
}

const rst = 0x04 // the flag in byte 13 of a TCP header (RFC 9293)

// overlayClass tells STUN, DTLS and data records apart, as RFC 7983 does.
func overlayClass(sport, dport uint16, p []byte) string {
	switch {
	case sport == echoPort && dport == echoPort:
		return classHost
	case sport != overlayPort || dport != overlayPort || len(p) < 13:
		return ""
	case p[0] < 4 && be.Uint32(p[4:]) == 0x2112a442:
		return classSTUN
	case p[0] >= 20 && p[0] < 64 && p[1] == 0xfe:
		return classDTLS
	case p[0] == 0xe1 && p[2] == 0 && p[3] == 0 && len(p) >= 33:
		return classData
	}
	return ""
}

// capture takes what hosts send, at the provider's ends of their uplinks.
type capture struct {
	fds      []int
	stopping atomic.Bool
	readers  sync.WaitGroup
	mu       sync.Mutex // guards what follows
	frames   [][]byte
	failed   error
}

// startCapture captures all of it until frames is asked for.
func (s *system) startCapture() *capture {
	s.t.Helper()
	c := &capture{}
	for _, h := range s.hosts {
		fd, _ := s.packetSocket(h.Index)
		c.fds = append(c.fds, fd)
		c.readers.Add(1)
		go c.read(fd)
	}
	s.t.Cleanup(c.end)
	return c
}

// packetSocket opens a packet socket on the provider's end of a host's uplink.
func (s *system) packetSocket(host int) (fd, index int) {
	s.t.Helper()
	return rawSocket(s.t, s.hosts[host-1].Provider, fmt.Sprintf("h%d", host))
}

// read takes frames until it is told to stop and has them all.
func (c *capture) read(fd int) {
	defer c.readers.Done()
	b, aux := make([]byte, 1<<17), make([]byte, 100)
	for {
		n, auxLen, _, _, err := unix.Recvmsg(fd, b, aux, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if c.stopping.Load() {
				return
			}
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20) // milliseconds
		case errors.Is(err, unix.EINTR):
		case err != nil:
			c.mu.Lock()
			c.failed = errors.Join(c.failed, err)
			c.mu.Unlock()
			return
		default:
			c.add(withTag(bytes.Clone(b[:n]), aux[:auxLen]))
		}
	}
}

// withTag puts back the VLAN tag that the kernel took out of a frame (packet(7),
// struct tpacket_auxdata).
func withTag(f, aux []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(aux)
	if err != nil || len(messages) == 0 || len(messages[0].Data) < 20 || len(f) < 14 {
		return f
	}
	d, native := messages[0].Data, binary.NativeEndian
	if native.Uint32(d)&unix.TP_STATUS_VLAN_VALID == 0 {
		return f
	}
	tag := be.AppendUint16(be.AppendUint16(nil, native.Uint16(d[18:])), native.Uint16(d[16:]))
	return slices.Insert(f, 12, tag...)
}

func (c *capture) add(f []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames = append(c.frames, f)
}

func (c *capture) end() {
	if c.stopping.Swap(true) {
		return
	}
	c.readers.Wait()
	for _, fd := range c.fds {
		stats, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err == nil && stats.Drops > 0 {
			err = fmt.Errorf("the capture lost %d frames", stats.Drops)
		}
		c.failed = errors.Join(c.failed, err, unix.Close(fd))
	}
}

// all ends the capture and returns every frame.
func (c *capture) all(t *testing.T) [][]byte {
	t.Helper()
	c.end()
	require.NoError(t, c.failed)
	return c.frames
}

// resets counts what a host's own stack has reset until now.
func (c *capture) resets() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.frames {
		if isReset(f) {
			n++
		}
	}
	return n
}

// isReset: a TCP segment with RST that is no probe of vias, which have TTL 255.
func isReset(f []byte) bool {
	return len(f) >= 54 && be.Uint16(f[12:]) == 0x0800 && f[23] == 6 && f[22] != 255 && f[14+int(f[14]&15)*4+13]&rst != 0
}

// names tells whether a MAC address is anywhere in a frame. A TCP checksum with the urgent
// pointer and two NOPs behind it (0277 0000 0101) is none, though it looks like a guest's.
func names(f []byte, m tap.MAC) bool {
	for at := 0; ; at++ {
		i := bytes.Index(f[at:], m[:])
		if i < 0 {
			return false
		}
		if at += i; at != 34+16 && at != 54+16 { // behind IPv4's header, and IPv6's
			return true
		}
	}
}

// requireClasses fails the test for a frame that is in none of the classes, or that
// a guest made, and for a class of which there is no frame.
func (s *system) requireClasses(frames [][]byte, n network, want ...string) map[string]int {
	s.t.Helper()
	count := map[string]int{}
	for i, f := range frames {
		class := n.class(f)
		require.NotEmpty(s.t, class, "frame %d of %d is of no class: %x", i, len(frames), f[:min(len(f), 120)])
		for _, h := range s.hosts {
			for _, g := range h.Containers {
				require.False(s.t, names(f, g.MAC), "frame %d (%s) has the MAC of %s: %x", i, class, g.Name, f)
			}
		}
		count[class]++
	}
	s.t.Logf("frames: %v", count)
	for _, class := range want {
		require.NotZero(s.t, count[class], class)
	}
	return count
}
