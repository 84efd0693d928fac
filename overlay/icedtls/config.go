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
	// Listen is the UDP socket's address. Default 0.0.0.0:0: every IPv4 address,
	// a port that is free. [::]:0 takes IPv6 as well.
	Listen netip.AddrPort
	// STUN servers as host:port tell our address as seen from outside. Default
	// none: only addresses of our own interfaces are offered.
	STUN []string
	// Interfaces says of an interface's name whether its addresses are offered.
	// Default all. Not asked when Listen names one address.
	Interfaces func(name string) bool
	// IncludeLoopback offers and takes loopback addresses too, for peers on the
	// same machine.
	IncludeLoopback bool
	// UnderlayMTU is the longest IP packet, in bytes, that is sent: 1280 to 8192.
	// Default 1500.
	UnderlayMTU int
	// DTLSOnly has DTLS records carry frames too, one each: the conservative mode, for
	// paths or rules that want nothing else. One end that wants it is enough. Default:
	// data records of our own (docs/protocol.md), where both ends and the path take them.
	DTLSOnly bool
	// DialTimeout bounds one Dial, and how long a peer that offered may take.
	// Default 10 s.
	DialTimeout time.Duration

	// For tests. drop loses datagrams; claim is the ID to signal as; certify is
	// whose certificate is shown.
	drop    func(datagram []byte, remote netip.AddrPort) bool
	claim   overlay.PeerID
	certify *overlay.Identity
	// rekeyRecords is after how many records keys are changed.
	rekeyRecords uint64
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
	if c.rekeyRecords == 0 {
		c.rekeyRecords = rekeyRecords
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
