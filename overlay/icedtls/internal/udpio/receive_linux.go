package udpio

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxMessages is how many one recvmmsg brings at most.
const maxMessages = 32

// inbound is the memory of the one call that receives, and what it brought that was not asked for
// yet. Where the kernel joins runs (UDP_GRO), a call brings one message, into the receiver's
// memory; else several, into slots.
type inbound struct {
	joined  bool
	msgs    []mmsghdr
	iov     []unix.Iovec
	names   []unix.RawSockaddrInet6 // or Inet4, which are shorter
	slots   []byte                  // of BufferSize each; pages that are never used cost nothing
	_       [0]unix.Cmsghdr         // aligns what follows
	control [64]byte
	next    int // message to hand over
	have    int
	waited  bool // there was nothing at first
	errno   syscall.Errno
	read    func(fd uintptr) bool
	once    func(fd uintptr) bool // read that does not wait
}

func (k *inbound) init(joined bool) {
	n := maxMessages
	if k.joined = joined; joined {
		n = 1
	} else {
		k.slots = make([]byte, n*BufferSize)
	}
	k.msgs, k.iov, k.names = make([]mmsghdr, n), make([]unix.Iovec, n), make([]unix.RawSockaddrInet6, n)
	k.next, k.have = 0, 0
	k.read = k.do
	k.once = func(fd uintptr) bool { _ = k.do(fd); return true }
}

// do is false when there is nothing.
func (k *inbound) do(fd uintptr) bool {
	if k.joined {
		var n int
		n, k.errno = call(unix.SYS_RECVMSG, fd, unsafe.Pointer(&k.msgs[0].hdr), 0)
		k.have, k.msgs[0].n = 1, uint32(n)
	} else {
		k.have, k.errno = call(unix.SYS_RECVMMSG, fd, unsafe.Pointer(&k.msgs[0]), len(k.msgs))
	}
	if k.errno != 0 {
		k.have = 0
	}
	k.waited = k.waited || k.errno == unix.EAGAIN
	return k.errno != unix.EAGAIN
}

func (c *Conn) waited() bool { return c.sys.in.waited }

// set readies message i for receiving into b.
func (k *inbound) set(i int, b []byte) {
	k.iov[i].Base = unsafe.SliceData(b)
	k.iov[i].SetLen(len(b))
	h := &k.msgs[i].hdr
	*h = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&k.names[i])), Namelen: unix.SizeofSockaddrInet6, Iov: &k.iov[i]}
	h.SetIovlen(1)
	if k.joined {
		h.Control = &k.control[0]
		h.SetControllen(len(k.control))
	}
}

func (k *inbound) slot(i int) []byte { return k.slots[i*BufferSize:][:BufferSize] }

func (c *Conn) receive(buf []byte, wait bool) (n, size int, from netip.AddrPort, err error) {
	k := &c.sys.in
	k.waited = false
	if k.next < k.have {
		n, size, from = k.take(buf)
		return n, size, from, nil
	}
	k.next, k.have = 0, 0
	if k.joined {
		k.set(0, buf)
	} else {
		for i := range k.msgs {
			k.set(i, k.slot(i))
		}
	}
	read := k.read
	if !wait {
		read = k.once
	}
	err = c.sys.raw.Read(read)
	if k.joined {
		k.iov[0].Base = nil // keeps nobody's memory alive
	}
	switch {
	case err != nil:
		k.have = 0
		return 0, 0, from, err
	case k.errno == unix.EAGAIN:
		return 0, 0, from, errNothing
	case k.errno != 0:
		return 0, 0, from, k.errno
	}
	c.stats.receives.Add(1)
	if k.joined {
		k.next = 1
		return int(k.msgs[0].n), k.segment(), k.from(0), nil
	}
	n, size, from = k.take(buf)
	return n, size, from, nil
}

// take joins the next messages as the kernel would: from one address, of one length but that
// the last may be shorter.
func (k *inbound) take(buf []byte) (n, size int, from netip.AddrPort) {
	first := k.next
	size = int(k.msgs[first].n)
	for k.next < k.have && k.names[k.next] == k.names[first] {
		d := k.slot(k.next)[:k.msgs[k.next].n]
		if k.next > first && (len(d) == 0 || len(d) > size || len(d) > len(buf)-n) {
			break
		}
		n += copy(buf[n:], d)
		k.next++
		if len(d) < size {
			break
		}
	}
	return n, size, k.from(first)
}

// segment is the length of each datagram that was received; 0 = there is but one.
func (k *inbound) segment() int {
	if int(k.msgs[0].hdr.Controllen) < unix.CmsgLen(4) {
		return 0
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&k.control))
	if h.Level != unix.IPPROTO_UDP || h.Type != unix.UDP_GRO {
		return 0
	}
	return int(binary.NativeEndian.Uint32(k.control[unix.CmsgLen(0):]))
}

func (k *inbound) from(i int) netip.AddrPort {
	name := &k.names[i]
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&name.Port))[:])
	if name.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(name)).Addr), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(name.Addr), port)
}
