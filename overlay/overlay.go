// Package overlay holds the contracts of the encrypted half of vias: who a peer
// is ([PeerID], [Identity]), the [Link] to it, the [Transport] that makes Links,
// and the [Signaler] over which two ends find each other. Implementations live in
// packages of their own: overlay/icedtls (DTLS over ICE), overlay/tcpsignal,
// overlay/overlaytest (in memory, with the conformance suite). [Admission] is the rule of
// who belongs to a network; overlay/membership has some.
package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/viasnet/vias/tap"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrClosed: the Link, Transport or Signaler was closed on this side. It
	// unwraps to net.ErrClosed.
	ErrClosed = fmt.Errorf("overlay: closed: %w", net.ErrClosed)
	// ErrRefused: the peer does not admit us. It says no more than that.
	ErrRefused = errors.New("overlay: refused by peer")
	// ErrWrongPeer: whoever answered does not hold the key that the PeerID names.
	ErrWrongPeer = errors.New("overlay: the peer's key is not the one its ID names")
	// ErrLinkLost: nothing was heard of the peer for the liveness time.
	ErrLinkLost = errors.New("overlay: link lost")
	// ErrPeerClosed: the peer closed the link in order.
	ErrPeerClosed = errors.New("overlay: link closed by peer")
	// ErrUnreachable: no answer to signalling, or no pair of addresses worked.
	ErrUnreachable = errors.New("overlay: peer unreachable")
)

// OpError is a failed operation towards a peer. Err is often one of the errors
// above.
type OpError struct {
	Op   string // "dial", "accept", "send", "signal", …
	Peer PeerID // zero when no peer is involved
	Err  error
}

// Error says the operation, the peer and the cause.
func (e *OpError) Error() string {
	if e.Peer.IsZero() {
		return "overlay: " + e.Op + ": " + e.Err.Error()
	}
	return "overlay: " + e.Op + " " + e.Peer.Short() + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// PathKind says how a Link's datagrams travel.
type PathKind uint8

// The kinds are ICE's candidate types (RFC 8445, section 5.1.1), and memory.
const (
	PathUnknown PathKind = iota
	PathHost
	PathReflexive
	PathRelay
	PathMemory
)

func (k PathKind) String() string {
	return [...]string{"unknown", "host", "reflexive", "relay", "memory"}[min(k, PathMemory)]
}

// Path is a snapshot of how a Link reaches its peer now.
type Path struct {
	Kind          PathKind
	Local, Remote netip.AddrPort // the selected pair
	RTT           time.Duration  // smoothed; 0 = not known yet
	// MTU is the longest datagram in bytes that SendBatch takes.
	MTU int
}

// Link is a confidential and authenticated, but unreliable and unordered, way to
// exchange datagrams with one peer. It is nothing more: ordering, retries and
// meaning belong to the core.
//
// SendBatch and RecvBatch may each be called by one goroutine at a time, and both
// at once. Close may be called at any time; both then return ErrClosed. After the
// peer went away RecvBatch returns ErrPeerClosed or ErrLinkLost, once liveness
// (at most 3 s) or an orderly close told so.
type Link interface {
	// Peer is who was authenticated. It never changes.
	Peer() PeerID
	// SendBatch sends b's datagrams. A datagram that cannot be sent now is
	// dropped and counted; an error is final for the Link. The Link may use each
	// datagram's headroom and tailroom; b is the caller's again on return, its
	// contents undefined. A batch that is urgent gets through where a flood of others
	// is dropped.
	SendBatch(b *tap.Batch) error
	// RecvBatch resets b, waits for at least one datagram, and appends what is there.
	RecvBatch(b *tap.Batch) error
	// Path is a snapshot.
	Path() Path
	// Stats is a snapshot. Counters are read one after another, while datagrams pass.
	Stats() LinkStats
	// Close tells the peer and frees the link. It is idempotent.
	Close() error
}

// Transport makes Links.
type Transport interface {
	// Dial makes a Link to peer, or fails with an *OpError that wraps one of this
	// package's errors. It may be called by several goroutines.
	Dial(ctx context.Context, peer PeerID) (Link, error)
	// Accept returns the next Link that a peer made to us; strangers whom the
	// Admission refuses never come out of it. It fails only when ctx ends or the
	// Transport is closed.
	Accept(ctx context.Context) (Link, error)
	// Stats is a snapshot.
	Stats() TransportStats
	// Close closes the Links too.
	Close() error
}

// Env is what a Transport is opened with. The core fills it in.
type Env struct {
	Identity  *Identity
	Admission Admission    // never nil
	Logger    *slog.Logger // never nil
}

// Opener opens a Transport when a Network runs, for example icedtls.Open(config).
type Opener func(context.Context, Env) (Transport, error)

// MaxSignal is the longest message in bytes that a Signaler must carry. One that puts an
// envelope around messages (overlay/sealed) takes 1 KiB less: keep well below it.
const MaxSignal = 16 << 10

// Signaler carries small messages between peers that have no Link yet. It is not
// trusted: it may lose, delay, repeat, reorder, read and forge. Whoever uses it
// must authenticate what matters by other means.
//
// All methods may be called by several goroutines.
type Signaler interface {
	// Send hands msg (at most MaxSignal bytes) over for delivery; nil does not
	// mean that it arrives.
	Send(ctx context.Context, to PeerID, msg []byte) error
	// Recv returns the next message for us; from is what the sender claims. msg
	// is the caller's.
	Recv(ctx context.Context) (from PeerID, msg []byte, err error)
	Close() error
}

// SignalOpener opens a Signaler for an identity.
type SignalOpener func(context.Context, *Identity) (Signaler, error)
