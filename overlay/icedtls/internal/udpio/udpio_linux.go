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
	raw    syscall.RawConn
	v6     bool // the socket's family; it takes IPv4 too, mapped
	groups bool // UDP_GRO is on
	calls  sync.Pool
	in     call // Receive's
}

// call is the memory of one system call. Its method values are made once: a closure would
// be allocated for each call.
type call struct {
	hdr     unix.Msghdr
	iov     [MaxRun]unix.Iovec
	name    unix.RawSockaddrInet6 // or Inet4, which is shorter
	_       [0]unix.Cmsghdr       // aligns what follows
	control [64]byte
	n       int
	errno   syscall.Errno
	send    func(fd uintptr) bool
	recv    func(fd uintptr) bool
	once    func(fd uintptr) bool // recv that does not wait
}

func newCall() *call {
	k := &call{}
	k.send = func(fd uintptr) bool { return k.do(unix.SYS_SENDMSG, fd) }
	return k
}

// receives readies k for receiving.
func (k *call) receives() {
	k.recv = func(fd uintptr) bool { return k.do(unix.SYS_RECVMSG, fd) }
	k.once = func(fd uintptr) bool { _ = k.recv(fd); return true }
}

// do is false when the call would have blocked. The socket is non-blocking, so the runtime need
// not be told: a RawSyscall keeps its processor for the some 10 us that the kernel takes, where a
// Syscall may lose it, and wakes the runtime's monitor each time the program was idle.
func (k *call) do(trap, fd uintptr) bool {
	for {
		n, _, errno := unix.RawSyscall(trap, fd, uintptr(unsafe.Pointer(&k.hdr)), 0)
		k.n, k.errno = int(n), errno
		if errno != unix.EINTR {
			return errno != unix.EAGAIN
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
	c.sys.raw, c.sys.calls.New = raw, func() any { return newCall() }
	c.sys.in.receives()
	err = raw.Control(func(fd uintptr) {
		family, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN)
		c.sys.v6 = err == nil && family == unix.AF_INET6
		c.sys.groups = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil
		_, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		c.segments.Store(err == nil)
	})
	if err != nil {
		return fmt.Errorf("udpio: %w", err)
	}
	return nil
}

func (c *Conn) coalesces() bool { return c.sys.groups }

// refuses tells whether err means that runs cannot be cut on this way: EIO is a device
// without checksums (udp(7)), EINVAL an old kernel or a segment that would not fit, EMSGSIZE the same.
func (c *Conn) refuses(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EMSGSIZE)
}

func (c *Conn) send(datagrams [][]byte, to netip.AddrPort) error {
	k := c.sys.calls.Get().(*call)
	defer c.sys.calls.Put(k)
	size := c.setName(k, to)
	if size == 0 {
		return unix.EAFNOSUPPORT
	}
	for i, d := range datagrams {
		k.iov[i].Base = unsafe.SliceData(d)
		k.iov[i].SetLen(len(d))
	}
	k.hdr = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&k.name)), Namelen: size, Iov: &k.iov[0]}
	k.hdr.SetIovlen(len(datagrams))
	if len(datagrams) > 1 {
		k.setSegment(len(datagrams[0]))
	}
	err := c.sys.raw.Write(k.send)
	clear(k.iov[:len(datagrams)]) // keeps nobody's memory alive
	switch {
	case err != nil:
		return err // net.ErrClosed
	case k.errno != 0:
		return k.errno
	}
	return nil
}

// setSegment adds the length of each datagram.
func (k *call) setSegment(size int) {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&k.control))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(k.control[unix.CmsgLen(0):], uint16(size))
	k.hdr.Control = &k.control[0]
	k.hdr.SetControllen(unix.CmsgSpace(2))
}

// setName sets the address, and returns its length; 0 = it is not of the socket's family.
func (c *Conn) setName(k *call, to netip.AddrPort) uint32 {
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

func (c *Conn) receive(buf []byte, wait bool) (n, size int, from netip.AddrPort, err error) {
	k := &c.sys.in
	k.iov[0].Base = unsafe.SliceData(buf)
	k.iov[0].SetLen(len(buf))
	k.hdr = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&k.name)), Namelen: unix.SizeofSockaddrInet6, Iov: &k.iov[0], Control: &k.control[0]}
	k.hdr.SetIovlen(1)
	k.hdr.SetControllen(len(k.control))
	call := k.recv
	if !wait {
		call = k.once
	}
	err = c.sys.raw.Read(call)
	k.iov[0].Base = nil
	switch {
	case err != nil:
		return 0, 0, from, err
	case k.errno == unix.EAGAIN:
		return 0, 0, from, errNothing
	case k.errno != 0:
		return 0, 0, from, k.errno
	}
	return k.n, k.segment(), k.from(), nil
}

// segment is the length of each datagram that was received; 0 = there is but one.
func (k *call) segment() int {
	if int(k.hdr.Controllen) < unix.CmsgLen(4) {
		return 0
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&k.control))
	if h.Level != unix.IPPROTO_UDP || h.Type != unix.UDP_GRO {
		return 0
	}
	return int(binary.NativeEndian.Uint32(k.control[unix.CmsgLen(0):]))
}

func (k *call) from() netip.AddrPort {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&k.name.Port))[:])
	if k.name.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(&k.name)).Addr), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(k.name.Addr), port)
}
