package bypasstest

import (
	"bytes"
	"net/netip"
	"sync"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/tap"
)

// Wire is a provider's network in memory: a lossless, instant Ethernet segment
// until it is told otherwise. All methods may be called by several goroutines; the
// setters take effect for the frames that are sent afterwards. Functions that are
// given to a Wire are called without its locks held, and must not keep the frame.
type Wire struct {
	mu       sync.Mutex
	stations []*Switch
	set      wireSettings
	queue    []queued // ordered by due
	draining bool
	sent     uint64
	lost     uint64
}

type wireSettings struct {
	tap    func(frame []byte)
	mangle func(frame []byte) []byte
	drop   func(p Packet) bool
	blocks map[block]bool
	router tap.MAC
	hops   uint8
	mtu    int
	delay  time.Duration
}

// block is what Block blocks; zero fields are wildcards.
type block struct {
	src, dst netip.Addr
	proto    bypass.Proto
}

// queued is a frame under way.
type queued struct {
	due   time.Time
	to    *Switch
	frame []byte
}

// NewWire makes a network without any station.
func NewWire() *Wire { return &Wire{} }

// Tap calls f for every frame that is put on the wire, lost or not, before
// anything happens to it; nil ends that. f must not keep the frame.
func (w *Wire) Tap(f func(frame []byte)) { w.change(func(s *wireSettings) { s.tap = f }) }

// Mangle passes every frame through f, as a NAT would; f may change the frame in
// place, and what it returns goes on, nothing if it is nil.
func (w *Wire) Mangle(f func(frame []byte) []byte) {
	w.change(func(s *wireSettings) { s.mangle = f })
}

// Drop loses the TCP and UDP packets for which f says so; nil ends that.
func (w *Wire) Drop(f func(p Packet) bool) { w.change(func(s *wireSettings) { s.drop = f }) }

// Block loses all packets from src to dst of proto, as a firewall would. A zero
// address or protocol stands for any.
func (w *Wire) Block(src, dst netip.Addr, proto bypass.Proto) {
	w.setBlock(block{src, dst, proto}, true)
}

// Unblock takes back a Block with the same arguments.
func (w *Wire) Unblock(src, dst netip.Addr, proto bypass.Proto) {
	w.setBlock(block{src, dst, proto}, false)
}

func (w *Wire) setBlock(b block, on bool) {
	w.change(func(s *wireSettings) {
		blocks := make(map[block]bool, len(s.blocks)+1)
		for k := range s.blocks {
			blocks[k] = true
		}
		if delete(blocks, b); on {
			blocks[b] = true
		}
		s.blocks = blocks
	})
}

// Delay makes every frame take d; order is kept.
func (w *Wire) Delay(d time.Duration) { w.change(func(s *wireSettings) { s.delay = d }) }

// MTU loses packets longer than n bytes (of the layer-3 packet); 0 = no limit.
func (w *Wire) MTU(n int) { w.change(func(s *wireSettings) { s.mtu = n }) }

// Hops puts n routers in the way: every packet's TTL falls by n, and packets whose
// TTL runs out are lost.
func (w *Wire) Hops(n uint8) { w.change(func(s *wireSettings) { s.hops = n }) }

// Router is the MAC of a gateway. Frames to it are forwarded by their IP destination, with MACs rewritten and the TTL one lower. The zero MAC takes it away.
func (w *Wire) Router(mac tap.MAC) { w.change(func(s *wireSettings) { s.router = mac }) }

func (w *Wire) change(f func(*wireSettings)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.set)
}

// Counters is how many frames were put on the wire, and how many of them reached
// no station.
func (w *Wire) Counters() (sent, lost uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent, w.lost
}

// join adds s as a station. Its uplink MAC and addresses are read when frames pass.
func (w *Wire) join(s *Switch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stations = append(w.stations, s)
}

// Send puts frame on the wire, as if a station unknown to it had sent it. frame is
// copied.
func (w *Wire) Send(frame []byte) { w.transmit(nil, bytes.Clone(frame)) }

// transmit carries a frame, which is the wire's from now on, to where it belongs.
func (w *Wire) transmit(from *Switch, frame []byte) {
	w.mu.Lock()
	set := w.set
	stations := w.stations
	w.sent++
	w.mu.Unlock()

	if set.tap != nil {
		set.tap(frame)
	}
	if set.mangle != nil {
		frame = set.mangle(frame)
	}
	reached := false
	if len(frame) >= ethLen && set.passes(frame) {
		routed := !set.router.IsZero() && bytes.Equal(frame[:6], set.router[:])
		for _, s := range stations {
			f := bytes.Clone(frame)
			if s == from && !routed || !s.takes(f, routed) {
				continue
			}
			reached = true
			w.forward(s, f, set.delay)
		}
	}
	if !reached {
		w.mu.Lock()
		w.lost++
		w.mu.Unlock()
	}
}

// passes tells whether the network lets frame through, and does to it what routers
// do. Frames to the router get their station's MAC.
func (s *wireSettings) passes(frame []byte) bool {
	p, parsed := Parse(frame)
	if parsed {
		for b := range s.blocks {
			if b.matches(p.Flow) {
				return false
			}
		}
		if s.drop != nil && s.drop(p) {
			return false
		}
	}
	l3, family, ok := network(frame)
	if !ok {
		return true
	}
	hops := s.hops
	if !s.router.IsZero() && bytes.Equal(frame[:6], s.router[:]) {
		hops++
		copy(frame[6:], s.router[:])
	}
	ttl := l3 + 7
	if family == bypass.IPv4 {
		ttl = l3 + 8
	}
	if frame[ttl] <= hops || s.mtu > 0 && len(frame)-l3 > s.mtu {
		return false
	}
	was := [2]byte{frame[ttl], frame[ttl+1]}
	frame[ttl] -= hops
	if hops > 0 && family == bypass.IPv4 {
		adjust(frame[l3+10:l3+12], was[:], frame[ttl:ttl+2])
	}
	return true
}

func (b block) matches(f bypass.Flow) bool {
	return (!b.src.IsValid() || b.src == f.Src.Addr()) &&
		(!b.dst.IsValid() || b.dst == f.Dst.Addr()) &&
		(b.proto == 0 || b.proto == f.Proto)
}

// forward hands frame to the station s, now or after delay.
func (w *Wire) forward(s *Switch, frame []byte, delay time.Duration) {
	if delay <= 0 {
		s.receive(frame)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, queued{time.Now().Add(delay), s, frame})
	if !w.draining {
		w.draining = true
		time.AfterFunc(delay, w.drain)
	}
}

// drain delivers what is due, in order. Only one runs at a time.
func (w *Wire) drain() {
	for {
		w.mu.Lock()
		if len(w.queue) == 0 {
			w.draining = false
			w.mu.Unlock()
			return
		}
		q := w.queue[0]
		if wait := time.Until(q.due); wait > 0 {
			time.AfterFunc(wait, w.drain)
			w.mu.Unlock()
			return
		}
		w.queue = w.queue[1:]
		w.mu.Unlock()
		q.to.receive(q.frame)
	}
}
