// Package l2 knows which stations there are on a Network's layer 2, who speaks for
// each, and which source addresses each may use.
//
// Local stations are attached by the host program or learned from the device;
// remote ones are announced by peers. The packet path reads a [View], which is
// immutable and found without a lock; every change makes a new one.
package l2

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// Bounds of what one node or one peer can make the table hold.
const (
	MaxLearned   = 4096 // learned local stations
	MaxAnnounced = 4096 // stations of one peer
	MaxIPs       = 16   // addresses of one station
	MaxText      = 255  // bytes of a Name or a Tag
	// LearnedAge is how long a learned station may be silent (IEEE 802.1D's ageing time).
	LearnedAge = 5 * time.Minute
	// LearnRate is how many stations are learned per second at most, so that a
	// workload with random source addresses does not make every frame a change.
	LearnRate = 256
	// DetachedAge is how long a station that was detached is not learned: what is still
	// heard of it is left over from before it moved, and must not be announced.
	DetachedAge = time.Minute
)

// Endpoint is a station as its node describes it to others.
type Endpoint struct {
	MAC tap.MAC
	// IPs are the source addresses it may use, besides unspecified and IPv6
	// link-local ones; none = any that no other station has.
	IPs       []netip.Addr
	Name, Tag string
}

// Check tells what is wrong with e, if anything.
func (e Endpoint) Check() error {
	switch {
	case e.MAC.IsZero() || e.MAC.IsMulticast():
		return fmt.Errorf("%v is no station's MAC address", e.MAC)
	case len(e.Name) > MaxText:
		return fmt.Errorf("the name has %d bytes, more than %d", len(e.Name), MaxText)
	case len(e.Tag) > MaxText:
		return fmt.Errorf("the tag has %d bytes, more than %d", len(e.Tag), MaxText)
	case len(e.IPs) > MaxIPs:
		return fmt.Errorf("it has %d addresses, more than %d", len(e.IPs), MaxIPs)
	}
	for i, ip := range e.IPs {
		switch {
		case !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback() || ip.Zone() != "" || ip.Is4In6():
			return fmt.Errorf("%v is no station's IP address", ip)
		case ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			return errors.New("the broadcast address is no station's")
		case slices.Contains(e.IPs[:i], ip):
			return fmt.Errorf("%v is listed twice", ip)
		}
	}
	return nil
}

// Equal tells whether e and o say the same.
func (e Endpoint) Equal(o Endpoint) bool {
	return e.MAC == o.MAC && e.Name == o.Name && e.Tag == o.Tag && slices.Equal(e.IPs, o.IPs)
}

// Station is an Endpoint in force, and who speaks for it. It is immutable.
type Station struct {
	Endpoint                // IPs: less those that somebody else holds
	Peer     overlay.PeerID // zero: it is local
	Ofport   uint32         // of a local one; 0 = none known
	Learned  bool

	// restricted: it came with IPs. They may all be held by others; that must not
	// turn into "any".
	restricted bool
	seen       *atomic.Int64 // when a frame of a learned one was seen last, Unix ns
}

// Local tells whether the station is on this node.
func (s *Station) Local() bool { return s.Peer.IsZero() }

// same tells whether two stations mean the same, so that the old one can stay.
func (s *Station) same(o *Station) bool {
	return s.Peer == o.Peer && s.Ofport == o.Ofport && s.Learned == o.Learned &&
		s.restricted == o.restricted && s.Endpoint.Equal(o.Endpoint)
}

// Conflict is a claim that was refused because somebody else holds the address.
type Conflict struct {
	MAC     tap.MAC    // of the claiming station
	IP      netip.Addr // the address in conflict; invalid when it is the MAC
	Holder  overlay.PeerID
	Claimer overlay.PeerID // zero: local
}

// Change is what a call changed in the view.
type Change struct {
	Up, Down  []*Station // stations that came, went, or (in both) changed
	Conflicts []Conflict // refusals that are new
	// Freed are local stations whose MAC a peer claimed too and does no longer: what was
	// learned of them in the meantime may lead there.
	Freed []*Station
}

// Empty tells whether nothing changed.
func (c Change) Empty() bool { return len(c.Up)+len(c.Down)+len(c.Conflicts)+len(c.Freed) == 0 }
