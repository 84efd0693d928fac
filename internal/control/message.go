package control

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/fxamacker/cbor/v2"

	"github.com/viasnet/vias/internal/l2"
	"github.com/viasnet/vias/tap"
)

// Hello is the first message of a Session, in one segment.
type Hello struct {
	Version      uint32   `cbor:"1,keyasint"`
	Network      string   `cbor:"2,keyasint"`
	MTU          uint32   `cbor:"3,keyasint"` // of the device, in bytes
	Capabilities []string `cbor:"4,keyasint,omitempty"`
}

// Bounds of a Hello, so that it fits one segment.
const (
	MaxNetwork      = 255
	maxCapabilities = 8
	maxCapability   = 16
)

// AnnounceChunk is how many endpoints fit into one Announcement at least.
const AnnounceChunk = 64

// announcement is an l2.Announcement on the wire.
type announcement struct {
	Version uint64     `cbor:"1,keyasint"`
	Base    uint64     `cbor:"2,keyasint,omitempty"`
	Add     []endpoint `cbor:"3,keyasint,omitempty"`
	Remove  [][]byte   `cbor:"4,keyasint,omitempty"`
}

type endpoint struct {
	MAC  []byte   `cbor:"1,keyasint"`
	IPs  [][]byte `cbor:"2,keyasint,omitempty"`
	Name string   `cbor:"3,keyasint,omitempty"`
	Tag  string   `cbor:"4,keyasint,omitempty"`
}

// decoder is strict: no duplicate keys, tags, indefinite lengths or bad UTF-8, and
// sizes bounded before anything is allocated. Unknown keys are skipped: a later
// minor change may add some.
func decode(b []byte, v any) error {
	mode, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		MaxNestedLevels:  6,
		MaxArrayElements: l2.MaxAnnounced,
		MaxMapPairs:      16,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		UTF8:             cbor.UTF8RejectInvalid,
	}.DecMode()
	if err != nil {
		return err
	}
	return mode.Unmarshal(b, v)
}

func encodeHello(h Hello) ([]byte, error) {
	if len(h.Network) > MaxNetwork || len(h.Capabilities) > maxCapabilities {
		return nil, errors.New("control: hello too long")
	}
	for _, c := range h.Capabilities {
		if len(c) > maxCapability {
			return nil, errors.New("control: hello too long")
		}
	}
	return cbor.Marshal(h)
}

// DecodeHello reads a Hello.
func DecodeHello(b []byte) (Hello, error) {
	var h Hello
	if err := decode(b, &h); err != nil {
		return Hello{}, fmt.Errorf("%w: hello: %w", ErrProtocol, err)
	}
	return h, nil
}

// EncodeAnnouncement makes the body of a message on ChannelAnnounce.
func EncodeAnnouncement(a l2.Announcement) ([]byte, error) {
	w := announcement{Version: a.Version, Base: a.Base}
	for _, e := range a.Add {
		x := endpoint{MAC: e.MAC[:], Name: e.Name, Tag: e.Tag}
		for _, ip := range e.IPs {
			x.IPs = append(x.IPs, ip.AsSlice())
		}
		w.Add = append(w.Add, x)
	}
	for _, m := range a.Remove {
		w.Remove = append(w.Remove, m[:])
	}
	return cbor.Marshal(w)
}

// DecodeAnnouncement reads one. What an endpoint may be is l2's to check.
func DecodeAnnouncement(b []byte) (l2.Announcement, error) {
	var w announcement
	if err := decode(b, &w); err != nil {
		return l2.Announcement{}, fmt.Errorf("%w: announcement: %w", ErrProtocol, err)
	}
	a := l2.Announcement{Version: w.Version, Base: w.Base}
	for _, x := range w.Add {
		if len(x.MAC) != len(tap.MAC{}) || len(x.IPs) > l2.MaxIPs {
			return l2.Announcement{}, fmt.Errorf("%w: announcement: bad endpoint", ErrProtocol)
		}
		e := l2.Endpoint{MAC: tap.MAC(x.MAC), Name: x.Name, Tag: x.Tag}
		for _, p := range x.IPs {
			ip, ok := netip.AddrFromSlice(p)
			if !ok {
				return l2.Announcement{}, fmt.Errorf("%w: announcement: bad IP address", ErrProtocol)
			}
			e.IPs = append(e.IPs, ip)
		}
		a.Add = append(a.Add, e)
	}
	for _, m := range w.Remove {
		if len(m) != len(tap.MAC{}) {
			return l2.Announcement{}, fmt.Errorf("%w: announcement: bad MAC address", ErrProtocol)
		}
		a.Remove = append(a.Remove, tap.MAC(m))
	}
	return a, nil
}
