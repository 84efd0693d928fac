package bypass

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// HostConfig describes the bypass half of one machine. It is a blueprint: nothing
// in it is open.
type HostConfig struct {
	// Datapath opens the switch, for example ofpath.Open(ofpath.Config{…}).
	Datapath func(context.Context) (Datapath, error)
	// Underlay is the host's side of the provider's network.
	Underlay Underlay
	// Ports are set aside for bypassed flows and probes; zero = DefaultPorts. Every
	// host of a trusted domain must use the same.
	Ports PortRange
	// Trust says which underlay addresses may be proven; zero = private on-link
	// addresses, no router, 2 ms.
	Trust Trust
	// Lease is how long a peer's rules forward after this process or the peer's died;
	// 0 = 30 s. Whole seconds, 10 s at least. Inbound, that is: its outbound rules
	// forward for two fifths of it.
	Lease time.Duration
	// Drain is how long inbound rules outlive the peer's last outbound one, for
	// packets in flight and switches whose caches lag; 0 = 1 s, which is also the least.
	Drain time.Duration
	// Quarantine is how long a pair of ports rests after use; 0 = 60 s. It is not
	// less than the longer Lease of both ends.
	Quarantine time.Duration
	// Rate is how many flows a second one workload may begin to bypass, after a burst of
	// twice as many; the others stay on the overlay for the time being. It keeps a
	// workload that scans from taking what others need. 0 = 500.
	Rate int
	// Logger is for what an operator must see; nil = silent.
	Logger *slog.Logger
}

// Trust is the domain in which plaintext is acceptable. Both ends must agree on it,
// and a proof of the path is needed besides.
type Trust struct {
	// Prefixes are underlay prefixes that belong to the domain. nil = private
	// prefixes (RFC 1918, RFC 4193) on-link at the uplink. Global addresses are
	// trusted only where listed here.
	Prefixes []netip.Prefix
	// Domain is a label that both ends must name alike; "" is a label too.
	Domain string
	// MaxHops is how many routers may stand between two hosts; 0 = none.
	MaxHops int
	// MaxRTT bounds the proven path's round trip; 0 = 2 ms.
	MaxRTT time.Duration
}

// Ends is what the Network knows of a flow's two endpoints.
type Ends struct {
	Peer                overlay.PeerID // who speaks for the remote one
	Ofport              uint32         // of the local one
	LocalMAC, RemoteMAC tap.MAC
	LocalTag, RemoteTag string
}

// MemberConfig is what a Network gives a Host. No function in it may block or call
// back into the Member or the Host.
type MemberConfig struct {
	Network string
	Self    overlay.PeerID
	Policy  Policy // nil = Never
	MTU     int    // of the workloads; a path narrower than it is not used
	// Resolve tells whose endpoints a flow (Src local) joins. false: not attached
	// here, or announced by no peer.
	Resolve func(Flow) (Ends, bool)
	// Send queues a control message to peer, in order, reliably while the link's
	// session lives; false: no session, or its queue is full.
	Send func(peer overlay.PeerID, msg []byte) bool
	// Changed is called, in order per flow, whenever a flow's Status changed.
	Changed func(Status)
}

// Status is a snapshot of one flow that the Host knows.
type Status struct {
	Flow   Flow // Src is the local workload
	Peer   overlay.PeerID
	State  State
	Reason Reason // why it is not Bypassed; of the last bypass when OnOverlay
	Since  time.Time
	// Local and Remote are the underlay's addresses and ports while there are any.
	Local, Remote netip.AddrPort
	// RetryAt is when the next try is due; zero = as soon as the flow asks.
	RetryAt time.Time
}

// ErrLeft is returned by a Member after Leave.
var ErrLeft = errors.New("bypass: member has left its host")

// Host runs the bypasses of one machine for one or several Networks. It runs while
// it has members: the first Join opens the datapath, the last Leave closes it.
type Host struct {
	cfg HostConfig

	tweak func(*loop) // tests alter a loop before it runs; nil = not

	mu   sync.Mutex // guards run and its members' count; held over start and stop
	run  *loop
	used int
}

// Bounds of lease, drain and rate.
const (
	minLease = 10 * time.Second
	maxLease = time.Hour
	minDrain = time.Second
	maxRate  = 1_000_000
)

// NewHost checks cfg. Nothing runs before the first Join.
func NewHost(cfg HostConfig) (*Host, error) {
	if cfg.Ports == (PortRange{}) {
		cfg.Ports = DefaultPorts
	}
	for _, d := range []struct {
		v      *time.Duration
		normal time.Duration
	}{{&cfg.Lease, 30 * time.Second}, {&cfg.Drain, minDrain}, {&cfg.Quarantine, time.Minute}} {
		if *d.v == 0 {
			*d.v = d.normal
		}
	}
	if cfg.Rate == 0 {
		cfg.Rate = 500
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.Datapath == nil || cfg.Underlay == nil:
		return nil, errors.New("bypass: a host needs a datapath and an underlay")
	case !cfg.Ports.Valid() || cfg.Ports.Len() < 64:
		return nil, fmt.Errorf("bypass: ports %d-%d: want an aligned power-of-two range of at least 64 ports above 0", cfg.Ports.First(), cfg.Ports.Last())
	case cfg.Lease < minLease || cfg.Lease%time.Second != 0 || cfg.Lease > maxLease:
		return nil, fmt.Errorf("bypass: lease %v: want whole seconds from %v to 1h", cfg.Lease, minLease)
	case cfg.Rate < 0 || cfg.Rate > maxRate:
		return nil, fmt.Errorf("bypass: rate %d: want 1 to %d flows a second", cfg.Rate, maxRate)
	case cfg.Drain < minDrain || cfg.Quarantine < 0:
		return nil, fmt.Errorf("bypass: drain %v, quarantine %v: want at least %v, and not below 0", cfg.Drain, cfg.Quarantine, minDrain)
	}
	if err := cfg.Trust.normal(); err != nil {
		return nil, err
	}
	return &Host{cfg: cfg}, nil
}
