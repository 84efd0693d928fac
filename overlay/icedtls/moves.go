package icedtls

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// moveInterval is how often addresses are looked at.
const moveInterval = 250 * time.Millisecond

// moves counts how often the addresses changed that a Transport can be reached at.
type moves struct{ count atomic.Uint64 }

// watchMoves is the goroutine that notices other addresses. It asks the kernel, again and
// again: that works on every system, and costs two short dumps.
func (t *Transport) watchMoves(ctx context.Context) {
	tick := time.NewTicker(moveInterval)
	defer tick.Stop()
	seen := addressing()
	last, _ := t.socket.localAddrs(&t.config)
	slices.SortFunc(last, netip.AddrPort.Compare)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := addressing()
		if now == seen {
			continue
		}
		// Something changed, such as an interface of a container: perhaps nothing of ours.
		seen = now
		list, err := t.socket.localAddrs(&t.config)
		slices.SortFunc(list, netip.AddrPort.Compare)
		if err != nil || slices.Equal(list, last) {
			continue
		}
		last = list
		t.moved()
	}
}

func (t *Transport) moved() {
	t.socket.mapped.forget()
	t.moves.count.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	for l := range t.links {
		l.wakeWatch()
	}
}

// addressing is all interfaces and addresses, to compare.
func addressing() string {
	ifaces, err := net.Interfaces()
	if err != nil {
		return ""
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	list := make([]string, 0, len(ifaces))
	for _, i := range ifaces {
		list = append(list, fmt.Sprint(i.Index, i.Flags&(net.FlagUp|net.FlagRunning)))
	}
	slices.Sort(list)
	return fmt.Sprint(list, addrs)
}
