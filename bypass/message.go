package bypass

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/viasnet/vias/tap"
)

// kind of a control message between two Hosts.
type kind uint8

// The messages of the transaction (txn.go) and of the proof (proof.go).
const (
	_ kind = iota
	msgOffer
	msgAccept
	msgConfirm
	msgDone
	msgReject
	msgClose
	msgCloseAck
	msgChallenge // lower to higher PeerID: prove the path with me
	msgResponse  // higher to lower: I listen
	msgReady     // lower to higher: so do I
	msgResult    // what my probes found
	msgRefuse    // I won't: reason
	msgWant      // higher to lower PeerID: challenge me, I am ready now
	msgAlive     // these transactions are active here: say Close for those that you do not know
	msgSync      // tell me which are
	msgCounters  // so many packets went out by these transactions (health.go)
	msgLeave     // leave this bypass: my Close will follow
	kinds
)

func (k kind) String() string {
	names := [kinds]string{"?", "offer", "accept", "confirm", "done", "reject", "close", "close-ack",
		"challenge", "response", "ready", "result", "refuse", "want", "alive", "sync", "counters", "leave"}
	if k >= kinds {
		return "?"
	}
	return names[k]
}

// message is every control message; unused fields are not sent. It travels on the
// authenticated link, so it is the peer's word, and no more: each field is checked
// against what this end knows.
type message struct {
	Kind kind `cbor:"0,keyasint"`
	// ID names the transaction (drawn by the initiator) or the round of proof.
	ID uint64 `cbor:"1,keyasint,omitempty"`
	// Epoch is the sender's run; PeerEpoch the one it believes the receiver to be in.
	Epoch     uint64 `cbor:"2,keyasint,omitempty"`
	PeerEpoch uint64 `cbor:"3,keyasint,omitempty"`
	Reason    Reason `cbor:"4,keyasint,omitempty"`
	// Seq and Ack number listings of counters: the sender's, and the last of the
	// receiver's that it had heard of when its own began.
	Seq uint64 `cbor:"5,keyasint,omitempty"`
	Ack uint64 `cbor:"6,keyasint,omitempty"`
	// Family is that of the path, and of all addresses; absent = IPv4.
	Family Family `cbor:"7,keyasint,omitempty"`

	// Transactions. Flow, MACs and addresses are as the sender sees them: Src and
	// Local are its own.
	Proto  Proto          `cbor:"10,keyasint,omitempty"`
	Src    netip.AddrPort `cbor:"11,keyasint,omitzero"`
	Dst    netip.AddrPort `cbor:"12,keyasint,omitzero"`
	SrcMAC tap.MAC        `cbor:"13,keyasint,omitzero"`
	DstMAC tap.MAC        `cbor:"14,keyasint,omitzero"`
	Local  netip.AddrPort `cbor:"15,keyasint,omitzero"`
	Remote netip.AddrPort `cbor:"16,keyasint,omitzero"`
	Proof  uint64         `cbor:"17,keyasint,omitempty"`
	IDs    []uint64       `cbor:"18,keyasint,omitempty"` // at most maxAlive
	Counts []uint64       `cbor:"19,keyasint,omitempty"` // packets, of each of IDs

	// Proof.
	Nonce  []byte     `cbor:"20,keyasint,omitempty"` // 32 random bytes
	Addr   netip.Addr `cbor:"21,keyasint,omitzero"`  // underlay address
	Ports  []uint16   `cbor:"22,keyasint,omitempty"` // where probes are answered, and sent from
	Domain string     `cbor:"23,keyasint,omitempty"`
	MTU    int        `cbor:"24,keyasint,omitempty"`
	TCP    bool       `cbor:"25,keyasint,omitempty"`
	RTT    int64      `cbor:"26,keyasint,omitempty"` // ns
	Lease  int        `cbor:"27,keyasint,omitempty"` // seconds
}

// maxMessage bounds what a peer can make us decode.
const maxMessage = 1024

// maxAlive transactions fit into one Alive, maxCounters into one Counters.
const (
	maxAlive    = 64
	maxCounters = 48
)

var errMessage = errors.New("bypass: malformed control message")

// codec encodes deterministically and decodes strictly.
type codec struct {
	enc cbor.EncMode
	dec cbor.DecMode
}

func newCodec() (*codec, error) {
	enc, err := cbor.EncOptions{Sort: cbor.SortCoreDeterministic}.EncMode()
	if err != nil {
		return nil, fmt.Errorf("bypass: codec: %w", err)
	}
	dec, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		MaxNestedLevels: 4, MaxArrayElements: maxAlive, MaxMapPairs: 32,
	}.DecMode()
	if err != nil {
		return nil, fmt.Errorf("bypass: codec: %w", err)
	}
	return &codec{enc, dec}, nil
}

func (c *codec) encode(m message) ([]byte, error) {
	b, err := c.enc.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("bypass: encode %v: %w", m.Kind, err)
	}
	return b, nil
}

// decode reads one message. What each kind needs is checked here, once: a nonce of
// full length, addresses that are there and of one family, a protocol we know.
func (c *codec) decode(b []byte) (message, error) {
	var m message
	if len(b) > maxMessage {
		return m, fmt.Errorf("%w: %d bytes", errMessage, len(b))
	}
	if err := c.dec.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%w: %w", errMessage, err)
	}
	if err := m.check(); err != nil {
		return m, fmt.Errorf("%w: %v: %w", errMessage, m.Kind, err)
	}
	return m, nil
}

func (m *message) family() Family {
	if m.Family == IPv6 {
		return IPv6
	}
	return IPv4
}

// fits tells whether a can be an address of the path's family.
func (m *message) fits(a netip.Addr) bool {
	return a.IsValid() && FamilyOf(a) == m.family() && !a.Is4In6() && a.Zone() == ""
}

// minMTU is what every link of a family takes (RFC 791, RFC 8200).
func minMTU(f Family) int {
	if f == IPv6 {
		return 1280
	}
	return 576
}

func (m *message) check() error {
	if m.Family != 0 && m.Family != IPv6 {
		return errors.New("family")
	}
	switch m.Kind {
	case msgOffer, msgAccept:
		switch {
		case m.Proto != TCP && m.Proto != UDP:
			return errors.New("protocol")
		case !m.fits(m.Src.Addr()) || !m.fits(m.Dst.Addr()), !m.fits(m.Local.Addr()) || !m.fits(m.Remote.Addr()):
			return errors.New("addresses")
		}
	case msgConfirm, msgDone, msgReject, msgClose, msgCloseAck, msgLeave, msgRefuse, msgResult, msgWant, msgAlive, msgSync:
	case msgChallenge, msgResponse:
		if len(m.Nonce) != 32 || !m.fits(m.Addr) || m.MTU < minMTU(m.family()) || m.MTU > 65535 || len(m.Domain) > 255 ||
			m.Lease < int(minLease/time.Second) || m.Lease > int(maxLease/time.Second) {
			return errors.New("nonce, address, MTU, domain or lease")
		}
		if m.Kind == msgResponse && len(m.Ports) != 2 {
			return errors.New("ports")
		}
	case msgCounters:
		if len(m.IDs) != len(m.Counts) || len(m.IDs) > maxCounters {
			return errors.New("counters")
		}
	case msgReady:
		if len(m.Ports) != 2 {
			return errors.New("ports")
		}
	default:
		return errors.New("unknown kind")
	}
	if m.Reason >= reasons {
		m.Reason = ReasonPeerFailed // a newer peer's reason
	}
	return nil
}
