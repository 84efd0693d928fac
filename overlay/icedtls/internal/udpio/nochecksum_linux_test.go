package udpio

import "golang.org/x/sys/unix"

// noChecksum has the socket send UDP without checksums.
func noChecksum(fd uintptr, on int) error {
	return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, on)
}
