//go:build !linux

package icedtls

import "net/netip"

func dontFragment(uintptr) {}

func kernelMTU(netip.Addr, netip.AddrPort) int { return 0 }
