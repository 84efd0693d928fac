package tcpsignal

import (
	"errors"
	"syscall"
)

// Winsock's error codes; those of package syscall that have POSIX names are never
// what a socket gives.
const (
	wsaEMFILE       syscall.Errno = 10024
	wsaECONNABORTED syscall.Errno = 10053
	wsaECONNRESET   syscall.Errno = 10054
	wsaENOBUFS      syscall.Errno = 10055
)

func shortage(err error) bool {
	var e syscall.Errno
	if !errors.As(err, &e) {
		return false
	}
	switch e {
	case wsaEMFILE, wsaECONNABORTED, wsaECONNRESET, wsaENOBUFS:
		return true
	}
	return false
}
