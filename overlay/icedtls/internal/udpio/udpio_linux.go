package udpio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sys is what system calls need.
type sys struct {
	raw   syscall.RawConn
	v6    bool // the socket's family; it takes IPv4 too, mapped
	calls sync.Pool
	in    inbound
}

// mmsghdr is struct mmsghdr of sendmmsg(2) and recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// outbound is the memory of one sending call. Its method value is made once: a closure would
// be allocated for each call.
type outbound struct {
	msgs    [MaxRun]mmsghdr
	iov     [MaxRun]unix.Iovec
	name    unix.RawSockaddrInet6 // or Inet4, which is shorter
	_       [0]unix.Cmsghdr       // aligns what follows
	control [MaxRun][unix.SizeofCmsghdr + 8]byte
	runs    int // messages to send
	taken   int
	errno   syscall.Errno
	send    func(fd uintptr) bool
}

func newOutbound() *outbound {
	k := &outbound{}
	k.send = k.do
	return k
}

// do is false when the call would have blocked.
func (k *outbound) do(fd uintptr) bool {
	if k.runs == 1 {
		_, k.errno = call(unix.SYS_SENDMSG, fd, unsafe.Pointer(&k.msgs[0].hdr), 0)
		k.taken = 1
	} else {
		k.taken, k.errno = call(unix.SYS_SENDMMSG, fd, unsafe.Pointer(&k.msgs), k.runs)
	}
	if k.errno != 0 {
		k.taken = 0
	}
	return k.errno != unix.EAGAIN
}

// call is a system call on the socket. That is non-blocking, so the runtime need
// not be told: a RawSyscall keeps its processor for the some 10 us that the kernel takes, where a
// Syscall may lose it, and wakes the runtime's monitor each time the program was idle.
func call(trap, fd uintptr, what unsafe.Pointer, many int) (n int, errno syscall.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(trap, fd, uintptr(what), uintptr(many), 0, 0, 0)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

func force(udp *net.UDPConn, bytes int) {
	raw, err := udp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes)
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, bytes)
	})
}

func (c *Conn) open() error {
	raw, err := c.udp.SyscallConn()
	if err != nil {
		return fmt.Errorf("udpio: %w", err)
	}
	c.sys.raw, c.sys.calls.New = raw, func() any { return newOutbound() }
	err = raw.Control(func(fd uintptr) {
		family, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN)
		c.sys.v6 = err == nil && family == unix.AF_INET6
		c.sys.in.init(unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil)
		_, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		c.segments.Store(err == nil)
	})
	if err != nil {
		return fmt.Errorf("udpio: %w", err)
	}
	return nil
}

func (c *Conn) coalesces() bool { return c.sys.in.joined }

// keepApart has the kernel not join runs.
func (c *Conn) keepApart() {
	_ = c.sys.raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 0)
		c.sys.in.init(false)
	})
}

// refuses tells whether err means that runs cannot be cut on this way: EIO is a device
// without checksums (udp(7)), EINVAL an old kernel or a segment that would not fit, EMSGSIZE the same.
func (c *Conn) refuses(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EMSGSIZE)
}

// send sends the first of some runs, or some of them, by one call, and tells how many the kernel took; err is about
// the one behind these.
func (c *Conn) send(datagrams [][]byte, runs []int, to netip.AddrPort) (taken int, err error) {
	k := c.sys.calls.Get().(*outbound)
	defer c.sys.calls.Put(k)
	size := c.setName(k, to)
	if size == 0 {
		return 0, unix.EAFNOSUPPORT
	}
	for i, d := range datagrams {
		k.iov[i].Base = unsafe.SliceData(d)
		k.iov[i].SetLen(len(d))
	}
	at := 0
	for i, n := range runs {
		h := &k.msgs[i].hdr
		*h = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&k.name)), Namelen: size, Iov: &k.iov[at]}
		h.SetIovlen(n)
		if n > 1 {
			setSegment(h, &k.control[i], len(datagrams[at]))
		}
		at += n
	}
	k.runs = len(runs)
	err = c.sys.raw.Write(k.send)
	clear(k.iov[:len(datagrams)]) // keeps nobody's memory alive
	switch {
	case err != nil:
		return 0, err // net.ErrClosed
	case k.errno != 0:
		return 0, k.errno
	}
	return k.taken, nil
}

// setSegment adds the length of each datagram.
func setSegment(h *unix.Msghdr, control *[unix.SizeofCmsghdr + 8]byte, size int) {
	c := (*unix.Cmsghdr)(unsafe.Pointer(control))
	c.Level, c.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	c.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(control[unix.CmsgLen(0):], uint16(size))
	h.Control = &control[0]
	h.SetControllen(unix.CmsgSpace(2))
}

// setName sets the address, and returns its length; 0 = it is not of the socket's family.
func (c *Conn) setName(k *outbound, to netip.AddrPort) uint32 {
	a := to.Addr()
	if c.sys.v6 {
		k.name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: a.As16()}
		if zone := a.Zone(); zone != "" {
			i, err := net.InterfaceByName(zone)
			if err != nil {
				return 0
			}
			k.name.Scope_id = uint32(i.Index)
		}
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&k.name.Port))[:], to.Port())
		return unix.SizeofSockaddrInet6
	}
	if a = a.Unmap(); !a.Is4() {
		return 0
	}
	name := (*unix.RawSockaddrInet4)(unsafe.Pointer(&k.name))
	*name = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: a.As4()}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&name.Port))[:], to.Port())
	return unix.SizeofSockaddrInet4
}
