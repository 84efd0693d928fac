package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// realLinks are the kernel's. It works on a container's namespace through a netlink socket that
// is in there; no thread of the plugin leaves its own.
type realLinks struct{}

// container is an open namespace, which is not the host's. Close it.
type container struct {
	*netlink.Handle
	ns netns.NsHandle
}

func openContainer(path string) (*container, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNetns, err)
	}
	own, err := netns.Get()
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	defer own.Close()
	if ns.Equal(own) {
		return nil, errors.Join(fmt.Errorf("%w: %s is the host's own", errNetns, path), ns.Close())
	}
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", errNetns, err), ns.Close())
	}
	return &container{h, ns}, nil
}

func (c *container) Close() {
	c.Handle.Close()
	_ = c.ns.Close() // nothing was written to it
}

func (realLinks) check(path, ifname string) error {
	c, err := openContainer(path)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.LinkByName(ifname)
	switch {
	case err == nil:
		return errExists
	case isNoLink(err):
		return nil
	}
	return err
}

func isNoLink(err error) bool {
	_, is := errors.AsType[netlink.LinkNotFoundError](err)
	return is
}

func (l realLinks) plug(p pair) error {
	c, err := openContainer(p.netns)
	if err != nil {
		return err
	}
	defer c.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = p.host, p.mtu
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: p.ifname, PeerHardwareAddr: p.mac[:], PeerNamespace: netlink.NsFd(c.ns)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make %s: %w", p.host, err)
	}
	// What the host's kernel says of itself on this link is not for the container. Where that
	// cannot be had (no IPv6, /proc/sys is read-only) the container hears a router solicitation.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+p.host+"/disable_ipv6", []byte("1"), 0o644)
	if err := netlink.LinkSetUp(&netlink.Veth{LinkAttrs: attrs}); err != nil {
		return errors.Join(fmt.Errorf("set %s up: %w", p.host, err), l.unplug(p.host))
	}
	return nil
}

func (realLinks) configure(p pair, ips []ipConfig, routes []route) error {
	c, err := openContainer(p.netns)
	if err != nil {
		return err
	}
	defer c.Close()
	link, err := c.LinkByName(p.ifname)
	if err != nil {
		return fmt.Errorf("%s: %w", p.ifname, err)
	}
	if p.finish {
		if err := c.finishFrames(p.ifname); err != nil {
			return fmt.Errorf("turn tx offload of %s off: %w", p.ifname, err)
		}
	}
	for _, ip := range ips {
		addr := &netlink.Addr{IPNet: ipNet(ip.address)}
		if ip.address.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD // the IPAM plugin says that nobody else has it
		}
		if err := c.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add %v: %w", ip.address, err)
		}
	}
	if err := c.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", p.ifname, err)
	}
	for _, r := range routes {
		if err := c.RouteAdd(r.netlink(link.Attrs().Index)); err != nil {
			return fmt.Errorf("add route to %v via %v: %w", r.dst, r.gateway, err)
		}
	}
	return nil
}

// netlink is r as the kernel takes it, out of the link of that index.
func (r route) netlink(index int) *netlink.Route {
	out := &netlink.Route{LinkIndex: index, Dst: ipNet(r.dst.Masked()), MTU: r.MTU, AdvMSS: r.AdvMSS, Priority: r.Priority}
	if r.gateway.IsValid() {
		out.Gw = net.IP(r.gateway.AsSlice())
	} else {
		out.Scope = netlink.SCOPE_LINK
	}
	if r.Table != nil {
		out.Table = *r.Table
	}
	if r.Scope != nil {
		out.Scope = netlink.Scope(*r.Scope)
	}
	return out
}

func (realLinks) unplug(host string) error {
	link, err := netlink.LinkByName(host)
	if err == nil && link.Type() != "veth" {
		return fmt.Errorf("%s is a %s, not one of ours", host, link.Type())
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if isNoLink(err) || errors.Is(err, unix.ENODEV) { // a namespace's end takes its links a moment later
		return nil
	}
	return err
}

func (realLinks) hostEnds(prefix string) (names []string, err error) {
	list, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, link := range list {
		if link.Type() == "veth" && strings.HasPrefix(link.Attrs().Name, prefix) {
			names = append(names, link.Attrs().Name)
		}
	}
	return names, nil
}

func (realLinks) look(p pair, ips []ipConfig, routes []route) error {
	c, err := openContainer(p.netns)
	if err != nil {
		return err
	}
	defer c.Close()
	link, err := c.LinkByName(p.ifname)
	if err != nil {
		return fmt.Errorf("%s: %w", p.ifname, err)
	}
	host, err := netlink.LinkByName(p.host)
	if err != nil {
		return fmt.Errorf("the host's end %s: %w", p.host, err)
	}
	switch at := link.Attrs(); {
	case at.HardwareAddr.String() != p.mac.String():
		return fmt.Errorf("its MAC is %v, not %v", at.HardwareAddr, p.mac)
	case p.mtu != 0 && at.MTU != p.mtu:
		return fmt.Errorf("its MTU is %d, not %d", at.MTU, p.mtu)
	case at.ParentIndex != host.Attrs().Index || host.Attrs().ParentIndex != at.Index:
		return fmt.Errorf("%s is not its other end", p.host)
	case at.Flags&net.FlagUp == 0:
		return errors.New("it is down")
	case host.Attrs().Flags&net.FlagUp == 0:
		return fmt.Errorf("the host's end %s is down", p.host)
	}
	return c.lookUp(link, ips, routes)
}

// lookUp compares addresses and routes.
func (c *container) lookUp(link netlink.Link, ips []ipConfig, routes []route) error {
	has, err := c.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, ip := range ips {
		if !slices.ContainsFunc(has, func(a netlink.Addr) bool { return prefixIs(a.IPNet, ip.address) }) {
			return fmt.Errorf("it has no address %v", ip.address)
		}
	}
	for _, r := range routes {
		want := r.netlink(link.Attrs().Index)
		mask := uint64(netlink.RT_FILTER_OIF)
		if want.Table != 0 {
			mask |= netlink.RT_FILTER_TABLE
		}
		family := netlink.FAMILY_V4
		if r.dst.Addr().Is6() {
			family = netlink.FAMILY_V6
		}
		has, err := c.RouteListFiltered(family, want, mask)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(has, func(k netlink.Route) bool { return prefixIs(k.Dst, r.dst.Masked()) && k.Gw.Equal(want.Gw) }) {
			return fmt.Errorf("it has no route to %v via %v", r.dst, r.gateway)
		}
	}
	return nil
}

// prefixIs compares what the kernel says, where nil is everything.
func prefixIs(n *net.IPNet, p netip.Prefix) bool {
	if n == nil {
		return p.Bits() == 0
	}
	got, err := prefixOf(*n)
	return err == nil && got == p
}

// finishFrames turns checksum offload off, and with it all that needs it. ethtool runs in the
// namespace of the thread that starts it, which ends with its goroutine.
func (c *container) finishFrames(ifname string) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		err := netns.Set(c.ns)
		if err == nil {
			var out []byte
			if out, err = exec.Command("ethtool", "-K", ifname, "tx", "off").CombinedOutput(); err != nil {
				err = fmt.Errorf("ethtool: %w: %s", err, bytes.TrimSpace(out))
			}
		}
		done <- err
	}()
	return <-done
}

// ipNet is p as netlink and CNI write it.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
