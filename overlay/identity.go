package overlay

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
)

// PeerID names a peer and certifies itself: it is the SHA-256 of the peer's
// public key (DER SubjectPublicKeyInfo). Whoever proves to hold the private key
// is that peer; no authority is needed. PeerIDs are ordered by their bytes.
type PeerID [32]byte

var idEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// String is the ID as 52 lower-case base32 characters (RFC 4648, no padding).
func (p PeerID) String() string { return strings.ToLower(idEncoding.EncodeToString(p[:])) }

// Short is the first 8 characters of String: for people, never for comparing.
func (p PeerID) Short() string { return p.String()[:8] }

// IsZero tells whether p is no peer at all.
func (p PeerID) IsZero() bool { return p == PeerID{} }

// Compare orders IDs; negative when p is the lower.
func (p PeerID) Compare(q PeerID) int { return bytes.Compare(p[:], q[:]) }

// ParsePeerID reads what String wrote; upper case is accepted.
func ParsePeerID(s string) (PeerID, error) {
	var p PeerID
	b, err := idEncoding.DecodeString(strings.ToUpper(s))
	if err != nil || len(b) != len(p) {
		return p, fmt.Errorf("overlay: %q is not a peer ID (want 52 characters of base32)", s)
	}
	p = PeerID(b)
	if p.String() != strings.ToLower(s) { // spare bits set: not what String writes
		return PeerID{}, fmt.Errorf("overlay: %q is not a peer ID (its last character cannot be)", s)
	}
	return p, nil
}

// MarshalText lets a PeerID stand in JSON.
func (p PeerID) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is the reverse of MarshalText.
func (p *PeerID) UnmarshalText(b []byte) error {
	v, err := ParsePeerID(string(b))
	if err == nil {
		*p = v
	}
	return err
}

// KeyID is the PeerID of a public key given as DER SubjectPublicKeyInfo.
func KeyID(spki []byte) PeerID { return sha256.Sum256(spki) }

// Identity is a node's private key (ECDSA on P-256, which DTLS stacks agree on)
// and the PeerID it proves. It is immutable and safe for concurrent use.
type Identity struct {
	key *ecdsa.PrivateKey
	id  PeerID
}

// NewIdentity makes a fresh identity.
func NewIdentity() (*Identity, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("overlay: new identity: %w", err)
	}
	return identityOf(k)
}

func identityOf(k *ecdsa.PrivateKey) (*Identity, error) {
	spki, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("overlay: identity: %w", err)
	}
	return &Identity{key: k, id: KeyID(spki)}, nil
}

// ID is the peer that this identity proves to be.
func (i *Identity) ID() PeerID { return i.id }

// Key is the private key. Transports sign with it; it must not be changed.
func (i *Identity) Key() *ecdsa.PrivateKey { return i.key }

// LoadIdentity reads the identity file at path (PEM, PKCS #8). A file that anybody
// but its owner can read or write is refused: it is no secret any more.
func LoadIdentity(path string) (*Identity, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("overlay: identity: %w", err)
	}
	defer f.Close()
	st, err := f.Stat() // of the open file: what is checked is what is read
	if err != nil {
		return nil, fmt.Errorf("overlay: identity: %w", err)
	}
	if m := st.Mode(); m.IsRegular() && runtime.GOOS != "windows" && m.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("overlay: identity %s can be read by others (mode %04o): make a new one, or chmod 600 if nobody has read it", path, m.Perm())
	}
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(f); err != nil {
		return nil, fmt.Errorf("overlay: identity: %w", err)
	}
	return parseIdentity(path, buf.Bytes())
}

func parseIdentity(path string, text []byte) (*Identity, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("overlay: identity %s holds no PEM block PRIVATE KEY", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("overlay: identity %s: %w", path, err)
	}
	ec, ok := k.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, fmt.Errorf("overlay: identity %s is not an ECDSA P-256 key", path)
	}
	return identityOf(ec)
}

// CreateIdentity makes a fresh identity and writes it to path, mode 0600. It never
// overwrites: an existing file is an error that matches fs.ErrExist.
func CreateIdentity(path string) (*Identity, error) {
	id, err := NewIdentity()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(id.key)
	if err != nil {
		return nil, fmt.Errorf("overlay: identity: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("overlay: identity: %w", err)
	}
	err = pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err2 := f.Close(); err == nil {
		err = err2
	}
	if err != nil {
		_ = os.Remove(path) // half a key is no key
		return nil, fmt.Errorf("overlay: identity: %w", err)
	}
	return id, nil
}

// OpenIdentity loads the identity at path, and creates it when there is none.
func OpenIdentity(path string) (*Identity, error) {
	id, err := LoadIdentity(path)
	if errors.Is(err, fs.ErrNotExist) {
		return CreateIdentity(path)
	}
	return id, err
}
