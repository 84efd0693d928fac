package discover

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// ThisHost reads this network namespace's interfaces and, on Linux, its routes.
func ThisHost() (Host, error) {
	list, err := net.Interfaces()
	if err != nil {
		return Host{}, fmt.Errorf("discover: interfaces: %w", err)
	}
	var h Host
	for _, i := range list {
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went meanwhile
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err == nil && p.Addr().IsGlobalUnicast() && !slices.Contains(h.Addressed, i.Name) {
				h.Addressed = append(h.Addressed, i.Name)
			}
		}
	}
	// The thread's own view: a process may have threads in several namespaces.
	for path, parse := range map[string]func(string) string{
		"/proc/thread-self/net/route": defaultRoute4, "/proc/thread-self/net/ipv6_route": defaultRoute6,
	} {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // not Linux, or without this family
		}
		if err != nil {
			return Host{}, fmt.Errorf("discover: routes: %w", err)
		}
		for line := range strings.Lines(string(text)) {
			if dev := parse(line); dev != "" && dev != "lo" && !slices.Contains(h.DefaultRoutes, dev) {
				h.DefaultRoutes = append(h.DefaultRoutes, dev)
			}
		}
	}
	return h, nil
}

// routeUp is RTF_UP, rejected RTF_REJECT.
const (
	routeUp  = 0x1
	rejected = 0x200
)

// defaultRoute4 is the device of a line of /proc/net/route, if it is a default route.
func defaultRoute4(line string) string {
	f := strings.Fields(line)
	if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" || !routes(f[3]) {
		return ""
	}
	return f[0]
}

// defaultRoute6 is the same for /proc/net/ipv6_route.
func defaultRoute6(line string) string {
	f := strings.Fields(line)
	if len(f) < 10 || strings.Trim(f[0], "0") != "" || f[1] != "00" || !routes(f[8]) {
		return ""
	}
	return f[9]
}

// routes tells whether the flags, in hex, are those of a route that forwards.
func routes(flags string) bool {
	b, err := hex.DecodeString(strings.Repeat("0", max(0, 8-len(flags))) + flags)
	if err != nil || len(b) != 4 {
		return false
	}
	v := binary.BigEndian.Uint32(b)
	return v&routeUp != 0 && v&rejected == 0
}
