package sealed

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/viasnet/vias/overlay"
)

const (
	cardContext    = "vias sealed card 1\x00"
	messageContext = "vias sealed message 1\x00" // of signature and of encryption
	// keyLife is after how long our encryption key is made anew; the one before it is
	// good for as long again.
	keyLife = time.Hour
)

func kem() hpke.KEM { return hpke.DHKEM(ecdh.X25519()) }

// publicKey is a peer's encryption key.
type publicKey struct {
	hpke.PublicKey
	raw  [keyLength]byte
	name keyName
}

func newPublicKey(raw []byte) (*publicKey, error) {
	k, err := kem().NewPublicKey(raw)
	if err != nil {
		return nil, errMalformed
	}
	return &publicKey{PublicKey: k, raw: [keyLength]byte(raw), name: nameOf(raw)}, nil
}

// privateKey is an encryption key of ours.
type privateKey struct {
	hpke.PrivateKey
	raw  [keyLength]byte // the public one
	name keyName
	born int64
}

func newPrivateKey(k hpke.PrivateKey, now int64) *privateKey {
	raw := k.PublicKey().Bytes()
	return &privateKey{PrivateKey: k, raw: [keyLength]byte(raw), name: nameOf(raw), born: now}
}

// keyring holds our encryption keys: the one that we give away and the one before it.
type keyring struct{ young, old *privateKey }

func (r *keyring) renew(now int64) error {
	k, err := kem().GenerateKey()
	if err != nil {
		return fmt.Errorf("sealed: new key: %w", err)
	}
	r.young, r.old = newPrivateKey(k, now), r.young
	return nil
}

// current is the public key to give away.
func (r *keyring) current(now int64) ([keyLength]byte, error) {
	if now-r.young.born > keyLife.Microseconds() {
		if err := r.renew(now); err != nil {
			return [keyLength]byte{}, err
		}
	}
	return r.young.raw, nil
}

// named returns the key of that name; nil = we do not have it.
func (r *keyring) named(name keyName) *privateKey {
	for _, k := range []*privateKey{r.young, r.old} {
		if k != nil && k.name == name {
			return k
		}
	}
	return nil
}

// author signs as one identity.
type author struct {
	id       overlay.PeerID
	key      *ecdsa.PrivateKey
	identity []byte // DER SubjectPublicKeyInfo
}

func newAuthor(id *overlay.Identity) (*author, error) {
	spki, err := x509.MarshalPKIXPublicKey(id.Key().Public())
	if err != nil {
		return nil, fmt.Errorf("sealed: public key: %w", err)
	}
	return &author{id: id.ID(), key: id.Key(), identity: spki}, nil
}

func digest(context string, parts ...[]byte) []byte {
	h := sha256.New()
	h.Write([]byte(context))
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// verify checks that the holder of peer's key signed the digest.
func verify(peer overlay.PeerID, identity, digest, signature []byte) error {
	if overlay.KeyID(identity) != peer {
		return errNotOurs
	}
	k, err := x509.ParsePKIXPublicKey(identity)
	if err != nil {
		return errNotOurs
	}
	pub, ok := k.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() || !ecdsa.VerifyASN1(pub, digest, signature) {
		return errNotOurs
	}
	return nil
}

// cardDigest: every part but the last has one length, and so there is one way to read it.
func cardDigest(owner, asker overlay.PeerID, nonceKeyClock []byte) []byte {
	return digest(cardContext, owner[:], asker[:], nonceKeyClock)
}

// card is the packet that tells asker our encryption key and clock.
func (a *author) card(asker overlay.PeerID, nonce [nonceLength]byte, key [keyLength]byte, now int64) ([]byte, error) {
	b := append(head(kindCard), nonce[:]...)
	b = binary.BigEndian.AppendUint64(append(b, key[:]...), uint64(now))
	sig, err := ecdsa.SignASN1(rand.Reader, a.key, cardDigest(a.id, asker, b[headLength:]))
	if err != nil {
		return nil, fmt.Errorf("sealed: sign card: %w", err)
	}
	return slices.Concat(b, []byte{byte(len(a.identity))}, a.identity, sig), nil
}

// openCard reads a card (behind its head) that owner made for asker.
func openCard(owner, asker overlay.PeerID, b []byte) (key *publicKey, clock int64, err error) {
	r := reader{b: b, ok: true}
	signed := r.take(cardFixed - 1)
	identity := r.take(int(r.byte()))
	if !r.ok || len(r.b) > maxSignature {
		return nil, 0, errMalformed
	}
	if err := verify(owner, identity, cardDigest(owner, asker, signed), r.b); err != nil {
		return nil, 0, err
	}
	key, err = newPublicKey(signed[nonceLength : nonceLength+keyLength])
	return key, int64(binary.BigEndian.Uint64(signed[nonceLength+keyLength:])), err
}

// messageDigest names both ends, the key and the very encapsulation, so that a signature
// is good for one packet to one receiver: nobody can send it on as his own or to another.
func messageDigest(from, to overlay.PeerID, key, enc []byte, m *content) []byte {
	return digest(messageContext, from[:], to[:], key, enc, m.fields(), m.body)
}

// hpkeInfo ties the encryption to both ends.
func hpkeInfo(from, to overlay.PeerID) []byte {
	return slices.Concat([]byte(messageContext), from[:], to[:])
}

// seal encrypts m to the holder of key and signs it; it fills in what is missing in m.
func (a *author) seal(to overlay.PeerID, key *publicKey, m *content) ([]byte, error) {
	enc, sender, err := hpke.NewSender(key.PublicKey, hpke.HKDFSHA256(), hpke.AES128GCM(), hpkeInfo(a.id, to))
	if err != nil {
		return nil, fmt.Errorf("sealed: encapsulate: %w", err)
	}
	m.identity = a.identity
	m.signature, err = ecdsa.SignASN1(rand.Reader, a.key, messageDigest(a.id, to, key.raw[:], enc, m))
	if err != nil {
		return nil, fmt.Errorf("sealed: sign message: %w", err)
	}
	first := append(head(kindSealed), key.name[:]...)
	ciphertext, err := sender.Seal(first, m.append(nil))
	if err != nil {
		return nil, fmt.Errorf("sealed: encrypt: %w", err)
	}
	return slices.Concat(first, enc, ciphertext), nil
}

// open decrypts a packet of kindSealed, whose form was checked, and verifies who made it.
func (k *privateKey) open(from, to overlay.PeerID, packet []byte) (*content, error) {
	first, rest := packet[:sealedHead], packet[sealedHead:]
	enc, ciphertext := rest[:keyLength], rest[keyLength:]
	recipient, err := hpke.NewRecipient(enc, k.PrivateKey, hpke.HKDFSHA256(), hpke.AES128GCM(), hpkeInfo(from, to))
	if err != nil {
		return nil, errNotOurs
	}
	plain, err := recipient.Open(first, ciphertext)
	if err != nil {
		return nil, errNotOurs
	}
	m, err := parseContent(plain)
	if err != nil {
		return nil, err
	}
	if err := verify(from, m.identity, messageDigest(from, to, k.raw[:], enc, m), m.signature); err != nil {
		return nil, err
	}
	return m, nil
}
