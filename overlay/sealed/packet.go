package sealed

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
)

// A packet is what the inner Signaler carries. All begin with magic, version and kind;
// numbers are big-endian; docs/signalling.md has them drawn.
const (
	magic   = "VS"
	version = 1

	kindAsk    = 1 // nonce
	kindCard   = 2 // nonce, key, clock, identity key behind its length, signature
	kindSealed = 3 // name of the receiver's key, encapsulated key, ciphertext
	kindStale  = 4 // name of a key

	headLength  = 4
	nonceLength = 16
	nameLength  = 8
	idLength    = 16
	keyLength   = 32 // X25519, both a key and an encapsulated one
	clockLength = 8
	tagLength   = 16 // AES-GCM

	sealedHead = headLength + nameLength // what is authenticated besides
	cardFixed  = nonceLength + keyLength + clockLength + 1
	// contentFixed is id, stamp, reply, clock, and the lengths of key, signature and body.
	contentFixed = idLength + clockLength + keyLength + clockLength + 1 + 1 + 2
	padding      = 256 // content is a multiple of it

	maxIdentity  = 160 // bytes of an identity key; P-256 has 91
	maxSignature = 80  // bytes; ASN.1 of P-256 has 72 at most
)

var (
	errMalformed   = errors.New("malformed packet")
	errNotOurs     = errors.New("not encrypted to us, or not signed by whom it should be")
	errReplayed    = errors.New("came before")
	errLate        = errors.New("from another time")
	errLimit       = errors.New("over a bound")
	errUnasked     = errors.New("nobody asked for it, or long ago")
	errNotAdmitted = errors.New("not admitted")
)

type keyName [nameLength]byte

// nameOf is how packets name an encryption key.
func nameOf(key []byte) keyName {
	h := sha256.Sum256(key)
	return keyName(h[:])
}

func head(kind byte) []byte { return append([]byte(magic), version, kind) }

// parsePacket checks a packet's form, as far as it can be without opening it.
func parsePacket(b []byte) (kind byte, rest []byte, err error) {
	if len(b) < headLength || string(b[:2]) != magic || b[2] != version {
		return 0, nil, errMalformed
	}
	kind, rest = b[3], b[headLength:]
	ok := false
	switch kind {
	case kindAsk:
		ok = len(rest) == nonceLength
	case kindCard:
		ok = len(rest) > cardFixed && len(rest) <= cardFixed+maxIdentity+maxSignature
	case kindSealed:
		n := len(rest) - nameLength - keyLength - tagLength
		ok = n > 0 && n%padding == 0
	case kindStale:
		ok = len(rest) == nameLength
	}
	if !ok {
		return 0, nil, errMalformed
	}
	return kind, rest, nil
}

func askPacket(nonce [nonceLength]byte) []byte { return append(head(kindAsk), nonce[:]...) }

func stalePacket(name keyName) []byte { return append(head(kindStale), name[:]...) }

// content is what is encrypted.
type content struct {
	id        [idLength]byte  // drawn
	stamp     int64           // when it was sent, by the receiver's clock, µs
	reply     [keyLength]byte // the sender's encryption key
	clock     int64           // the sender's clock, µs
	identity  []byte          // the sender's identity key, DER SubjectPublicKeyInfo
	signature []byte
	body      []byte
}

// fields are those that nobody derives from others.
func (m *content) fields() []byte {
	b := append([]byte(nil), m.id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(m.stamp))
	b = append(b, m.reply[:]...)
	return binary.BigEndian.AppendUint64(b, uint64(m.clock))
}

func (m *content) append(b []byte) []byte {
	begin := len(b)
	b = append(b, m.fields()...)
	b = append(append(b, byte(len(m.identity))), m.identity...)
	b = append(append(b, byte(len(m.signature))), m.signature...)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(m.body))), m.body...)
	if over := (len(b) - begin) % padding; over > 0 {
		b = append(b, make([]byte, padding-over)...)
	}
	return b
}

// parseContent reads what append wrote, and nothing else: padding is as little as
// possible, and zero. What it returns points into b.
func parseContent(b []byte) (*content, error) {
	r := reader{b: b, ok: true}
	m := &content{}
	copy(m.id[:], r.take(idLength))
	m.stamp = r.number()
	copy(m.reply[:], r.take(keyLength))
	m.clock = r.number()
	m.identity = r.take(int(r.byte()))
	m.signature = r.take(int(r.byte()))
	n := int(r.byte())<<8 | int(r.byte())
	m.body = r.take(n)
	if !r.ok || n > MaxMessage || len(m.identity) > maxIdentity || len(m.signature) > maxSignature || len(r.b) >= padding {
		return nil, errMalformed
	}
	for _, c := range r.b {
		if c != 0 {
			return nil, errMalformed
		}
	}
	return m, nil
}

// reader takes bytes off b; when there are not enough it is not ok any more.
type reader struct {
	b  []byte
	ok bool
}

func (r *reader) take(n int) []byte {
	if !r.ok || len(r.b) < n {
		r.ok = false
		return nil
	}
	t := r.b[:n:n]
	r.b = r.b[n:]
	return t
}

func (r *reader) byte() byte {
	if t := r.take(1); t != nil {
		return t[0]
	}
	return 0
}

func (r *reader) number() int64 {
	if t := r.take(clockLength); t != nil {
		return int64(binary.BigEndian.Uint64(t))
	}
	return 0
}
