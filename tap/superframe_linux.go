package tap

import (
	"encoding/binary"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// setSuperFrame sets an interface's gso_max_size, which only rtnetlink(7) can.
func setSuperFrame(name string, size int) error {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	if err := unix.Sendto(s, setLink(i.Index, size), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(s, answer, 0)
	if err != nil {
		return err
	}
	return acknowledged(answer[:n])
}

// setLink is a request for an answer: RTM_SETLINK with IFLA_GSO_MAX_SIZE.
func setLink(index, size int) []byte {
	const length = unix.SizeofNlMsghdr + unix.SizeofIfInfomsg + unix.SizeofRtAttr + 4
	b := make([]byte, 0, length)
	b = binary.NativeEndian.AppendUint32(b, length)
	b = binary.NativeEndian.AppendUint16(b, unix.RTM_SETLINK)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = append(b, make([]byte, 8)...) // sequence number and port: there is but this one
	b = append(b, unix.AF_UNSPEC, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = append(b, make([]byte, 8)...) // no flags
	b = binary.NativeEndian.AppendUint16(b, unix.SizeofRtAttr+4)
	b = binary.NativeEndian.AppendUint16(b, unix.IFLA_GSO_MAX_SIZE)
	return binary.NativeEndian.AppendUint32(b, uint32(size))
}

// acknowledged reads what the kernel answered.
func acknowledged(b []byte) error {
	const errnoAt = unix.SizeofNlMsghdr
	if len(b) < errnoAt+4 || binary.NativeEndian.Uint16(b[4:]) != unix.NLMSG_ERROR {
		return fmt.Errorf("netlink: an answer of %d bytes that is none", len(b))
	}
	if errno := -int32(binary.NativeEndian.Uint32(b[errnoAt:])); errno != 0 {
		return syscall.Errno(errno)
	}
	return nil
}
