package underlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/viasnet/vias/bypass"
)

// Preflight checks what a bypass needs of this host's kernel, in the calling
// thread's network namespace. It changes nothing for good: the guard is tried with
// documentation addresses (RFC 5737, RFC 3849) and removed.
func Preflight(ctx context.Context, cfg CheckConfig) []Finding {
	u, err := Open(cfg.Config)
	if err != nil {
		return []Finding{{What: "uplink", Detail: err.Error(), Remedy: "name the uplink in the configuration"}}
	}
	defer u.Close()
	cfg.Config = u.cfg
	if cfg.Ports == (bypass.PortRange{}) {
		cfg.Ports = bypass.DefaultPorts
	}
	return []Finding{
		u.checkAddress(ctx),
		u.checkIPv6(ctx, cfg.Trust),
		u.checkEphemeral(cfg.Ports),
		u.checkSockets(ctx, cfg.Ports),
		u.checkTranslation(ctx, cfg.Ports),
		u.checkInput(ctx, cfg.UserspaceDatapath),
		u.checkGuard(ctx, cfg.Ports),
	}
}

func (u *Underlay) checkAddress(ctx context.Context) Finding {
	f := Finding{What: "underlay address on " + u.cfg.Device}
	addrs, err := u.Addrs(ctx)
	switch {
	case err != nil:
		f.Detail, f.Remedy = err.Error(), "check the names of uplink and uplink_addr_device"
	case len(addrs) == 0:
		f.Remedy = "move the uplink's address to " + u.cfg.Device + " (the README has a way that rolls back)"
	default:
		f.OK, f.Detail = true, fmt.Sprint(addrs)
	}
	return f
}

// checkIPv6 only remarks: without an IPv6 address all is well, but for flows over IPv6.
func (u *Underlay) checkIPv6(ctx context.Context, trust []netip.Prefix) Finding {
	f := Finding{What: "IPv6 on the underlay", OK: true, Detail: "IPv4 only: IPv6 flows stay on the overlay"}
	addrs, err := u.Addrs(ctx)
	if err != nil {
		return f // checkAddress says why
	}
	var ours, trusted []netip.Addr
	for _, p := range addrs {
		a := p.Addr()
		if !a.Is6() {
			continue
		}
		ours = append(ours, a)
		if trust == nil && a.IsPrivate() || slices.ContainsFunc(trust, func(t netip.Prefix) bool { return t.Contains(a) }) {
			trusted = append(trusted, a)
		}
	}
	switch {
	case len(ours) == 0:
		return f
	case len(trusted) == 0:
		f.Detail = fmt.Sprintf("%v is in no trusted prefix (trust.prefixes): IPv6 flows stay on the overlay", ours)
		return f
	}
	f.Detail = fmt.Sprint(trusted)
	on := func(name, value string) bool {
		text, err := u.sysctl("ipv6/conf/" + u.cfg.Device + "/" + name)
		return err == nil && strings.TrimSpace(text) == value
	}
	if on("forwarding", "1") && on("accept_ra", "1") {
		f.Detail += "; IPv6 forwarding is on, so routers' advertisements are ignored (unless net.ipv6.conf." + u.cfg.Device + ".accept_ra=2)"
	}
	return f
}

// sysctl reads a file below /proc/sys/net of u's namespace.
func (u *Underlay) sysctl(name string) (text string, err error) {
	err = u.inNamespace(func() error {
		b, err := os.ReadFile("/proc/sys/net/" + name)
		text = string(b)
		return err
	})
	return text, err
}

// checkEphemeral: the kernel must not hand out reserved ports to the host's sockets.
func (u *Underlay) checkEphemeral(r bypass.PortRange) Finding {
	f := Finding{What: fmt.Sprintf("reserved ports %d-%d are not ephemeral ports", r.First(), r.Last())}
	f.Remedy = fmt.Sprintf("sysctl -w net.ipv4.ip_local_reserved_ports=%d-%d (added to what is there)", r.First(), r.Last())
	local, err := u.sysctl("ipv4/ip_local_port_range")
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	local = strings.Join(strings.Fields(local), "-")
	reserved, err := u.sysctl("ipv4/ip_local_reserved_ports")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.Detail = err.Error()
		return f
	}
	ls, err := parseSpans(local)
	rs, err2 := parseSpans(reserved)
	if err = errors.Join(err, err2); err != nil || len(ls) != 1 {
		f.Detail = fmt.Sprintf("ip_local_port_range is %q (%v)", local, err)
		return f
	}
	n := exposed(r, ls[0], rs)
	f.Detail = fmt.Sprintf("net.ipv4.ip_local_port_range is %s, %d of its ports are in the range and not reserved", local, n)
	if n == 0 {
		f.OK, f.Remedy = true, ""
	}
	return f
}

// checkSockets: no socket of the host may live in the range; the guard would cut it
// off from the peers, and a bypassed packet could hit it.
func (u *Underlay) checkSockets(ctx context.Context, r bypass.PortRange) Finding {
	f := Finding{What: "no socket of this host uses a reserved port"}
	addrs, err := u.Addrs(ctx)
	if err != nil {
		f.Detail, f.Remedy = err.Error(), "see the finding on the underlay address"
		return f
	}
	used := map[uint16]bool{}
	err = u.inNamespace(func() error {
		for _, name := range []string{"tcp", "tcp6", "udp", "udp6"} {
			// thread-self, not self: other threads may be in other namespaces.
			b, err := os.ReadFile("/proc/thread-self/net/" + name)
			if errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6
				continue
			}
			if err != nil {
				return err
			}
			for _, s := range parseSockets(string(b)) {
				if r.Contains(s.Port()) && reachable(s.Addr(), addrs) {
					used[s.Port()] = true
				}
			}
		}
		return nil
	})
	if err != nil {
		f.Detail, f.Remedy = err.Error(), "mount /proc"
		return f
	}
	if len(used) == 0 {
		f.OK = true
		return f
	}
	ports := make([]string, 0, len(used))
	for p := range used {
		ports = append(ports, strconv.Itoa(int(p)))
	}
	slices.Sort(ports)
	f.Detail = "in use: " + strings.Join(ports, ", ")
	f.Remedy = "stop those programs (ss -tulpan shows them), or reserve another range on every host"
	return f
}

// reachable tells whether a socket at a can be met on one of the uplink's addresses.
func reachable(a netip.Addr, addrs []netip.Prefix) bool {
	return a.IsUnspecified() || slices.ContainsFunc(addrs, func(p netip.Prefix) bool { return p.Addr() == a })
}

// checkTranslation: what the host forwards must not get a reserved port as its source:
// the answers of a peer would be taken for packets of a flow. Rules of the kernel's old
// iptables, which nft does not list, are not seen.
func (u *Underlay) checkTranslation(ctx context.Context, r bypass.PortRange) Finding {
	f := Finding{What: "no address translation of this host uses a reserved port"}
	rules, err := u.ruleset(ctx)
	if err != nil {
		f.Detail, f.Remedy = err.Error(), "install nftables, and run as root"
		return f
	}
	hits := translating(rules, u.cfg.Device, r)
	if len(hits) == 0 {
		f.OK = true
		return f
	}
	f.Detail = "it may by: " + strings.Join(hits, "; ")
	f.Remedy = fmt.Sprintf("give these rules other ports: nft 'masquerade to :1024-%d', iptables --to-ports 1024-%d", r.First()-1, r.First()-1)
	return f
}

// checkInput: with a user-space datapath the kernel receives the uplink's frames as
// well as the switch, and when bridge and uplink have one MAC it answers them too.
func (u *Underlay) checkInput(ctx context.Context, userspace bool) Finding {
	f := Finding{What: "the kernel does not answer on " + u.cfg.Uplink + " beside the switch"}
	dev, up, err := u.links()
	if err != nil {
		f.Detail, f.Remedy = err.Error(), "check the names of uplink and uplink_addr_device"
		return f
	}
	same := dev.Attrs().HardwareAddr.String() == up.Attrs().HardwareAddr.String()
	xdp := up.Attrs().Xdp != nil && up.Attrs().Xdp.Attached
	switch {
	case !userspace:
		f.OK, f.Detail = true, "kernel datapath"
	case dev.Attrs().Index == up.Attrs().Index:
		f.OK, f.Detail = true, "the uplink is no port of a bridge"
	case !same:
		f.OK, f.Detail = true, "bridge and uplink have different MACs"
	case xdp:
		f.OK, f.Detail = true, "an XDP program takes the frames"
	default:
		drops, err := u.inputDropped(ctx)
		if f.OK = drops; drops {
			f.Detail = "nftables drops the uplink's frames behind the switch"
			break
		}
		f.Detail = "bridge and uplink have one MAC, and nothing keeps the uplink's frames from the kernel"
		if err != nil {
			f.Detail += " (" + err.Error() + ")"
		}
		f.Remedy = "nft 'table netdev uplink { chain in { type filter hook ingress device " +
			u.cfg.Uplink + " priority -500; policy drop; }; }' (the host's traffic goes through the bridge)"
	}
	return f
}

func (u *Underlay) inputDropped(ctx context.Context) (bool, error) {
	rules, err := u.ruleset(ctx)
	return err == nil && dropsIngress(rules, u.cfg.Uplink), err
}

// ruleset is what nftables has in u's namespace.
func (u *Underlay) ruleset(ctx context.Context) (string, error) {
	var out []byte
	err := u.inNamespace(func() (err error) {
		out, err = exec.CommandContext(ctx, u.cfg.NFT, "-n", "list", "ruleset").Output()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("nft: %w", err)
	}
	return string(out), nil
}

// checkGuard tries the guard for a moment.
func (u *Underlay) checkGuard(ctx context.Context, r bypass.PortRange) Finding {
	f := Finding{What: "host guard (nftables)"}
	err := u.Guard(ctx, r, []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, 1}), netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1})})
	if err == nil {
		err = u.Guard(ctx, r, nil)
	}
	if err != nil {
		f.Detail, f.Remedy = err.Error(), "install nftables, run as root, on Linux 5.12 or later"
		return f
	}
	f.OK = true
	return f
}
