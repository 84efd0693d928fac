package overlay

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/viasnet/vias/tap"
)

// Bounds of an entry.
const (
	MaxEntry     = 1024 // bytes of a signed entry
	MaxEntryIPs  = 16
	MaxEntryText = 255 // bytes of Name or Tag
	// MinEntryLife and MaxEntryLife bound Entry.Life: an entry that was withdrawn can be shown
	// for so long.
	MinEntryLife = time.Second
	MaxEntryLife = time.Hour
	// ClockSkew is by how much the clocks of two nodes may differ. An entry that is
	// older than its Life and this, or younger than this before its time, is not believed.
	ClockSkew = 2 * time.Minute
)

// Errors of entries that callers tell apart with errors.Is.
var (
	// ErrEntry: not an entry, or not one that its node signed for this network.
	ErrEntry = errors.New("overlay: bad directory entry")
	// ErrEntryTime: an entry that has expired, or comes from the future.
	ErrEntryTime = errors.New("overlay: directory entry from another time")
)

// Entry is an endpoint as its node publishes it.
type Entry struct {
	// Peer is the node that signed it.
	Peer PeerID
	// Sequence is higher in every later entry of Peer for MAC.
	Sequence uint64
	// Issued is when it was signed, by Peer's clock (whole milliseconds), and Life how long
	// it is valid from then.
	Issued time.Time
	Life   time.Duration

	MAC       tap.MAC
	IPs       []netip.Addr // in ascending order
	Name, Tag string
}

// Record is an entry and what its node signed.
type Record struct {
	Entry
	Signed []byte
}

// Keys are those under which an entry is found: its MAC's first, its IPs', its name's if it has one.
func (e Entry) Keys() []DirectoryKey {
	keys := make([]DirectoryKey, 0, 2+len(e.IPs))
	keys = append(keys, KeyMAC(e.MAC))
	for _, ip := range e.IPs {
		keys = append(keys, KeyIP(ip))
	}
	if e.Name != "" {
		keys = append(keys, KeyName(e.Name))
	}
	return keys
}

// CheckTime tells whether the entry may be believed at that time.
func (e Entry) CheckTime(now time.Time) error {
	age := now.Sub(e.Issued)
	if age < -ClockSkew || age > e.Life+ClockSkew {
		return fmt.Errorf("%w: issued %v ago for %v", ErrEntryTime, age.Round(time.Second), e.Life)
	}
	return nil
}

// check tells what is wrong with e, if anything. An entry that passes has one encoding.
func (e Entry) check() error {
	if e.MAC.IsZero() || e.MAC.IsMulticast() {
		return fmt.Errorf("%w: %v is no station's MAC address", ErrEntry, e.MAC)
	}
	if len(e.Name) > MaxEntryText || len(e.Tag) > MaxEntryText || len(e.IPs) > MaxEntryIPs {
		return fmt.Errorf("%w: too long", ErrEntry)
	}
	if e.Life < MinEntryLife || e.Life > MaxEntryLife {
		return fmt.Errorf("%w: a life of %v", ErrEntry, e.Life)
	}
	for i, ip := range e.IPs {
		if !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback() || ip.Zone() != "" || ip.Is4In6() {
			return fmt.Errorf("%w: %v is no station's IP address", ErrEntry, ip)
		}
		if i > 0 && e.IPs[i-1].Compare(ip) >= 0 {
			return fmt.Errorf("%w: addresses out of order", ErrEntry)
		}
	}
	return nil
}

// Numbers are big-endian; docs/directory.md has the format drawn.
const (
	entryMagic   = "VD"
	entryVersion = 1
	entryContext = "vias directory entry 1\x00"
	maxSPKI      = 160 // bytes of a public key; P-256 has 91
	maxSignature = 80  // bytes; ASN.1 of P-256 has 72 at most
)

// SignEntry makes the record of an entry of identity's, for a network of that name. Peer is
// filled in, IPs are sorted, and Issued and Life lose what is less than a millisecond.
func SignEntry(identity *Identity, network string, e Entry) (Record, error) {
	e.Peer = identity.ID()
	e.IPs = slices.Clone(e.IPs)
	slices.SortFunc(e.IPs, netip.Addr.Compare)
	e.Issued, e.Life = time.UnixMilli(e.Issued.UnixMilli()), e.Life.Truncate(time.Millisecond)
	if err := e.check(); err != nil {
		return Record{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(&identity.key.PublicKey)
	if err != nil {
		return Record{}, fmt.Errorf("overlay: sign entry: %w", err)
	}
	b := e.appendTo(nil, spki)
	sig, err := ecdsa.SignASN1(rand.Reader, identity.key, entryDigest(network, b))
	if err != nil {
		return Record{}, fmt.Errorf("overlay: sign entry: %w", err)
	}
	return Record{e, append(b, sig...)}, nil
}

// OpenEntry reads what SignEntry made for a network of that name. It verifies that the entry's
// Peer signed it, but not when: see Entry.CheckTime.
func OpenEntry(network string, signed []byte) (Record, error) {
	e, spki, n, err := parseEntry(signed)
	if err != nil {
		return Record{}, err
	}
	k, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return Record{}, fmt.Errorf("%w: key: %w", ErrEntry, err)
	}
	pub, ok := k.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return Record{}, fmt.Errorf("%w: the key is not ECDSA on P-256", ErrEntry)
	}
	if !ecdsa.VerifyASN1(pub, entryDigest(network, signed[:n]), signed[n:]) {
		return Record{}, fmt.Errorf("%w: bad signature, or of another network", ErrEntry)
	}
	return Record{e, signed}, nil
}

// entryDigest is what is signed: the network's name is in it, not in the entry.
func entryDigest(network string, body []byte) []byte {
	h := sha256.New()
	h.Write([]byte(entryContext))
	h.Write(binary.BigEndian.AppendUint16(nil, uint16(len(network))))
	h.Write([]byte(network))
	h.Write(body)
	return h.Sum(nil)
}

// appendTo appends all but the signature.
func (e Entry) appendTo(b, spki []byte) []byte {
	b = append(append(b, entryMagic...), entryVersion)
	b = append(append(b, byte(len(spki))), spki...)
	b = binary.BigEndian.AppendUint64(b, e.Sequence)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Issued.UnixMilli()))
	b = binary.BigEndian.AppendUint32(b, uint32(e.Life.Milliseconds()))
	b = append(b, e.MAC[:]...)
	b = append(b, byte(len(e.IPs)))
	for _, ip := range e.IPs {
		a := ip.AsSlice()
		b = append(append(b, byte(len(a))), a...)
	}
	for _, text := range []string{e.Name, e.Tag} {
		b = append(append(b, byte(len(text))), text...)
	}
	return b
}

// parseEntry reads all but the signature, which begins at n. There is one encoding of every entry:
// what is read is written again, and has to be the same.
func parseEntry(b []byte) (e Entry, spki []byte, n int, err error) {
	r := entryReader{b: b}
	head := r.take(len(entryMagic) + 1)
	if len(b) > MaxEntry || string(head) != entryMagic+string(rune(entryVersion)) {
		return Entry{}, nil, 0, fmt.Errorf("%w: not one, or of another version", ErrEntry)
	}
	spki = r.text()
	e.Sequence = r.number(8)
	issued, life := r.number(8), r.number(4)
	copy(e.MAC[:], r.take(len(e.MAC)))
	for range min(r.number(1), MaxEntryIPs+1) {
		ip, ok := netip.AddrFromSlice(r.text())
		r.bad = r.bad || !ok
		e.IPs = append(e.IPs, ip)
	}
	e.Name, e.Tag = string(r.text()), string(r.text())
	signature := len(b) - r.at
	if r.bad || len(spki) > maxSPKI || signature == 0 || signature > maxSignature || issued > maxMillis {
		return Entry{}, nil, 0, fmt.Errorf("%w: malformed", ErrEntry)
	}
	e.Issued, e.Life = time.UnixMilli(int64(issued)), time.Duration(life)*time.Millisecond
	e.Peer = KeyID(spki)
	if err := e.check(); err != nil {
		return Entry{}, nil, 0, err
	}
	if !bytes.Equal(e.appendTo(nil, spki), b[:r.at]) {
		return Entry{}, nil, 0, fmt.Errorf("%w: not its canonical form", ErrEntry)
	}
	return e, spki, r.at, nil
}

// maxMillis is the latest time in Unix milliseconds that is read: the year 9999.
const maxMillis = 253402300799999

// entryReader takes bytes off b; when there are not enough it is bad from then on.
type entryReader struct {
	b   []byte
	at  int
	bad bool
}

func (r *entryReader) take(n int) []byte {
	if r.bad || len(r.b)-r.at < n {
		r.bad = true
		return nil
	}
	t := r.b[r.at : r.at+n : r.at+n]
	r.at += n
	return t
}

// text takes a byte that is a length, and so many.
func (r *entryReader) text() []byte { return r.take(int(r.number(1))) }

// number takes one of n bytes, 8 at most.
func (r *entryReader) number(n int) (v uint64) {
	for _, c := range r.take(n) {
		v = v<<8 | uint64(c)
	}
	return v
}
