// Package overlaytest holds what tests of the overlay, and of everything above
// it, stand on: [Net], a network in memory that loses and delays when asked, and
// the conformance suites [RunTransport] and [RunSignaler] that every
// implementation passes.
//
// A Net does no I/O: it is made of channels and timers only, so it works inside
// a testing/synctest bubble. What it loses, repeats and reorders follows from
// [Config.Seed] and the order of the datagrams of one direction alone.
package overlaytest

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/viasnet/vias/overlay"
)

// Config describes a Net. The zero value is a perfect network.
type Config struct {
	// Seed of everything random.
	Seed uint64
	// Loss, Dup and Reorder are the probabilities, 0 to 1, that a datagram is
	// lost, arrives twice, or arrives after those sent within 1 ms behind it.
	Loss, Dup, Reorder float64
	// SignalLoss and SignalDup are the same for messages of the Signaler.
	SignalLoss, SignalDup float64
	// Delay is the one-way delay of a datagram. Default none.
	Delay time.Duration
	// MTU is the longest datagram in bytes. Default 1400.
	MTU int
	// Queue is how many datagrams wait at most at a receiver. Default 4096.
	Queue int
	// Liveness is how long a path is cut before its links are lost. Default 2.5 s.
	Liveness time.Duration
	// DialTimeout ends a Dial to a peer that is not there. Default 5 s.
	DialTimeout time.Duration
}

const reorderDelay = time.Millisecond

// Net is a network in memory. All methods may be called by several goroutines.
type Net struct {
	config Config

	// mu guards everything below, the transports' links and dials, and the
	// links' loss timers. It is taken before a wire's or a link's mutex.
	mu         sync.Mutex
	transports map[overlay.PeerID]*transport
	signalers  map[overlay.PeerID]*signaler
	wires      map[direction]*wire
	cut        map[direction]bool
	deaf       map[overlay.PeerID]bool
	filter     func(from, to overlay.PeerID, datagram []byte) bool
	changed    chan struct{} // closed and replaced when a dial may work that did not
	signalRand *rand.Rand
}

type direction struct{ from, to overlay.PeerID }

// NewNet makes a network without any peer in it.
func NewNet(config Config) *Net {
	if config.MTU == 0 {
		config.MTU = 1400
	}
	if config.Queue == 0 {
		config.Queue = 4096
	}
	if config.Liveness == 0 {
		config.Liveness = 2500 * time.Millisecond
	}
	if config.DialTimeout == 0 {
		config.DialTimeout = 5 * time.Second
	}
	return &Net{
		config:     config,
		transports: map[overlay.PeerID]*transport{},
		signalers:  map[overlay.PeerID]*signaler{},
		wires:      map[direction]*wire{},
		cut:        map[direction]bool{},
		deaf:       map[overlay.PeerID]bool{},
		changed:    make(chan struct{}),
		signalRand: rand.New(rand.NewPCG(config.Seed, 0x7369676e616c)),
	}
}

// Cut breaks the path between a and b in both directions: datagrams are lost,
// dials fail, and Links are lost after Config.Liveness unless Heal comes first.
func (n *Net) Cut(a, b overlay.PeerID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[direction{a, b}], n.cut[direction{b, a}] = true, true
	n.eachLinkLocked(a, b, n.startLossLocked)
}

// Heal undoes Cut.
func (n *Net) Heal(a, b overlay.PeerID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.cut, direction{a, b})
	delete(n.cut, direction{b, a})
	n.eachLinkLocked(a, b, (*link).stopLossLocked)
	n.wakeLocked()
}

// Block, while on, loses every datagram from one peer to the other without the
// Links being lost: what liveness counts on still passes.
func (n *Net) Block(from, to overlay.PeerID, on bool) {
	n.wire(from, to).block(on)
}

// SetFilter makes keep decide over every datagram after Block and before chance.
// It is called by senders, possibly at once; it must not block, keep or change
// the datagram. Nil takes the filter away.
func (n *Net) SetFilter(keep func(from, to overlay.PeerID, datagram []byte) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.filter = keep
}

// BlockSignals, while on, loses every signalling message from and to peer.
func (n *Net) BlockSignals(peer overlay.PeerID, on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.deaf[peer] = on
}

// Crash ends peer's Transport as a power failure would: here it is closed, but no
// other peer is told; their Links are lost after Config.Liveness. The identity
// can be opened again at once.
func (n *Net) Crash(peer overlay.PeerID) {
	n.mu.Lock()
	t := n.transports[peer]
	n.mu.Unlock()
	if t != nil {
		t.shut(false)
	}
}

// Counts tells what Links carried from one peer to another since the Net was made.
type Counts struct {
	// Sent datagrams and their bytes, as handed to SendBatch.
	Sent, Bytes uint64
	// Delivered datagrams: put into the receiver's queue, repeats included.
	Delivered uint64
}

// Counts is a snapshot for one direction, over all Links there ever were.
func (n *Net) Counts(from, to overlay.PeerID) Counts {
	w := n.wire(from, to)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts
}

// Total is the sum of Counts over all directions.
func (n *Net) Total() Counts {
	n.mu.Lock()
	defer n.mu.Unlock()
	var sum Counts
	for _, w := range n.wires {
		w.mu.Lock()
		sum.Sent += w.counts.Sent
		sum.Bytes += w.counts.Bytes
		sum.Delivered += w.counts.Delivered
		w.mu.Unlock()
	}
	return sum
}

// Address is the made-up address that Path shows for a peer in any Net.
func Address(peer overlay.PeerID) netip.AddrPort {
	a := [16]byte{0xfd}
	copy(a[1:], peer[:15])
	return netip.AddrPortFrom(netip.AddrFrom16(a), 1)
}

func (n *Net) wakeLocked() {
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *Net) eachLinkLocked(a, b overlay.PeerID, do func(*link)) {
	for _, d := range []direction{{a, b}, {b, a}} {
		if t := n.transports[d.from]; t != nil {
			for l := range t.links {
				if l.peer == d.to {
					do(l)
				}
			}
		}
	}
}

func (n *Net) startLossLocked(l *link) {
	if l.loss == nil {
		l.loss = time.AfterFunc(n.config.Liveness, l.lost)
	}
}

// wire is one direction between two peers. It outlives their Links.
type wire struct {
	direction

	mu      sync.Mutex
	rand    *rand.Rand
	blocked bool
	counts  Counts
}

func (n *Net) wire(from, to overlay.PeerID) *wire {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.wireLocked(from, to)
}

func (n *Net) wireLocked(from, to overlay.PeerID) *wire {
	d := direction{from, to}
	w := n.wires[d]
	if w == nil {
		stream := binary.BigEndian.Uint64(from[:]) ^ 3*binary.BigEndian.Uint64(to[:])
		w = &wire{direction: d, rand: rand.New(rand.NewPCG(n.config.Seed, stream))}
		n.wires[d] = w
	}
	return w
}

func (w *wire) block(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.blocked = on
}

// fate says how often a datagram arrives and after which delay.
func (w *wire) fate(c *Config, size int, lose bool) (copies int, delay time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts.Sent++
	w.counts.Bytes += uint64(size)
	// Three draws whatever happens, so that one datagram's fate does not depend
	// on which of the probabilities are in use.
	loss, dup, reorder := w.rand.Float64(), w.rand.Float64(), w.rand.Float64()
	if lose || w.blocked || loss < c.Loss {
		return 0, 0
	}
	copies, delay = 1, c.Delay
	if dup < c.Dup {
		copies = 2
	}
	if reorder < c.Reorder {
		delay += reorderDelay
	}
	return copies, delay
}

func (w *wire) delivered(copies int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts.Delivered += uint64(copies)
}
