//go:build unix

package main

import (
	"net"
	"syscall"
)

// listenPrivate makes a socket that only its owner may open, from its first moment:
// a chmod would come after it. The umask is the process's; nothing else of the node
// runs yet.
func listenPrivate(path string) (net.Listener, error) {
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	return net.Listen("unix", path)
}
