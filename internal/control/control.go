// Package control carries the core's messages between two peers, in order and
// once, over the unreliable datagrams of one overlay.Link.
//
// A [Session] is a state machine without I/O: datagrams and the time go in,
// datagrams and messages come out. It lives as long as its Link; what was not
// acknowledged when the Link ended may or may not have arrived.
//
//	         Hello (both ends, sequence 1)
//	greeting ──────────────────────────────▶ established ──▶ (messages)
//	   │  peer's Hello seen, and our session ID echoed
//	   └─▶ refused: other version or network, or nothing heard for HelloTimeout
package control

import (
	"errors"
	"fmt"
	"time"
)

// A datagram's first byte on a Link says what the rest is.
const (
	KindFrame    = 0 // an Ethernet frame
	KindControl  = 1 // a segment of a Session
	KindFragment = 2 // a part of an Ethernet frame: see package pump
	KindPartial  = 3 // an Ethernet frame with TCP or UDP, whose checksum was left out
)

// Version of the control protocol, and of the kinds of datagrams. Peers of different
// versions refuse each other.
const Version = 3

// Bounds.
const (
	MaxMessage = 64 << 10 // longest message in bytes
	MaxQueue   = 1 << 20  // bytes that wait for an acknowledgement or to be sent
	window     = 64       // segments in flight
	maxSegment = 1100     // longest datagram: fits every path that IPv6 allows, tunnels included
	minSegment = headerLen + 512

	// HelloTimeout ends a Session whose peer does not greet, StallTimeout one whose
	// peer does not acknowledge.
	HelloTimeout = 10 * time.Second
	StallTimeout = 15 * time.Second

	firstRTO = 200 * time.Millisecond
	minRTO   = 20 * time.Millisecond
	maxRTO   = 2 * time.Second
)

// Errors that end a Session. The first two are the peer's fault or choice and are
// wrapped with what was wrong.
var (
	ErrVersion  = errors.New("control: the peer speaks another protocol version")
	ErrNetwork  = errors.New("control: the peer is of another network")
	ErrProtocol = errors.New("control: the peer breaks the protocol")
	ErrStalled  = errors.New("control: the peer does not answer")
)

// Errors of Send.
var (
	ErrQueueFull = errors.New("control: send queue full")
	ErrTooLong   = fmt.Errorf("control: message longer than %d bytes", MaxMessage)
)

// Channel tells messages apart.
type Channel uint8

// Channels. Unknown ones are ignored: a later version may have more.
const (
	ChannelHello      Channel = iota // a Hello, the first message
	ChannelAnnounce                  // an Announcement
	ChannelBypass                    // opaque: between two bypass Members
	ChannelCredential                // opaque: what the sender's admission rule shows
)

// Message is one message, complete. Body is the receiver's.
type Message struct {
	Channel Channel
	Body    []byte
}

// Config describes a Session.
type Config struct {
	// ID is random and never 0: it tells this session from every earlier one.
	ID uint64
	// Network and MTU go into our Hello. The peer must name the same Network.
	Network string
	MTU     int
	// Capabilities are names that the peer may know.
	Capabilities []string
	// LinkMTU is the longest datagram that the Link takes, in bytes.
	LinkMTU int
}
