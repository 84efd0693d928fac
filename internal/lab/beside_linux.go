package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// besideTable is the routing table of the overlay's datagrams.
const besideTable = 7400

// beside has the overlay's datagrams leave and reach the host by the uplink itself. The datapath
// in user space knows no UDP super-frames, so that datagrams through the host's port of the
// bridge cross both switches one by one; the host's kernel sees the uplink's frames anyhow. All
// else of the host still goes through the switch.
func (l *Lab) beside(ctx context.Context, h *Host) error {
	gateway := l.cfg.site(h.Index).gateway()
	lines := []string{
		fmt.Sprintf("nft insert rule netdev uplink in udp dport %d accept", overlayPort),
		"nft insert rule netdev uplink in ether type arp accept",
		"ethtool -K " + uplink + " gro on",
		// The way back is by the bridge, as the main table has it.
		"sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf." + uplink + ".rp_filter=0 net.ipv4.conf." + bridge + ".rp_filter=0",
		fmt.Sprintf("ip rule add ipproto udp sport %d lookup %d", overlayPort, besideTable),
		fmt.Sprintf("ip route add %s dev %s table %d", l.cfg.site(h.Index).Prefix, uplink, besideTable),
		fmt.Sprintf("ip route add default via %s dev %s onlink table %d", gateway, uplink, besideTable),
	}
	for _, line := range lines {
		if _, err := l.in(ctx, h.Namespace, strings.Fields(line)...); err != nil {
			return err
		}
	}
	// What the host has already. A switch that was restarted lets it pass again: then nodes
	// count datagrams that come twice, and drop them.
	_, err := l.OVS(h.Index).Ofctl(ctx, "add-flow", bridge,
		fmt.Sprintf("cookie=%#x,table=0,priority=60000,in_port=%d,udp,tp_dst=%d,actions=drop", uint64(besideCookie), ofportUplink, overlayPort))
	return err
}

const besideCookie = labCookie ^ 1<<63

// ReceiveBuffers gives the packet sockets, by which switches in user space read their ports,
// room for so many bytes. Open vSwitch leaves them net.core.rmem_default, which is the whole
// machine's; three super-frames fill the usual 208 KB, and what comes then is lost.
func (l *Lab) ReceiveBuffers(ctx context.Context, bytes int) error {
	for i, h := range l.hosts {
		want := 2 + len(h.Containers) // uplink, TAP
		switch l.cfg.Datapath {
		case DatapathAFXDP:
			want = 1 // the TAP
		case DatapathSystem:
			want = 0
		}
		ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Second, errors.New("lab: the switch does not read all its ports"))
		err := poll(ctx, 20*time.Millisecond, func() (bool, error) {
			n, err := growPacketSockets(l.ovs[i].switchID, bytes)
			return n >= want, err
		})
		cancel()
		if err != nil {
			return fmt.Errorf("host %d: %w", h.Index, err)
		}
	}
	return nil
}

// growPacketSockets sets the receive buffers of a process's bound packet sockets, and returns how
// many there are.
func growPacketSockets(pid, bytes int) (n int, err error) {
	proc, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, fmt.Errorf("lab: pid %d: %w", pid, err)
	}
	defer unix.Close(proc)
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	files, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("lab: %w", err)
	}
	for _, f := range files {
		if to, err := os.Readlink(filepath.Join(dir, f.Name())); err != nil || !strings.HasPrefix(to, "socket:") {
			continue // closed meanwhile, or something else
		}
		nr, err := strconv.Atoi(f.Name())
		if err != nil {
			return n, fmt.Errorf("lab: %w", err)
		}
		fd, err := unix.PidfdGetfd(proc, nr, 0)
		if err != nil {
			continue // closed meanwhile
		}
		at, _ := unix.Getsockname(fd) // of a kind that is not known: no packet socket
		if link, ok := at.(*unix.SockaddrLinklayer); ok && link.Ifindex > 0 {
			n++
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes)
		}
		if _ = unix.Close(fd); err != nil && !errors.Is(err, unix.EBADF) {
			return n, fmt.Errorf("lab: receive buffer: %w", err)
		}
	}
	return n, nil
}
