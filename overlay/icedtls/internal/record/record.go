// Package record is the format of the overlay's data records: one AEAD-sealed datagram
// each, under keys that a DTLS association exported. docs/protocol.md has the format byte by
// byte, test vectors, and the argument for its security.
//
//	 0      type        0xe1: outside of what RFC 7983 gives to STUN, DTLS, TURN and RTP
//	 1      epoch       of the keys, modulo 256
//	 2..3   zero
//	 4..7   session     the receiver's index; never STUN's magic cookie (RFC 8489, section 5)
//	 8..15  counter     of this key's records, from 0
//	16..    ciphertext and tag
//
// The header is authenticated. All numbers are big-endian.
package record

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
)

// Sizes in bytes.
const (
	HeaderLen = 16
	TagLen    = 16
	Overhead  = HeaderLen + TagLen
	// SecretLen is how much an association must export.
	SecretLen = 32
)

// Type is the first byte.
const Type = 0xe1

// Cookie is STUN's: no session has it as its index, so that nobody takes a record for STUN.
const Cookie = 0x2112a442

// MaxRecords is how many records one key may seal, and how many a receiver takes. Keys are
// changed long before; RFC 9147, section 4.5.3 has AES-GCM's bounds.
const MaxRecords = 1 << 28

// Errors of Open and Seal. They are never wrapped: they are counted, not read.
var (
	ErrMalformed = errors.New("record: malformed")
	ErrForged    = errors.New("record: not authentic")
	ErrReplayed  = errors.New("record: replayed, or too old")
	ErrSpent     = errors.New("record: the key has sealed all that it may")
)

// Role is an end of the DTLS association that the keys come from.
type Role uint8

// The two ends.
const (
	Client Role = iota
	Server
)

// label and the sender's role separate the keys of the two directions and of all else
// that is derived from the association.
func (r Role) label() string { return [...]string{"vias data 1 client", "vias data 1 server"}[r] }

// Header is what a record says before it is opened.
type Header struct {
	Epoch   uint8
	Session uint32
	Counter uint64
}

// Parse reads a datagram's header; false if it is no data record.
func Parse(datagram []byte) (h Header, ok bool) {
	if len(datagram) < Overhead || datagram[0] != Type || datagram[2] != 0 || datagram[3] != 0 {
		return Header{}, false
	}
	return Header{
		Epoch: datagram[1], Session: binary.BigEndian.Uint32(datagram[4:]), Counter: binary.BigEndian.Uint64(datagram[8:]),
	}, true
}

// Nonce is the memory of a nonce: whoever seals and opens has one of his own, since a local one
// would escape.
type Nonce [12]byte

// key is one direction's in one epoch.
type key struct {
	aead  cipher.AEAD
	iv    [12]byte
	nonce Nonce // of the record at hand
}

// newKey derives what sender seals with: HKDF-Expand of the exported secret (RFC 5869).
func newKey(secret []byte, sender Role) (key, error) {
	if len(secret) != SecretLen {
		return key{}, fmt.Errorf("record: a secret of %d bytes, want %d", len(secret), SecretLen)
	}
	const keyLen = 16 // AES-128
	out, err := hkdf.Expand(sha256.New, secret, sender.label(), keyLen+12)
	if err != nil {
		return key{}, fmt.Errorf("record: key: %w", err)
	}
	block, err := aes.NewCipher(out[:keyLen])
	if err != nil {
		return key{}, fmt.Errorf("record: key: %w", err)
	}
	k := key{iv: [12]byte(out[keyLen:])}
	if k.aead, err = cipher.NewGCM(block); err != nil {
		return key{}, fmt.Errorf("record: key: %w", err)
	}
	return k, nil
}

// setNonce is TLS 1.3's (RFC 8446, section 5.3): the counter, masked.
func (k *key) setNonce(n *Nonce, counter uint64) {
	*n = k.iv
	binary.BigEndian.PutUint64(n[4:], binary.BigEndian.Uint64(k.iv[4:])^counter)
}

// Sealer makes records of one epoch. It belongs to one goroutine at a time, but for
// Sealed.
type Sealer struct {
	key
	epoch   uint8
	session uint32
	next    atomic.Uint64
}

// NewSealer makes the Sealer of the end that is sender, for the peer's session.
func NewSealer(secret []byte, sender Role, epoch uint8, session uint32) (*Sealer, error) {
	k, err := newKey(secret, sender)
	if err != nil {
		return nil, err
	}
	return &Sealer{key: k, epoch: epoch, session: session}, nil
}

// Sealed is how many records were made.
func (s *Sealer) Sealed() uint64 { return s.next.Load() }

// Seal makes a record of the n bytes at mem[off:], in place: the header goes before them
// (off is HeaderLen at least) and the tag behind (TagLen bytes more). It allocates nothing.
// ErrSpent: the record was not made, and none will be.
func (s *Sealer) Seal(mem []byte, off, n int) ([]byte, error) {
	counter, err := s.Reserve(1)
	if err != nil {
		return nil, err
	}
	return s.SealAt(&s.nonce, counter, mem, off, n), nil
}

// Reserve takes the next counters for SealAt, and returns the first. ErrSpent: it took none.
func (s *Sealer) Reserve(records int) (first uint64, err error) {
	first = s.next.Load()
	if first+uint64(records) > MaxRecords {
		return 0, ErrSpent
	}
	s.next.Store(first + uint64(records))
	return first, nil
}

// SealAt is Seal with a counter that Reserve gave, which may be used once: the same twice would
// betray both texts. Several goroutines may seal at once.
func (s *Sealer) SealAt(nonce *Nonce, counter uint64, mem []byte, off, n int) []byte {
	out := mem[off-HeaderLen : off+n+TagLen]
	h := out[:HeaderLen]
	h[0], h[1], h[2], h[3] = Type, s.epoch, 0, 0
	binary.BigEndian.PutUint32(h[4:], s.session)
	binary.BigEndian.PutUint64(h[8:], counter)
	s.setNonce(nonce, counter)
	s.aead.Seal(out[HeaderLen:HeaderLen], nonce[:], out[HeaderLen:HeaderLen+n], h)
	return out
}

// Opener opens the records of one epoch. It belongs to one goroutine.
type Opener struct {
	key
	epoch  uint8
	window window
}

// NewOpener makes the Opener of the end that hears sender.
func NewOpener(secret []byte, sender Role, epoch uint8) (*Opener, error) {
	k, err := newKey(secret, sender)
	if err != nil {
		return nil, err
	}
	return &Opener{key: k, epoch: epoch}, nil
}

// Highest is one more than the highest counter that was opened.
func (o *Opener) Highest() uint64 { return o.window.next }

// Open appends to dst what a record holds. Whoever sees a record a second time gets
// ErrReplayed, and so does whoever sees one that is older than Window records. dst may be
// record[HeaderLen:HeaderLen], else they must not overlap. After an error the bytes behind
// dst are undefined. It allocates nothing if dst has room.
func (o *Opener) Open(dst, record []byte) ([]byte, error) {
	h, ok := Parse(record)
	if !ok || h.Epoch != o.epoch {
		return nil, ErrMalformed
	}
	if !o.Fresh(h.Counter) {
		return nil, ErrReplayed // before the work
	}
	out, err := o.Authentic(&o.nonce, dst, record)
	if err != nil {
		return nil, err
	}
	o.window.note(h.Counter)
	return out, nil
}

// Fresh tells whether a record's counter was not taken yet, and is not too old.
func (o *Opener) Fresh(counter uint64) bool { return o.window.fresh(counter) }

// Authentic is the work in the midst of Open: dst and what a record of this epoch holds, or
// ErrForged. Several goroutines may do it at once; Take then says, in order, which count.
func (o *Opener) Authentic(nonce *Nonce, dst, record []byte) ([]byte, error) {
	o.setNonce(nonce, binary.BigEndian.Uint64(record[8:]))
	out, err := o.aead.Open(dst, nonce[:], record[HeaderLen:], record[:HeaderLen])
	if err != nil {
		return nil, ErrForged
	}
	return out, nil
}

// Take is the end of Open: an authentic record counts if its counter is fresh, else ErrReplayed.
func (o *Opener) Take(counter uint64) error {
	if !o.window.fresh(counter) {
		return ErrReplayed
	}
	o.window.note(counter)
	return nil
}
