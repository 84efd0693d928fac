// Package tap is the ground floor of vias: Ethernet frames, batches of them,
// and the devices they come from and go to. It imports nothing else of vias.
//
// A [Device] is where a Network meets its workloads: a Linux TAP ([Linux]), any
// io.ReadWriteCloser that moves one frame a call ([Simple]), or a pair in memory
// (package taptest).
package tap

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
)

// MAC is an Ethernet address (IEEE 802 EUI-48). The zero MAC is "none".
type MAC [6]byte

// Broadcast is the Ethernet broadcast address.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// ParseMAC reads six octets, in any form that net.ParseMAC knows.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return MAC{}, fmt.Errorf("tap: %q is not a MAC address (want six octets, as 02:00:00:00:00:01)", s)
	}
	return MAC(hw), nil
}

// String formats m as lower-case colon-separated hex.
func (m MAC) String() string {
	var b [17]byte
	for i, o := range m {
		if i > 0 {
			b[i*3-1] = ':'
		}
		hex.Encode(b[i*3:], []byte{o})
	}
	return string(b[:])
}

// IsMulticast tells whether the group bit is set; broadcast is multicast too.
func (m MAC) IsMulticast() bool { return m[0]&1 != 0 }

// IsZero tells whether m is the zero MAC, which no station may use.
func (m MAC) IsZero() bool { return m == MAC{} }

// MarshalText and UnmarshalText let a MAC stand in JSON and CBOR.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText is the reverse of MarshalText.
func (m *MAC) UnmarshalText(b []byte) error {
	v, err := ParseMAC(string(b))
	if err == nil {
		*m = v
	}
	return err
}

// ErrClosed is returned by a Device after Close. It unwraps to net.ErrClosed.
var ErrClosed = fmt.Errorf("tap: device closed: %w", net.ErrClosed)

// ErrNotSupported is returned by openers that this operating system lacks.
var ErrNotSupported = fmt.Errorf("tap: not supported here: %w", errors.ErrUnsupported)

// Caps says what frames a Device can give and take.
type Caps struct {
	// Offload: frames read may carry an [Offload] (partial checksum,
	// super-frame), and frames written may too. A Device without it reads and
	// writes finished frames only; the core finishes them beforehand.
	Offload bool
	// Join: with Offload, whoever gets the frames written takes TCP super-frames whole,
	// so it is worth joining segments. Without it they are written as they came. It takes
	// checksums that nobody has completed, too.
	Join bool
	// JoinUDP: the same for UDP, with USO.
	JoinUDP bool
	// USO: with Offload, super-frames written may be of kind GSOUDP too (Linux
	// 6.2 on). Without it such frames are dropped.
	USO bool
}

// Stats counts the frames that a Device dropped, as a wire would.
type Stats struct {
	// ReadDropped frames came from the device and were longer than the batch or
	// the MTU had room for, or described in a way that Offload cannot say.
	ReadDropped uint64
	// WriteDropped frames were refused: link down, too long, too short, unfinished.
	WriteDropped uint64
}

// Counted is a Device that counts its drops; those of this module all do.
// Stats may be called at any time, from any goroutine.
type Counted interface {
	Device
	Stats() Stats
}

// Device is a source and a sink of Ethernet frames.
//
// One goroutine may read while another writes; neither call may be made by two
// goroutines at once. Close may be called at any time, from any goroutine, and
// makes both return ErrClosed.
type Device interface {
	// ReadBatch resets b, waits for at least one frame, and appends what is
	// there without waiting more. Frames that an empty b could not hold are
	// dropped: b should take one of MaxFrame bytes, or of MTU()+18 when Caps has no
	// Offload. An error is final: the device is of no more use.
	ReadBatch(b *Batch) error
	// WriteBatch writes b's frames in order. A frame that the device refuses
	// (link down, too long) is dropped, as a wire would; an error is final.
	// b is the caller's again when WriteBatch returns.
	WriteBatch(b *Batch) error
	// Caps is constant.
	Caps() Caps
	// MTU is the largest layer-3 packet in bytes, without the Ethernet header.
	MTU() int
	// Close is idempotent.
	Close() error
}

// MultiQueue is a Device that several goroutines may use at once, each a queue of its own.
type MultiQueue interface {
	Device
	// Queues are Devices of their own with the contract's rules each: one reader and one
	// writer at a time, frames of one queue in order. Whoever gives out frames keeps those
	// of one flow in one queue, mostly that which the flow's other direction was written to.
	// All must be read. The Device itself is the first. Closing it closes all; the others
	// need no Close. It is always the same list.
	Queues() []Device
}

// Queues are d's queues: d alone, if it is no MultiQueue.
func Queues(d Device) []Device {
	if m, ok := d.(MultiQueue); ok {
		return m.Queues()
	}
	return []Device{d}
}

// Opener opens a Device when a Network runs. A Config holds Openers, so that a
// blueprint has nothing open in it.
type Opener func(context.Context) (Device, error)

// HeaderLen is the length of an untagged Ethernet header in bytes, TagLen that of
// a VLAN tag (IEEE 802.1Q).
const (
	HeaderLen = 14
	TagLen    = 4
)

// errNoRoom: a batch made for no frames at all was given to ReadBatch.
var errNoRoom = errors.New("tap: the batch takes no frame")

// Fits tells whether frame has a whole Ethernet header, and behind it (and behind
// one VLAN tag, if there is one) at most mtu bytes.
func Fits(frame []byte, mtu int) bool {
	if len(frame) < HeaderLen {
		return false
	}
	if tagged(frame) {
		mtu += TagLen
	}
	return len(frame) <= HeaderLen+mtu
}

// tagged looks for a C- or S-tag's TPID where the EtherType is.
func tagged(frame []byte) bool {
	t := uint16(frame[12])<<8 | uint16(frame[13])
	return t == 0x8100 || t == 0x88a8
}
