//go:build !unix

package main

import "net"

// listenPrivate: this system has no modes; the directory must be private.
func listenPrivate(path string) (net.Listener, error) { return net.Listen("unix", path) }
