package icedtls

import (
	"net"
	"sync/atomic"

	"github.com/viasnet/vias/overlay"
)

// route is the path that a session's records take: from the socket, or through a relay of
// ours. But for its size it never changes; another path is another route. Path.MTU is the most
// that the path may be found to take.
type route struct {
	overlay.Path

	// UDP datagrams have least bytes on any path, and most at most; header is what they gain
	// on their way to being packets, size how long they may be now (pmtu.go).
	least, most, header int
	size                atomic.Int64
	again               bool // it is as the one before, and has its size

	relay *relay       // nil = from the socket
	to    *net.UDPAddr // Remote, for the relay
}

func (r *route) useRelay(x *relay) {
	r.relay, r.Local, r.to = x, x.addr, net.UDPAddrFromAddrPort(r.Remote)
}

// send sends one record. What is not taken is lost as on any wire; only a closed socket is
// an error.
func (r *route) send(s *socket, b []byte) (int, error) {
	if r.relay == nil {
		return s.send(b, r.Remote)
	}
	r.relay.send(b, r.to)
	return len(b), nil
}

// sendAll sends records, the list of which it may overwrite, as send does.
func (r *route) sendAll(s *socket, records [][]byte) error {
	if r.relay == nil {
		return s.sendAll(records, r.Remote)
	}
	for _, b := range records {
		r.relay.send(b, r.to)
	}
	return nil
}
