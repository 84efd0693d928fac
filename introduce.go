package vias

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/viasnet/vias/tap"
)

// introducer shows switches where an endpoint is that was just attached. Where it moved
// here from another host its MAC address was learned behind the TAP, and a switch sends no
// frame back to the port that it came from: what peers send to the endpoint would be
// dropped for minutes, unless it says something itself.
type introducer struct {
	wake chan struct{} // something was added

	mu  sync.Mutex // guards what follows
	due map[string]introduction
}

// introduction is what is still to be done for the endpoint of a name.
type introduction struct {
	at   time.Time
	left int
}

// An endpoint is introduced several times: peers take no frame of it before they know
// that it is here, and the first may come before they do.
const (
	introductions    = 3
	introduceEvery   = 300 * time.Millisecond
	introduceTimeout = time.Second
)

func (i *introducer) init() {
	i.wake, i.due = make(chan struct{}, 1), map[string]introduction{}
}

// add asks for an endpoint to be introduced from now on. It does not block.
func (i *introducer) add(name string) {
	i.mu.Lock()
	i.due[name] = introduction{time.Now(), introductions}
	i.mu.Unlock()
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// take lists the endpoints that are due, in a stable order, and tells when the next is;
// zero = none.
func (i *introducer) take(now time.Time) (names []string, next time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for name, d := range i.due {
		if !d.at.After(now) {
			names = append(names, name)
			d = introduction{now.Add(introduceEvery), d.left - 1}
			i.due[name] = d
		}
		if d.left == 0 {
			delete(i.due, name)
		} else if next.IsZero() || d.at.Before(next) {
			next = d.at
		}
	}
	slices.Sort(names)
	return names, next
}

// introduceEndpoints works until ctx ends.
func (n *Network) introduceEndpoints(ctx context.Context, m member) error {
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for {
		names, next := n.intros.take(time.Now())
		for _, name := range names {
			n.introduceOne(ctx, m, name)
		}
		if !next.IsZero() {
			t.Reset(timeTo(next))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.intros.wake:
		case <-t.C:
		}
	}
}

// introduceOne has the switch take a frame as from the endpoint. It floods it, like one
// from the endpoint itself, which takes it through the overlay to the peers' switches.
func (n *Network) introduceOne(ctx context.Context, m member, name string) {
	ctx, cancel := context.WithTimeout(ctx, introduceTimeout)
	defer cancel()
	s, err := n.turnOf(ctx, name)
	if err != nil {
		return
	}
	defer n.endTurn(name, s)
	n.mu.Lock()
	e, had := s.want, s.attached
	n.mu.Unlock()
	if !had || e.Ofport == 0 {
		return
	}
	if err := m.Inject(ctx, e.Ofport, introductionOf(e.MAC)); err != nil {
		n.log.Debug("an endpoint was not introduced to the switches", "endpoint", name, "err", err)
	}
}

// introductionOf is the frame that hypervisors send too when a guest has moved: a reverse
// ARP request (RFC 903). It says nothing to anybody but to switches, whatever addresses
// the endpoint has.
func introductionOf(mac tap.MAC) []byte {
	f := make([]byte, 60) // the least that Ethernet takes
	copy(f, tap.Broadcast[:])
	copy(f[6:], mac[:])
	copy(f[12:], []byte{0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3})
	copy(f[22:], mac[:])
	copy(f[32:], mac[:])
	return f
}
