// Package icedtls is the overlay over the Internet: Links are DTLS 1.2
// associations (RFC 6347) whose paths ICE found (RFC 8445), all over one UDP
// socket of the Transport's own.
//
// # Who is who
//
// Offers and answers travel over an [overlay.Signaler], which is not trusted: each
// is signed by the sender's identity key and names its receiver, session and
// time. In DTLS both ends show a self-signed certificate; the only thing in it
// that counts is that its key hashes to the PeerID that was dialled, or that
// signed the offer.
//
// # One socket
//
// The socket's reader tells datagrams apart by their first byte (RFC 7983): STUN
// goes to the ICE agent that its user name or source names; a DTLS record is
// found by its connection ID (RFC 9146), which this end chose, so a peer's address
// may change and two associations with one peer do not meet. Only the records of
// a handshake, which carry none, are told apart by their source.
//
// # Paths
//
// A Link outlives its path: ICE is begun anew, over the signalling, when the path is silent or our
// addresses change, and where there is no direct path a TURN server (Config.Relays) carries the
// records, until there is one (mend.go). A socket that Listen binds to one address does not roam.
//
// # Frames
//
// Frames travel in data records, many to a system call, under keys that the DTLS
// association exports and that are changed from time to time (docs/protocol.md, data.go,
// rekey.go). Where an end or the path does not take them they travel in DTLS records.
//
// # When both ends dial at once
//
// The dial of the lower PeerID makes the Link. The other end's Dial gives way and
// returns its end of that same Link; no Accept returns it.
package icedtls

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/viasnet/vias/overlay"
)

// Config describes a Transport. It is a blueprint: nothing in it is open.
type Config struct {
	// Signal carries offers and answers. Required. The Transport closes what it
	// opens.
	Signal overlay.SignalOpener
	// Listen is the UDP socket's address. Default 0.0.0.0:0: every address, a port that is
	// free. Only a Transport that listens on all addresses follows them when they change.
	Listen netip.AddrPort
	// STUN servers as host:port tell our address as seen from outside. Default
	// none: only addresses of our own interfaces are offered.
	STUN []string
	// Relays are TURN servers, for peers to which no direct path works. A relay is left as
	// soon as one does. Default none.
	Relays []Relay
	// Interfaces says of an interface's name whether its addresses are offered.
	// Default all. Not asked when Listen names one address.
	Interfaces func(name string) bool
	// IncludeLoopback offers and takes loopback addresses too, for peers on the
	// same machine.
	IncludeLoopback bool
	// UnderlayMTU is the longest IP packet, in bytes, that is sent: 1280 to 8192, or less
	// where the path to a peer takes less, which is found out. It need not be the same at both
	// ends. Default 1500.
	UnderlayMTU int
	// MTURaise is how often a path that takes less than UnderlayMTU is asked for more (after
	// 5 s, then ever less often up to this). Default 10 min (RFC 8899).
	MTURaise time.Duration
	// DTLSOnly has DTLS records carry frames too, one each: the conservative mode, for
	// paths or rules that want nothing else. One end that wants it is enough. Default:
	// data records of our own (docs/protocol.md), where both ends and the path take them.
	DTLSOnly bool
	// Workers are goroutines that help to seal and to open long batches, so that one busy Link has
	// more than two processors. 0: one for every two processors but the first two, 3 at most;
	// negative: none.
	Workers int
	// DialTimeout bounds one Dial from when it has its turn, and how long a peer that offered may
	// take. Default 10 s. Of many Dials 64 are under way at once; more wait for those whose peers answer.
	DialTimeout time.Duration

	// For tests. drop loses datagrams; claim is the ID to signal as; certify is
	// whose certificate is shown.
	drop    func(datagram []byte, remote netip.AddrPort) bool
	claim   overlay.PeerID
	certify *overlay.Identity
	// rekeyRecords is after how many records keys are changed.
	rekeyRecords uint64
	// lossTime is lossTime, for tests that a busy machine would spoil.
	lossTime time.Duration
	// oldKernel is one that neither cuts runs of datagrams nor joins them.
	oldKernel bool
}

const (
	defaultUnderlayMTU = 1500
	minUnderlayMTU     = 1280 // IPv6's least, RFC 8200, section 5
	maxUnderlayMTU     = 8192 // pion's DTLS reads no longer datagrams
	defaultDialTimeout = 10 * time.Second
)

func (c *Config) complete() error {
	if c.Signal == nil {
		return errors.New("icedtls: Config.Signal is missing")
	}
	if !c.Listen.IsValid() {
		c.Listen = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	if c.UnderlayMTU == 0 {
		c.UnderlayMTU = defaultUnderlayMTU
	}
	if c.UnderlayMTU < minUnderlayMTU || c.UnderlayMTU > maxUnderlayMTU {
		return fmt.Errorf("icedtls: Config.UnderlayMTU %d is not within %d to %d", c.UnderlayMTU, minUnderlayMTU, maxUnderlayMTU)
	}
	for i := range c.Relays {
		if _, err := c.Relays[i].parse(); err != nil {
			return err
		}
	}
	if c.rekeyRecords == 0 {
		c.rekeyRecords = rekeyRecords
	}
	if c.lossTime == 0 {
		c.lossTime = lossTime
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = defaultDialTimeout
	}
	return nil
}

// Open returns an Opener of Transports with config. The Opener's context bounds
// the opening only; the Transport lives until Close.
func Open(config Config) overlay.Opener {
	return func(ctx context.Context, env overlay.Env) (overlay.Transport, error) {
		c := config
		if err := c.complete(); err != nil {
			return nil, err
		}
		t, err := open(ctx, c, env)
		if err != nil {
			return nil, &overlay.OpError{Op: "open", Err: err}
		}
		return t, nil
	}
}
