package underlay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/bypass"
)

// Underlay implements bypass.Underlay. All methods may be called by several
// goroutines at once.
type Underlay struct {
	cfg    Config
	ns     netns.NsHandle
	handle *netlink.Handle // its sockets live in ns
	// neighbours is a socket for what handle cannot: to ask for one neighbour instead of
	// all. A request locks it.
	neighbours *nl.SocketHandle

	closing  sync.Once
	closeErr error

	guardMu sync.Mutex // serialises changes of the guard; held while nft answers
	guard   *guard     // nil = no guard
	closed  bool
}

var _ bypass.Underlay = (*Underlay)(nil)

// Open binds an Underlay to the calling thread's network namespace. The devices
// need not exist yet.
func Open(cfg Config) (*Underlay, error) {
	cfg = cfg.normal()
	if cfg.Uplink == "" {
		return nil, errors.New("underlay: no uplink named")
	}
	ns, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("underlay: network namespace: %w", err)
	}
	// In our own namespace already: asking for it by handle would need privileges.
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		_ = ns.Close()
		return nil, fmt.Errorf("underlay: netlink: %w", err)
	}
	sock, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		h.Close()
		_ = ns.Close()
		return nil, fmt.Errorf("underlay: netlink: %w", err)
	}
	return &Underlay{cfg: cfg, ns: ns, handle: h, neighbours: &nl.SocketHandle{Socket: sock}}, nil
}

// Close ends the guard and frees the sockets. It is idempotent, and called once
// nobody uses u any more. Watches end with their own contexts.
func (u *Underlay) Close() error {
	u.closing.Do(func() {
		u.closeErr = errors.Join(u.endGuard(true), u.ns.Close())
		u.handle.Close()
		u.neighbours.Close()
	})
	return u.closeErr
}

// Addrs lists the device's addresses in the kernel's order, which is the order of
// preference, without those that must not be used: deprecated and tentative ones, and
// of IPv6 link-local and temporary ones (RFC 8981), which are not for being found.
func (u *Underlay) Addrs(ctx context.Context) ([]netip.Prefix, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dev, err := u.handle.LinkByName(u.cfg.Device)
	if err != nil {
		return nil, fmt.Errorf("underlay: device %s: %w", u.cfg.Device, err)
	}
	return u.addrs(dev, netlink.FAMILY_ALL)
}

func (u *Underlay) addrs(dev netlink.Link, family int) ([]netip.Prefix, error) {
	list, err := u.handle.AddrList(dev, family)
	if err != nil {
		return nil, fmt.Errorf("underlay: addresses of %s: %w", dev.Attrs().Name, err)
	}
	var out []netip.Prefix
	for _, a := range list {
		if p, ok := prefixOf(a.IPNet); ok && usable(p.Addr(), a.Flags) {
			out = append(out, p)
		}
	}
	return out, nil
}

func usable(a netip.Addr, flags int) bool {
	const never = unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
	if a.Is4() { // there the bit of IFA_F_TEMPORARY means something else
		return flags&never == 0
	}
	return flags&(never|unix.IFA_F_TEMPORARY) == 0 && !a.IsLinkLocalUnicast()
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones), ok
}

// Watch subscribes to the kernel's news and calls f for each that may matter: any
// link, address or route, and the neighbours of our device. Lost news count as news.
func (u *Underlay) Watch(ctx context.Context, f func()) error {
	var sock *nl.NetlinkSocket
	err := u.inNamespace(func() (err error) {
		sock, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
			unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
		return err
	})
	if err != nil {
		return fmt.Errorf("underlay: watch: %w", err)
	}
	stop := context.AfterFunc(ctx, sock.Close)
	defer func() {
		if stop() {
			sock.Close()
		}
	}()
	f() // what changed before the subscription is news too
	for {
		msgs, _, err := sock.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // the kernel dropped some
			f()
			continue
		case err != nil:
			return fmt.Errorf("underlay: watch: %w", err)
		}
		for _, m := range msgs {
			if u.matters(m.Header.Type, m.Data) {
				f()
				break // one hint per datagram is enough
			}
		}
	}
}

// matters spares the callee the neighbours of other devices: a host with many
// containers has news of those all the time.
func (u *Underlay) matters(kind uint16, data []byte) bool {
	if kind != unix.RTM_NEWNEIGH && kind != unix.RTM_DELNEIGH {
		return true
	}
	n, err := netlink.NeighDeserialize(data)
	if err != nil {
		return true
	}
	dev, err := u.handle.LinkByName(u.cfg.Device)
	return err != nil || dev.Attrs().Index == n.LinkIndex
}

// inNamespace runs f on a thread in u's namespace.
func (u *Underlay) inNamespace(f func() error) error {
	runtime.LockOSThread()
	here, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("network namespace: %w", err)
	}
	defer here.Close()
	if here.Equal(u.ns) {
		defer runtime.UnlockOSThread()
		return f()
	}
	if err := netns.Set(u.ns); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	ferr := f()
	if err := netns.Set(here); err != nil {
		// The thread is in the wrong place: it stays locked and ends with its goroutine.
		return errors.Join(ferr, fmt.Errorf("leave network namespace: %w", err))
	}
	runtime.UnlockOSThread()
	return ferr
}
