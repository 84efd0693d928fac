package natssignal

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/viasnet/vias/overlay"
)

// A client proves its PeerID in the field sig of NATS's CONNECT, which is made for nkeys
// and JWTs: length of key (1 byte) | key | signature over the nonce of the server's INFO.
// Behind the signature, whose ASN.1 says how long it is, may follow what the client shows.
// Clients send that field with a JWT only, so there is one, in name.
const (
	proofContext = "vias natssignal connect 1\x00"
	proofJWT     = "vias"
	maxProof     = 512 // characters of the field, without what is shown
	// maxShown: nats-server takes no CONNECT of more than 4,096 bytes.
	maxShown = 2048
)

var errNoProof = errors.New("natssignal: no proof of a peer's key")

func proofDigest(nonce []byte) []byte {
	h := sha256.New()
	h.Write([]byte(proofContext))
	h.Write(nonce)
	return h.Sum(nil)
}

// ProofOption makes a connection of nats.go prove the PeerID of id, and show what credential
// returns: see Config.Credential. Nil = nothing.
func ProofOption(id *overlay.Identity, credential func() []byte) nats.Option {
	return nats.UserJWT(
		func() (string, error) { return proofJWT, nil },
		func(nonce []byte) ([]byte, error) {
			if credential == nil {
				return Prove(id, nonce, nil)
			}
			return Prove(id, nonce, credential())
		},
	)
}

// Prove is the field sig, before NATS encodes it; see [Proof]. A credential that is too long is
// left out.
func Prove(id *overlay.Identity, nonce, credential []byte) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(id.Key().Public())
	if err != nil {
		return nil, fmt.Errorf("natssignal: public key: %w", err)
	}
	sig, err := ecdsa.SignASN1(rand.Reader, id.Key(), proofDigest(nonce))
	if err != nil {
		return nil, fmt.Errorf("natssignal: sign nonce: %w", err)
	}
	b := append(append([]byte{byte(len(spki))}, spki...), sig...)
	if len(credential) <= maxShown {
		b = append(b, credential...)
	}
	return b, nil
}

// Proof returns who a client proves to be by the field sig of its CONNECT, which answers
// the server's nonce, and what it shows besides, which proves nothing by itself; nil = nothing. It is for a server's
// custom authentication.
func Proof(sig string, nonce []byte) (peer overlay.PeerID, credential []byte, err error) {
	var nobody overlay.PeerID
	if len(nonce) == 0 || len(sig) > maxProof+base64.RawURLEncoding.EncodedLen(maxShown) {
		return nobody, nil, errNoProof
	}
	b, err := base64.RawURLEncoding.DecodeString(sig)
	if err != nil || len(b) == 0 || len(b) < 1+int(b[0]) {
		return nobody, nil, errNoProof
	}
	spki := b[1 : 1+int(b[0])]
	var signature asn1.RawValue
	credential, err = asn1.Unmarshal(b[1+len(spki):], &signature)
	if err != nil {
		return nobody, nil, errNoProof
	}
	k, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nobody, nil, errNoProof
	}
	pub, ok := k.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() || !ecdsa.VerifyASN1(pub, proofDigest(nonce), signature.FullBytes) {
		return nobody, nil, errNoProof
	}
	return overlay.KeyID(spki), credential, nil
}
