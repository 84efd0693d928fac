package vias

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/control"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// Config is the blueprint of a Network: nothing in it is open. Name, Identity,
// Transport and Device are needed; every other field may be zero.
type Config struct {
	// Name of the network, 1 to 255 bytes. Peers whose network has another name are
	// refused.
	Name string
	// Identity is who this node is. It may be shared by Networks only if their
	// Transports can tell them apart.
	Identity *overlay.Identity
	// Transport makes the links, for example icedtls.Open(…).
	Transport overlay.Opener
	// Device is where the workloads' frames come from and go to, for example
	// tap.Linux("vias0").
	Device tap.Opener
	// Bypass is the machine's bypass Host; Networks may share it. nil = overlay only.
	Bypass *bypass.Host
	// Policy says which flows may leave the overlay; nil = bypass.Never. Without a
	// bypass host none can. See [Network.SetPolicy].
	Policy bypass.Policy
	// Admission is the rule of who may be linked; nil = the allow-list of those added
	// (AddPeer). With a rule, adding a peer says only that it shall be linked: it must be
	// admitted as well. See package overlay/membership.
	Admission overlay.Admission
	// Directory makes links be made on demand: endpoints are published in it, and addresses
	// that no linked peer announced are looked up. ARP and neighbour discovery are answered
	// from it, so endpoints have to list their IPs. Peers that are added (AddPeer) are
	// linked all the time, as without one; others have to be admitted by Admission. nil =
	// none: peers have to be added or come by themselves, and unknown destinations are flooded.
	Directory overlay.DirectoryOpener
	// IdleLink is after what time a link on demand is closed that nobody uses;
	// 0 = 10 minutes, below 0 = never.
	IdleLink time.Duration
	// Learn: stations whose frames come from the device are learned and announced,
	// besides those attached. Without it, only attached endpoints may send.
	Learn bool
	// OpenRate is how many connections a second each local endpoint may open to peers'
	// that come to nothing, after twice as many at once; SYNs over that are dropped.
	// Connections that get through are not counted. It keeps an endpoint that scans
	// from taking the CPU that others need. 0 = 1000, below 0 = as many as it likes.
	OpenRate int
	// Drain is how long Run goes on, after its context ended, for bypassed flows to
	// be taken down in order; 0 = 3 s.
	Drain time.Duration
	// Logger is for what an operator must see; nil = silent.
	Logger *slog.Logger
}

// DefaultDrain is Config.Drain's default.
const DefaultDrain = 3 * time.Second

// Errors that callers tell apart with errors.Is.
var (
	// ErrClosed: the Network has run and ended, or is ending. It unwraps to
	// net.ErrClosed.
	ErrClosed = fmt.Errorf("network closed: %w", net.ErrClosed)
	// ErrRunning: Run was called a second time.
	ErrRunning = errors.New("the network ran already")
	// ErrInUse: another endpoint of this node has the MAC, the IP or the ofport.
	ErrInUse = errors.New("in use by another endpoint of this node")
	// ErrInvalid: a Config, an Endpoint or a peer that cannot be.
	ErrInvalid = errors.New("invalid")
)

// OpError is a failed operation of a Network.
type OpError struct {
	Op      string // "config", "run", "ready", "attach", "detach", "add peer"
	Network string
	Err     error
}

// Error says the operation, the network and the cause.
func (e *OpError) Error() string { return "vias: " + e.Op + " " + e.Network + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// check tells what is wrong with c, if anything.
func (c *Config) check() error {
	var why string
	switch {
	case c.Name == "":
		why = "Name is missing"
	case len(c.Name) > control.MaxNetwork:
		why = fmt.Sprintf("Name has %d bytes, more than %d", len(c.Name), control.MaxNetwork)
	case c.Identity == nil:
		why = "Identity is missing: see overlay.OpenIdentity"
	case c.Transport == nil:
		why = "Transport is missing: see package overlay/icedtls"
	case c.Device == nil:
		why = "Device is missing: see tap.Linux and tap.Simple"
	case c.Drain < 0:
		why = "Drain is negative"
	default:
		return nil
	}
	return fmt.Errorf("%w: %s", ErrInvalid, why)
}
