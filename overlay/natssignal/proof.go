package natssignal

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/viasnet/vias/overlay"
)

// A client proves its PeerID in the field sig of NATS's CONNECT, which is made for nkeys
// and JWTs: length of key (1 byte) | key | signature over the nonce of the server's INFO.
// Clients send that field with a JWT only, so there is one, in name.
const (
	proofContext = "vias natssignal connect 1\x00"
	proofJWT     = "vias"
	maxProof     = 512 // characters of the field
)

var errNoProof = errors.New("natssignal: no proof of a peer's key")

func proofDigest(nonce []byte) []byte {
	h := sha256.New()
	h.Write([]byte(proofContext))
	h.Write(nonce)
	return h.Sum(nil)
}

// ProofOption makes a connection of nats.go prove the PeerID of id.
func ProofOption(id *overlay.Identity) nats.Option {
	return nats.UserJWT(
		func() (string, error) { return proofJWT, nil },
		func(nonce []byte) ([]byte, error) { return Prove(id, nonce) },
	)
}

// Prove is the field sig, before NATS encodes it; see [Proof].
func Prove(id *overlay.Identity, nonce []byte) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(id.Key().Public())
	if err != nil {
		return nil, fmt.Errorf("natssignal: public key: %w", err)
	}
	sig, err := ecdsa.SignASN1(rand.Reader, id.Key(), proofDigest(nonce))
	if err != nil {
		return nil, fmt.Errorf("natssignal: sign nonce: %w", err)
	}
	return append(append([]byte{byte(len(spki))}, spki...), sig...), nil
}

// Proof returns who a client proves to be by the field sig of its CONNECT, which answers
// the server's nonce. It is for a server's custom authentication.
func Proof(sig string, nonce []byte) (overlay.PeerID, error) {
	var nobody overlay.PeerID
	if len(nonce) == 0 || len(sig) > maxProof {
		return nobody, errNoProof
	}
	b, err := base64.RawURLEncoding.DecodeString(sig)
	if err != nil || len(b) == 0 || len(b) < 1+int(b[0]) {
		return nobody, errNoProof
	}
	end := 1 + int(b[0])
	spki, signature := b[1:end], b[end:]
	k, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nobody, errNoProof
	}
	pub, ok := k.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() || !ecdsa.VerifyASN1(pub, proofDigest(nonce), signature) {
		return nobody, errNoProof
	}
	return overlay.KeyID(spki), nil
}
