package underlay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/tap"
)

// Route asks the kernel for its route to remote and for the next hop's MAC. An
// unresolved next hop is resolved by the kernel's own ARP or ND, for which Route
// waits up to Config.ResolveTimeout. A stale one is returned as it is, and the
// kernel is made to confirm it: it does not do so by itself for traffic that it
// does not send, and Watch tells if the answer differs.
func (u *Underlay) Route(ctx context.Context, remote netip.Addr) (bypass.Route, error) {
	remote = remote.Unmap().WithZone("")
	if remote.Is6() && remote.IsLinkLocalUnicast() {
		return bypass.Route{}, fmt.Errorf("underlay: %s means another station on each link", remote)
	}
	dev, up, err := u.links()
	if err != nil {
		return bypass.Route{}, err
	}
	r, err := u.kernelRoute(remote)
	if err != nil {
		return bypass.Route{}, err
	}
	hop, err := nextHop(r, remote, dev)
	if err != nil {
		return bypass.Route{}, err
	}
	local, err := u.source(r, remote, dev)
	if err != nil {
		return bypass.Route{}, err
	}
	mac, err := u.resolve(ctx, dev.Attrs().Index, hop)
	if err != nil {
		return bypass.Route{}, fmt.Errorf("underlay: next hop %s of %s: %w", hop, remote, err)
	}
	if len(up.Attrs().HardwareAddr) != len(tap.MAC{}) {
		return bypass.Route{}, fmt.Errorf("underlay: uplink %s has no Ethernet address", u.cfg.Uplink)
	}
	route := bypass.Route{
		Local:   local,
		Src:     tap.MAC(up.Attrs().HardwareAddr),
		Via:     hop,
		NextHop: mac,
		OnLink:  hop == remote,
		MTU:     u.mtu(r, remote, dev, up),
	}
	if own := dev.Attrs().HardwareAddr; len(own) == len(tap.MAC{}) && tap.MAC(own) != route.Src {
		route.HostMAC = tap.MAC(own)
	}
	return route, nil
}

func (u *Underlay) kernelRoute(remote netip.Addr) (netlink.Route, error) {
	routes, err := u.handle.RouteGet(remote.AsSlice())
	if err != nil {
		return netlink.Route{}, fmt.Errorf("underlay: route to %s: %w", remote, err)
	}
	if len(routes) == 0 {
		return netlink.Route{}, fmt.Errorf("underlay: no route to %s", remote)
	}
	return routes[0], nil
}

// source is our address on the way to remote. Of several IPv6 addresses in one prefix the
// kernel may choose one that Addrs does not list (a temporary one), or for each remote
// another: the first that is listed stands for all of them.
func (u *Underlay) source(r netlink.Route, remote netip.Addr, dev netlink.Link) (netip.Addr, error) {
	src, ok := netip.AddrFromSlice(r.Src)
	if !ok {
		return netip.Addr{}, fmt.Errorf("underlay: route to %s has no source address", remote)
	}
	if src = src.Unmap(); src.Is4() {
		return src, nil
	}
	list, err := u.addrs(dev, netlink.FAMILY_V6)
	if err != nil {
		return netip.Addr{}, err
	}
	const subnet = 64 // RFC 4291, 2.5.1; an address by DHCP has 128
	for _, p := range list {
		if netip.PrefixFrom(p.Addr(), min(subnet, p.Bits())).Contains(src) {
			return p.Addr(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("underlay: %s has no address that may be used on the way to %s", dev.Attrs().Name, remote)
}

// mtu is that of the links, of the route if it has one, and of the path if the kernel
// learned it from ICMP.
func (u *Underlay) mtu(r netlink.Route, remote netip.Addr, dev, up netlink.Link) int {
	mtu := min(dev.Attrs().MTU, up.Attrs().MTU)
	if r.MTU > 0 {
		mtu = min(mtu, r.MTU)
	}
	if remote.Is4() {
		return mtu
	}
	// A router may have said less for IPv6 on this link (RFC 4861, 4.6.4).
	text, err := u.sysctl("ipv6/conf/" + dev.Attrs().Name + "/mtu")
	if n, bad := strconv.Atoi(strings.TrimSpace(text)); err == nil && bad == nil {
		mtu = min(mtu, n)
	}
	return mtu
}

func (u *Underlay) links() (dev, up netlink.Link, err error) {
	if up, err = u.handle.LinkByName(u.cfg.Uplink); err != nil {
		return nil, nil, fmt.Errorf("underlay: uplink %s: %w", u.cfg.Uplink, err)
	}
	if u.cfg.Device == u.cfg.Uplink {
		return up, up, nil
	}
	if dev, err = u.handle.LinkByName(u.cfg.Device); err != nil {
		return nil, nil, fmt.Errorf("underlay: device %s: %w", u.cfg.Device, err)
	}
	return dev, up, nil
}

// nextHop is the station on the device's link that r leads to.
func nextHop(r netlink.Route, remote netip.Addr, dev netlink.Link) (netip.Addr, error) {
	switch {
	case r.Type == unix.RTN_LOCAL:
		return netip.Addr{}, fmt.Errorf("underlay: %s is an address of this host", remote)
	case r.Type != unix.RTN_UNICAST:
		return netip.Addr{}, fmt.Errorf("underlay: %s is not a unicast destination", remote)
	case r.LinkIndex != dev.Attrs().Index:
		return netip.Addr{}, fmt.Errorf("underlay: the route to %s does not use %s", remote, dev.Attrs().Name)
	}
	gw := r.Gw
	if via, ok := r.Via.(*netlink.Via); ok {
		gw = via.Addr
	}
	if len(gw) == 0 {
		return remote, nil
	}
	hop, ok := netip.AddrFromSlice(gw)
	if !ok {
		return netip.Addr{}, fmt.Errorf("underlay: the route to %s has an odd gateway", remote)
	}
	return hop.Unmap(), nil
}

var errUnresolved = errors.New("no answer to ARP or neighbour discovery")

// resolve returns hop's MAC on the link.
func (u *Underlay) resolve(ctx context.Context, link int, hop netip.Addr) (tap.MAC, error) {
	mac, state, err := u.neighbour(link, hop)
	if err != nil {
		return tap.MAC{}, err
	}
	const confirmed = netlink.NUD_REACHABLE | netlink.NUD_PERMANENT | netlink.NUD_NOARP
	if state&confirmed != 0 {
		return mac, nil
	}
	if err := u.use(link, hop); err != nil {
		return tap.MAC{}, err
	}
	if !mac.IsZero() {
		return mac, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, u.cfg.ResolveTimeout, errUnresolved)
	defer cancel()
	const first, longest = time.Millisecond, 50 * time.Millisecond
	for wait := first; ; wait = min(2*wait, longest) {
		select {
		case <-ctx.Done():
			return tap.MAC{}, context.Cause(ctx)
		case <-time.After(wait):
		}
		mac, _, err = u.neighbour(link, hop)
		if err != nil || !mac.IsZero() {
			return mac, err
		}
	}
}

// neighbour reads one entry of the kernel's neighbour table; a zero MAC means not resolved.
func (u *Underlay) neighbour(link int, hop netip.Addr) (tap.MAC, int, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, 0)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: u.neighbours}
	req.AddData(&netlink.Ndmsg{Family: uint8(family(hop)), Index: uint32(link)})
	req.AddData(nl.NewRtAttr(netlink.NDA_DST, hop.AsSlice()))
	answers, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
	if errors.Is(err, unix.ENOENT) {
		return tap.MAC{}, 0, nil
	}
	if err != nil {
		return tap.MAC{}, 0, fmt.Errorf("neighbours: %w", err)
	}
	if len(answers) == 0 {
		return tap.MAC{}, 0, nil
	}
	n, err := netlink.NeighDeserialize(answers[0])
	if err != nil {
		return tap.MAC{}, 0, fmt.Errorf("neighbours: %w", err)
	}
	const valid = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY |
		netlink.NUD_PROBE | netlink.NUD_PERMANENT | netlink.NUD_NOARP
	if n.State&valid == 0 || len(n.HardwareAddr) != len(tap.MAC{}) {
		return tap.MAC{}, n.State, nil
	}
	return tap.MAC(n.HardwareAddr), n.State, nil
}

// use makes the kernel resolve or confirm hop, as if it had a packet for it.
func (u *Underlay) use(link int, hop netip.Addr) error {
	err := u.handle.NeighSet(&netlink.Neigh{
		LinkIndex: link,
		Family:    family(hop),
		Flags:     netlink.NTF_USE,
		IP:        hop.AsSlice(),
	})
	if err != nil {
		return fmt.Errorf("ask for neighbour: %w", err)
	}
	return nil
}

func family(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}
